package fsverity

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is a file system, or a kernel, without fs-verity.
var ErrUnsupported = errors.New("the file system has no fs-verity")

// Enable has the kernel build the tree of f, which is open for reading only, and hold the file to it for good: it cannot be
// written any more. That nobody has it open for writing is a condition (ETXTBSY). A file that has it already is no error.
func Enable(f *os.File) error {
	arg := unix.FsverityEnableArg{Version: 1, Hash_algorithm: unix.FS_VERITY_HASH_ALG_SHA256, Block_size: blockSize}
	err := ioctl(f, unix.FS_IOC_ENABLE_VERITY, unsafe.Pointer(&arg))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("enable fs-verity for %s: %w", f.Name(), err)
	}
	return nil
}

// Measure gives the digest that the kernel holds the file to. A file without one is ENODATA.
func Measure(f *os.File) ([32]byte, error) {
	// struct fsverity_digest, and room for the digest behind it.
	arg := struct {
		unix.FsverityDigest
		digest hash
	}{FsverityDigest: unix.FsverityDigest{Size: uint16(len(hash{}))}}
	if err := ioctl(f, unix.FS_IOC_MEASURE_VERITY, unsafe.Pointer(&arg)); err != nil {
		return hash{}, fmt.Errorf("measure fs-verity of %s: %w", f.Name(), err)
	}
	if arg.Algorithm != unix.FS_VERITY_HASH_ALG_SHA256 || int(arg.Size) != len(arg.digest) {
		return hash{}, fmt.Errorf("measure fs-verity of %s: it has a digest of algorithm %d, not SHA-256", f.Name(), arg.Algorithm)
	}
	return arg.digest, nil
}

// ioctl is what x/sys/unix has no function for. A file system without fs-verity does not know the request (ENOTTY), and one that
// could have it says EOPNOTSUPP.
func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	runtime.KeepAlive(f)
	switch errno {
	case 0:
		return nil
	case unix.ENOTTY, unix.EOPNOTSUPP:
		return fmt.Errorf("%w: %w", ErrUnsupported, errno)
	}
	return errno
}
