package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"brig/internal/isolation/native"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sealedEnv tells the second execution that it is the sealed one, and of which file. The environment is the engine's, not the container's.
const sealedEnv = "_BRIG_OCI_SEALED"

// sealFor seals the runtime against a container that could write to its file. Most ids of a user namespace cannot: there
// nothing has to be done.
func (a *app) sealFor(spec *specs.Spec) error {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return fmt.Errorf("seal the runtime: %w", err)
	}
	if a.sealed || os.Getenv(sealedEnv) == "" && !native.MayWrite(spec, &st) {
		return nil
	}
	return a.seal()
}

// seal executes this program again from a read-only overlay of its folder. A container whose program is a link to
// /proc/self/exe executes the runtime itself, and its root may then open that file for writing
// (CVE-2019-5736): it meets the overlay, which has no upper layer to write to, and never the host's file. The pages are the same, so
// unlike a copy in memory it costs no memory; it costs one more execve. An unprivileged user, who can make no overlay, gets
// the copy.
func (a *app) seal() error {
	if a.sealed {
		return nil // `run` creates and starts
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("seal the runtime: %w: it needs a /proc of its own PID namespace", err)
	}
	if os.Getenv(sealedEnv) != "" {
		if err := checkSealed(); err != nil {
			return fmt.Errorf("seal the runtime: %s is set, and %s is not sealed: unset it: %w", sealedEnv, self, err)
		}
		a.sealed, a.beside = true, filepath.Dir(os.Getenv(sealedEnv))
		return os.Unsetenv(sealedEnv)
	}
	// EACCES: we are root of a user namespace only, and its containers may no more than we. EROFS: the mount that it was executed
	// from is read-only, and a container has no path by which it could change that.
	if err := unix.Access("/proc/self/exe", unix.W_OK); errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
		a.sealed = true
		return nil
	}
	fd, err := -1, error(nil)
	if os.Geteuid() == 0 {
		fd, err = overlayOf(self)
	}
	if fd < 0 { // no right to mount, no overlayfs, or one that cannot lie on this folder's file system
		copied, again := sealedCopy(self)
		if err = errors.Join(err, again); again == nil {
			fd, err = copied, nil
		}
	}
	if err != nil {
		return fmt.Errorf("seal the runtime, so that no container can write to %s (CVE-2019-5736): %w", self, err)
	}
	if os.Geteuid() == 0 {
		a.debugf("runc exeseal: using overlayfs for sealed /proc/self/exe")
	}
	a.debugf("runc exeseal: using /proc/self/exe clone")
	env := append(os.Environ(), sealedEnv+"="+self)
	err = unix.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), append([]string{os.Args[0]}, a.args...), env)
	return fmt.Errorf("seal the runtime: execute it again: %w", err)
}

// checkSealed looks whether this program is what seal executes: anybody may set a variable.
func checkSealed() error {
	if errors.Is(unix.Access("/proc/self/exe", unix.W_OK), unix.EROFS) {
		return nil
	}
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err == nil && seals&unix.F_SEAL_WRITE == 0 {
		err = errors.New("the file has no seals")
	}
	return err
}

// overlayOf opens the file through an overlay of its folder that is mounted nowhere.
func overlayOf(file string) (int, error) {
	dir, base := filepath.Split(file)
	if strings.ContainsAny(dir, `:\,`) { // they mean something in lowerdir
		return -1, fmt.Errorf("its folder %q has a character that overlayfs cannot take; install it elsewhere", dir)
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen overlay: %w", err)
	}
	defer unix.Close(fs) //nolint:errcheck // a context
	// Without an upper layer overlayfs wants two lower ones. The second is a folder that is always there, and has no mounts in
	// it: in a user namespace those are locked, and overlayfs may not look beneath them.
	for _, o := range [][2]string{{"source", "brig-oci"}, {"lowerdir", filepath.Clean(dir) + ":/sys/class"}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("overlay %s=%s: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("make an overlay of %s: %w", dir, err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, fmt.Errorf("mount an overlay of %s: %w", dir, err)
	}
	defer unix.Close(mnt) //nolint:errcheck // the file holds the mount
	return unix.Openat(mnt, base, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
}

// sealedCopy is a copy of the file in RAM. It is to be executed, and stays open in this process.
func sealedCopy(file string) (int, error) {
	from, err := os.Open(file)
	if err != nil {
		return -1, err
	}
	defer from.Close() //nolint:errcheck // read only
	to, err := native.SealedCopy(from)
	if err != nil {
		return -1, err
	}
	fd, err := unix.FcntlInt(to.Fd(), unix.F_DUPFD_CLOEXEC, 3) // the first belongs to a file that may be collected
	return fd, errors.Join(err, to.Close())
}
