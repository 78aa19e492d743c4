package launch

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FilterOf reads the youngest seccomp filter of a process back from the kernel, as an array of struct sock_filter in the
// machine's byte order. The process is stopped for an instant (PTRACE_SECCOMP_GET_FILTER, see ptrace(2): it needs
// CAP_SYS_ADMIN and a kernel with CONFIG_CHECKPOINT_RESTORE). ENOENT: it has no filter. It stands here because it is
// unsafe, like everything that hands memory to the kernel.
func FilterOf(pid int) ([]byte, error) {
	runtime.LockOSThread() // a tracee belongs to a thread
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return nil, fmt.Errorf("trace process %d: %w", pid, err)
	}
	defer unix.PtraceDetach(pid) //nolint:errcheck // the end of the thread would do the same
	if err := unix.PtraceInterrupt(pid); err != nil {
		return nil, fmt.Errorf("stop process %d: %w", pid, err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return nil, fmt.Errorf("wait for the stop of process %d: %w", pid, err)
	}
	if !status.Stopped() {
		return nil, unix.ESRCH
	}
	n, err := getFilter(pid, nil)
	if err != nil || n == 0 {
		return nil, err
	}
	const size = 8 // sizeof(struct sock_filter)
	program := make([]byte, n*size)
	_, err = getFilter(pid, program)
	return program, err
}

// getFilter gives the length of the filter in instructions, and copies it to a program that is not nil.
func getFilter(pid int, program []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), 0,
		uintptr(unsafe.Pointer(unsafe.SliceData(program))), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
