package oci

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// closeInherited closes what the caller left open beyond the standard streams and the files it passes on. The container's process
// is a child of this one and waits for its start, maybe for ever, with all that is open here: a lock of the caller's, or the end of
// a pipe that somebody reads to its end. Files of this program's own are close-on-exec, which tells them apart.
func closeInherited(preserve int) error {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // read only
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd < 3+preserve {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 { //nolint:gosec // a file descriptor
			_ = unix.Close(fd)
		}
	}
	return nil
}
