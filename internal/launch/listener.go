package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of struct seccomp_notif and seccomp_notif_resp (linux/seccomp.h): they are part of the ioctl numbers.
const (
	sizeofNotif     = 80
	sizeofNotifResp = 24
)

// LetOneProgram answers a filter that asks before every execve: those of the launch program, one for each folder of PATH,
// go through; when one has succeeded the listener is closed, and the kernel answers all later ones with ENOSYS. It takes
// the place of WaitExec, and owns the listener.
//
// The control socket tells the two apart: it is closed by the execve that succeeds, before the first instruction of the
// new program.
func (c *Child) LetOneProgram(listener *os.File) error {
	defer listener.Close() //nolint:errcheck // closing is what ends it
	for {
		fds := []unix.PollFd{{Fd: int32(c.ctl.Fd()), Events: unix.POLLIN}, {Fd: int32(listener.Fd()), Events: unix.POLLIN}} //nolint:gosec // file descriptors
		if _, err := unix.Poll(fds, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return fmt.Errorf("wait for the program: %w", err)
		}
		// Asked again now that a question is there: the poll above may have looked at the socket too early.
		if _, err := unix.Poll(fds[:1], 0); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the program: %w", err)
		}
		if fds[0].Revents != 0 {
			return c.WaitExec()
		}
		if err := letThrough(listener); err != nil {
			return err
		}
	}
}

// letThrough answers one question with yes. A process that is gone by then asks nothing any more.
func letThrough(listener *os.File) error {
	var ask [sizeofNotif]byte // must be zero
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, ask[:]); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
			return nil
		}
		return fmt.Errorf("hear what the filter asks: %w", err)
	}
	var answer [sizeofNotifResp]byte
	copy(answer[:8], ask[:8]) // the id
	binary.NativeEndian.PutUint32(answer[20:], unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, answer[:]); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("answer the filter: %w", err)
	}
	return nil
}

// CheckListener says whether a filter can have a listener, by an operation that came with it.
func CheckListener() error {
	var sizes [6]byte // struct seccomp_notif_sizes, three 16-bit numbers
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(&sizes)))
	if errno != 0 {
		return fmt.Errorf("seccomp: this kernel's filters cannot ask a listener (SECCOMP_RET_USER_NOTIF, Linux 5.0), or a filter around Brig hides it: %w", errno)
	}
	return nil
}

func ioctl(f *os.File, request uintptr, data []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(unsafe.SliceData(data))))
	if errno != 0 {
		return errno
	}
	return nil
}
