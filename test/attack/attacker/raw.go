package main

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// raw makes a system call.
func raw(nr uintptr, a ...uintptr) error {
	var v [6]uintptr
	copy(v[:], a)
	if _, _, e := unix.Syscall6(nr, v[0], v[1], v[2], v[3], v[4], v[5]); e != 0 {
		return e
	}
	return nil
}

// try makes a system call and judges it.
func try(what string, nr uintptr, a ...uintptr) verdict {
	return judge(what, raw(nr, a...))
}

// inChild makes a system call in a forked child that has one thread only, which calls about namespaces ask for. flags
// are those of clone(2); the call 0 is none.
func inChild(flags, nr uintptr, a ...uintptr) error {
	var v [6]uintptr
	copy(v[:], a)
	pid, e := fork(flags, nr, &v)
	if e != 0 {
		return e
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(int(pid), &status, 0, nil)
		if err == unix.EINTR { //nolint:errorlint // bare
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	if status.Signaled() {
		return unix.EPERM // the filter killed it
	}
	if n := status.ExitStatus(); n != 0 {
		return unix.Errno(n) //nolint:gosec // an errno
	}
	return nil
}

// fork is clone(2) without a stack of its own; the child makes one call and ends with its errno.
//
//go:noinline
//go:nosplit
//go:norace
func fork(flags, nr uintptr, a *[6]uintptr) (uintptr, unix.Errno) {
	pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 || pid != 0 {
		return pid, e
	}
	childCall(nr, a)
	return 0, 0
}

//go:nosplit
//go:norace
func childCall(nr uintptr, a *[6]uintptr) {
	var e unix.Errno
	if nr != 0 {
		_, _, e = syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	}
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(e), 0, 0)
	}
}

// cloneArgs is struct clone_args of linux/sched.h.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls uint64
}

// fork3 is clone3(2); the child ends at once.
//
//go:noinline
//go:nosplit
//go:norace
func fork3(args *cloneArgs) (uintptr, unix.Errno) {
	pid, _, e := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if e != 0 || pid != 0 {
		return pid, e
	}
	childCall(0, nil)
	return 0, 0
}

// cstring is the address of a NUL-terminated copy. What it points to lives as long as the program.
func cstring(s string) uintptr {
	b := append([]byte(s), 0)
	keep = append(keep, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// address is the address of a value that lives as long as the program.
func address(b []byte) uintptr {
	keep = append(keep, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

var keep [][]byte
