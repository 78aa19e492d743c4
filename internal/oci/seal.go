package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sealedEnv tells the second execution that it is the sealed one. The environment is the engine's, not the container's.
const sealedEnv = "_BRIG_OCI_SEALED"

// seal executes this program again from a read-only overlay of its folder. A container whose program is a link to
// /proc/self/exe executes the runtime itself, and without a user namespace its root may then open that file for writing
// (CVE-2019-5736): it meets the overlay, which has no upper layer to write to, and never the host's file. The pages are the same, so
// unlike a copy in memory it costs no memory; it costs one more execve.
func seal(args []string) error {
	if os.Geteuid() != 0 {
		return nil // an unprivileged user's containers have user namespaces
	}
	if os.Getenv(sealedEnv) != "" {
		return os.Unsetenv(sealedEnv)
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("seal the runtime: %w", err)
	}
	if errors.Is(unix.Access(self, unix.W_OK), unix.EACCES) {
		return nil // we are root of a user namespace only, and its containers may no more than we
	}
	fd, err := overlayOf(self)
	if err != nil {
		return fmt.Errorf("seal the runtime, so that no container can write to %s (CVE-2019-5736): %w", self, err)
	}
	env := append(os.Environ(), sealedEnv+"=1")
	err = unix.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), append([]string{os.Args[0]}, args...), env)
	return fmt.Errorf("seal the runtime: execute it again: %w", err)
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
