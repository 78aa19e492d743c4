package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"brig/internal/fault"

	"golang.org/x/sys/unix"
)

// ErrNeedsRoot says that the kernel lets only root mount an image: EROFS cannot be mounted in a user namespace, since a
// hostile image could reach the kernel's code for it.
var ErrNeedsRoot = errors.New("only root may mount an image's EROFS file system; run brig as root, or give a folder with --rootfs")

const mountFlags = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

func (s *Store) mountPath(d Digest) string { return filepath.Join(s.mounts, d.Hex()) }

// Mount gives the folder where the image's root file system is, mounted read-only, without setuid and without devices. It
// stays mounted for the next sandbox until the image is pruned: one mount, and one page cache, serves all of them. The
// folder is root's alone; a sandbox gets a copy of the mount with ids of its own.
func (i *Image) Mount() (string, error) {
	f, err := i.store.openRoot(i.record)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	dir := i.store.mountPath(i.Digest)
	if mounted(dir) {
		return dir, nil
	}
	if os.Geteuid() != 0 {
		return "", ErrNeedsRoot
	}
	l, err := i.store.acquire("mount-"+i.Digest.Hex(), unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer l.release()
	if mounted(dir) {
		return dir, nil
	}
	if err := makeMountPoint(dir); err != nil {
		return "", fmt.Errorf("mount image %s: %w", i.Ref, err)
	}
	fault.Point("before the mount")
	if err := mountFile(f, dir); err != nil {
		return "", fmt.Errorf("mount image %s from %s: %w", i.Ref, f.Name(), err)
	}
	fault.Point("mounted")
	return dir, nil
}

// makeMountPoint makes the folder. On the way to it, which leads to files of every id and mode, nobody but root may go.
func makeMountPoint(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	for range 10 { // somebody may be removing the folder above, which was empty
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return err
	}
	return os.Chmod(mountDir, 0o700)
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
func mountFile(f *os.File, dir string) error {
	source := "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) //nolint:gosec // a file descriptor
	mnt, err := detached(source)
	if errors.Is(err, unix.ENOTBLK) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		mnt, err = detachedLoop(f)
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
func detached(source string) (int, error) {
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
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, fmt.Errorf("fsconfig create: %w", err)
	}
	mnt, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, mountFlags)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return mnt, nil
}

// unmount takes an image's mount away; what sandboxes have of it stays theirs.
func (s *Store) unmount(d Digest) error {
	dir := s.mountPath(d)
	// Who may not look into root's folder has nothing mounted there.
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	l, err := s.acquire("mount-"+d.Hex(), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer l.release()
	for mounted(dir) {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	fault.Point("unmounted")
	if err := remove(dir); err != nil {
		return err
	}
	if s.mounts != mountDir {
		_ = os.Remove(s.mounts) // when it was the last
	}
	return nil
}
