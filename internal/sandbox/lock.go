package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockFile is the file in a sandbox's folder that its supervisor holds locked. When the sandbox has ended, its result
// is written there before the lock is let go: a waiter that has the file open reads it even if the folder is removed.
const lockFile = "lock"

// createLock makes the lock file of a new sandbox and takes it. The lock is an open-file-description lock (fcntl(2),
// F_OFD_SETLK): it belongs to the open file, so it outlives threads and ends with the last copy of the descriptor.
func createLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if ok, err := tryLock(f); err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("lock a new sandbox folder: %w", err), f.Close())
	}
	return f, nil
}

// tryLock takes the lock if it is free.
func tryLock(f *os.File) (bool, error) {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

// waitLock waits until the supervisor is gone.
func waitLock(f *os.File) error {
	for {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// lockEnd tells when the supervisor is gone. It waits on a descriptor of its own for as long as that takes, also when nobody listens any more.
func lockEnd(f *os.File) (<-chan error, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("wait for the end of a sandbox: %w", err)
	}
	own, ended := os.NewFile(uintptr(fd), f.Name()), make(chan error, 1) //nolint:gosec // a file descriptor
	go func() {
		err := waitLock(own)
		ended <- errors.Join(err, own.Close())
	}()
	return ended, nil
}
