package launch

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FiltersOf reads the seccomp filters of a process back from the kernel, the oldest first (get_nth_filter in kernel/seccomp.c), each an array
// of struct sock_filter in the machine's byte order. The process is stopped for an instant (PTRACE_SECCOMP_GET_FILTER, see ptrace(2): it needs
// CAP_SYS_ADMIN and a kernel with CONFIG_CHECKPOINT_RESTORE). ENOENT: it has none. It stands here because it is
// unsafe, like everything that hands memory to the kernel.
func FiltersOf(pid int) (list [][]byte, err error) {
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
	for {
		n, err := getFilter(pid, len(list), nil)
		if len(list) > 0 && errors.Is(err, unix.ENOENT) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		const size = 8 // sizeof(struct sock_filter)
		program := make([]byte, n*size)
		if _, err := getFilter(pid, len(list), program); err != nil {
			return nil, err
		}
		list = append(list, program)
	}
}

// getFilter gives the length of a filter in instructions, and copies it to a program that is not nil.
func getFilter(pid, index int, program []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), uintptr(index),
		uintptr(unsafe.Pointer(unsafe.SliceData(program))), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
