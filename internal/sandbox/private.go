package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"

	"brig/internal/isolation/native"

	"golang.org/x/sys/unix"
)

// A checkpoint's folder may lie in a volume, where root of a guest writes as the owner of the files does. So nothing that is hashed for its
// manifest, or was held against it, is in such a file: a state is saved into files without a name, which get theirs when their digests are
// known, and is gone on from by way of a copy that nobody else can reach. A lease (F_SETLEASE of fcntl(2)) would need no copy, but ends after
// 45 seconds when somebody writes, with the kernel in the middle of its reading, and not every file system has it.

// smallState is how large a copy in RAM may be; a larger one is of the file system's, which may have it for nothing (FICLONE).
const smallState = 64 << 20

// unnamed makes a file in folder that has no name, and is gone with its last descriptor if it gets none.
func unnamed(folder *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(folder.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600) //nolint:gosec // a file descriptor
	if err != nil {
		return nil, fmt.Errorf("make a file without a name (O_TMPFILE) in %s: %w", folder.Name(), err)
	}
	return os.NewFile(uintptr(fd), "unnamed"), nil //nolint:gosec // a file descriptor
}

// name gives such a file its name.
func name(f, folder *os.File, to string) error {
	err := unix.Linkat(unix.AT_FDCWD, procName(f), int(folder.Fd()), to, unix.AT_SYMLINK_FOLLOW) //nolint:gosec // a file descriptor
	if err != nil {
		return fmt.Errorf("name the file %s: %w", to, err)
	}
	return nil
}

func procName(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) } //nolint:gosec // a file descriptor

// private copies a file of folder, of that size, to where nobody else can change it, and gives the copy, to be read from its start, with its digest.
func private(folder, f *os.File, size int64) (_ *os.File, sum string, err error) {
	var c *os.File
	if size > smallState {
		c, err = unnamed(folder)
	}
	if c == nil { // a file system that is read-only, or has no such files, is one with which RAM has to do
		c, err = sealable()
	}
	if err != nil {
		return nil, "", err
	}
	h := sha256.New()
	if err = copyInto(c, f, size, h); err == nil {
		err = native.Seal(c)
		if errors.Is(err, unix.EINVAL) && size > smallState {
			err = nil // on disk there are none
		}
	}
	if err != nil {
		return nil, "", errors.Join(err, c.Close())
	}
	r, err := os.Open(procName(c)) // which cannot be written
	return r, hex.EncodeToString(h.Sum(nil)), errors.Join(err, c.Close())
}

// sealable makes a file in RAM (memfd_create(2)).
func sealable() (*os.File, error) {
	fd, err := unix.MemfdCreate("checkpoint", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	return os.NewFile(uintptr(fd), "checkpoint"), nil //nolint:gosec // a file descriptor
}

// copyInto copies size bytes of f, and no others, and hashes what the copy has.
func copyInto(c, f *os.File, size int64, h hash.Hash) error {
	if err := unix.IoctlFileClone(int(c.Fd()), int(f.Fd())); err == nil { //nolint:gosec // file descriptors
		if n, err := io.Copy(h, io.NewSectionReader(c, 0, 1<<62)); err != nil || n != size {
			return errors.Join(errChanged, err)
		}
		return nil
	}
	n, err := io.Copy(io.MultiWriter(c, h), io.NewSectionReader(f, 0, size))
	if err == nil && n != size {
		err = errChanged
	}
	return err
}

// errChanged is a file that is not what was saved.
var errChanged = errors.New("it was changed since, or is damaged")
