package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"brig/internal/fault"
	"brig/internal/mac"
	"brig/internal/mac/selinux"

	"golang.org/x/sys/unix"
)

// ErrNeedsRoot says that the kernel lets only root mount an image: EROFS cannot be mounted in a user namespace, since a
// hostile image could reach the kernel's code for it.
var ErrNeedsRoot = errors.New("only root may mount an image's EROFS file system; run brig as root, or give a folder with --rootfs")

const mountFlags = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// mountPath is where an EROFS image is mounted. Its name tells the file, as it was when it was checked: a mount of another file, or of
// what it was before somebody touched it, is never taken for it.
func (s *Store) mountPath(d Digest, id identity) string {
	return s.mounts + "/" + d.Hex() + "." + strconv.FormatUint(id.Device, 16) + "-" + strconv.FormatUint(id.Inode, 16) + "-" + strconv.FormatInt(id.Changed, 16)
}

// Mount gives the folder where the image's root file system is, mounted read-only, without setuid and without devices. It
// stays mounted for the next sandbox until the image is pruned: one mount, and one page cache, serves all of them. The
// folder is root's alone; a sandbox gets a copy of the mount with ids of its own.
func (i *Image) Mount() (string, error) {
	s := i.store
	f, id, err := s.openRoot(i.record)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	dir, label := s.mountPath(i.Digest, id), imageLabel()
	if label != "" {
		dir += labelled
	}
	if mounted(dir) { // so this very file was checked, since the machine has started
		return dir, nil
	}
	if os.Geteuid() != 0 {
		return "", ErrNeedsRoot
	}
	if err := s.confirm(f, id, i.record); err != nil {
		return "", err
	}
	l, err := s.lockMounts()
	if err != nil {
		return "", fmt.Errorf("mount image %s: %w", i.Ref, err)
	}
	defer l.release()
	if mounted(dir) {
		return dir, nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("mount image %s: %w", i.Ref, err)
	}
	fault.Point("before the mount")
	if err := mountFile(f, dir, label); err != nil {
		return "", fmt.Errorf("mount image %s from %s: %w", i.Ref, f.Name(), errors.Join(err, remove(dir)))
	}
	fault.Point("mounted")
	return dir, nil
}

// labelled ends the name of a mount whose files have SELinux's label for images: one that was made before Brig's policy module was
// loaded has not, and is another.
const labelled = "-labelled"

// imageLabel is the SELinux label for the files of an image, which bring none of their own; "" where the policy has none for it.
func imageLabel() string {
	if !mac.ReadHost().Module {
		return ""
	}
	return selinux.Image
}

// storeLink is a link beside the mounts of a store that is not the machine's: it tells where the store is.
const storeLink = "store"

// lockMounts makes the folder of the mounts, and locks it: mounts come and go one at a time. On the way to it, which leads to files of
// every id and mode, nobody but root may go.
func (s *Store) lockMounts() (*lock, error) {
	l, err := acquire(s.mounts, unix.LOCK_EX, func(path string) (*os.File, error) {
		for {
			if err := os.MkdirAll(path, 0o700); err != nil {
				return nil, err
			}
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
			if !errors.Is(err, fs.ErrNotExist) { // else somebody has removed it, which was empty
				return f, err
			}
		}
	})
	if err != nil {
		return nil, err
	}
	err = os.Chmod(mountDir, 0o700)
	if err == nil && s.mounts != mountDir {
		err = s.leaveLink()
	}
	if err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

// leaveLink says whose the mounts are.
func (s *Store) leaveLink() error {
	link := s.mounts + "/" + storeLink
	if at, err := os.Readlink(link); err == nil && at == s.dir {
		return nil
	}
	if err := os.RemoveAll(link); err != nil {
		return err
	}
	return os.Symlink(s.dir, link)
}

// mounted tells whether an EROFS file system is mounted at a folder.
func mounted(dir string) bool {
	var st unix.Statx_t
	var sfs unix.Statfs_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 && unix.Statfs(dir, &sfs) == nil && int64(sfs.Type)&0xffffffff == unix.EROFS_SUPER_MAGIC_V1 //nolint:unconvert // 32 bits, and negative, elsewhere
}

// mountFile mounts an EROFS image at a folder: from the file where the kernel can (since Linux 6.12), else through a loop
// device that goes away with the mount.
func mountFile(f *os.File, dir, label string) error {
	source := "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) //nolint:gosec // a file descriptor
	mnt, err := detached(source, label)
	if errors.Is(err, unix.ENOTBLK) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		mnt, err = detachedLoop(f, label)
	}
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("this kernel has no EROFS (the module erofs, CONFIG_EROFS_FS): %w", err)
	}
	if err != nil {
		return err
	}
	defer unix.Close(mnt) //nolint:errcheck // the mount is elsewhere by then
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach it to %s: %w", dir, err)
	}
	return nil
}

