package image

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// detachedLoop mounts through a loop device (loop(4)). LO_FLAGS_AUTOCLEAR frees the device when the mount is gone.
func detachedLoop(f *os.File, label string) (int, error) {
	loop, err := attachLoop(f)
	if err != nil {
		return -1, fmt.Errorf("the kernel mounts no file from the file system of the store itself, and there is no loop device to do it (`losetup -a` lists those in use, the module is loop): %w", err)
	}
	mnt, err := detached(loop.Name(), label)
	// From here on the mount keeps the device, or nothing does, and it is free again.
	return mnt, errors.Join(err, loop.Close())
}

func attachLoop(f *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close() //nolint:errcheck // an ioctl's
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE) //nolint:gosec // a file descriptor
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(f.Fd()), Size: 4096, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}} //nolint:gosec // a file descriptor
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)                                                                                     //nolint:gosec // a file descriptor
		if err == nil {
			return loop, nil
		}
		_ = loop.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else has taken it in between
			return nil, err
		}
	}
}