// detached makes a mount that is nowhere yet.
func detached(source, label string) (int, error) {
	fsfd, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen erofs: %w", err)
	}
	defer unix.Close(fsfd) //nolint:errcheck // a configuration
	if err := unix.FsconfigSetString(fsfd, "source", source); err != nil {
		return -1, fmt.Errorf("fsconfig source: %w", err)
	}
	if err := unix.FsconfigSetFlag(fsfd, "ro"); err != nil {
		return -1, fmt.Errorf("fsconfig ro: %w", err)
	}
	if label != "" {
		if err := unix.FsconfigSetString(fsfd, "context", label); err != nil {
			return -1, fmt.Errorf("fsconfig context=%s: %w", label, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, fmt.Errorf("fsconfig create: %w", err)
	}
	mnt, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, mountFlags)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return mnt, nil
}

// unmount takes an image's mounts away; what sandboxes have of them stays theirs. The caller knows that nobody is about to copy one.
func (s *Store) unmount(d Digest) error {
	return s.eachMount(func(m Digest) bool { return m == d })
}

// eachMount unmounts those images that unused takes.
func (s *Store) eachMount(unused func(Digest) bool) error {
	if os.Geteuid() != 0 || !exists(s.mounts) { // who is not root has nothing mounted
		return nil
	}
	l, err := s.lockMounts()
	if err != nil {
		return err
	}
	defer l.release()
	names, err := os.ReadDir(s.mounts)
	if err != nil {
		return err
	}
	left := 0
	for _, e := range names {
		hex, _, isMount := strings.Cut(e.Name(), ".")
		d, err := ParseDigest(algorithm + hex)
		switch {
		case err != nil || !isMount:
		case !unused(d):
			left++
		default:
			if err := unmountDir(s.mounts + "/" + e.Name()); err != nil {
				return err
			}
		}
	}
	if left > 0 || s.mounts == mountDir {
		return nil
	}
	_ = os.Remove(s.mounts + "/" + storeLink)
	_ = os.Remove(s.mounts)
	return nil
}

func unmountDir(dir string) error {
	for mounted(dir) {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	fault.Point("unmounted")
	return remove(dir)
}

// forsaken unmounts the images of stores that were removed, or put elsewhere: nobody would look for those mounts again, and each keeps a
// file on the disk.
func forsaken() error {
	names, err := os.ReadDir(mountDir)
	if err != nil {
		return nil //nolint:nilerr // nothing was ever mounted, or this is not root
	}
	var errs []error
	for _, e := range names {
		if !strings.HasPrefix(e.Name(), "of-") {
			continue
		}
		mounts := filepath.Join(mountDir, e.Name())
		dir, err := os.Readlink(mounts + "/" + storeLink)
		if err != nil {
			continue // its store is just making or removing it
		}
		other := Store{dir: dir, mounts: mounts}
		var st unix.Stat_t
		if unix.Stat(dir, &st) == nil && mountsOf(&st) == mounts {
			continue
		}
		errs = append(errs, other.eachMount(func(Digest) bool { return true }))
	}
	return errors.Join(errs...)
}
