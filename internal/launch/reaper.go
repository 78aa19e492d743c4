package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The reaper is what `--init` leaves at pid 1 of a sandbox: the child itself, forked once more, in a loop of raw system
// calls. It executes nothing, so no file of the host's is behind its /proc/1/exe that the sandbox could reach: it is
// non-dumpable, and its memory belongs to the user namespace outside. It runs under the same filter, ids and
// capabilities as the program.

// forkInit makes the program's process and stays behind as the reaper.
//
//go:nosplit
//go:norace
//go:nocheckptr
func forkInit(_ *image) uintptr {
	// All signals are blocked in both, until the child's handlers are known to be the default ones.
	var all, old [2]uint64
	all[0], all[1] = ^uint64(0), ^uint64(0)
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_BLOCK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	pid, errno := rawFork(0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
		return 0
	}
	// The control socket must close with the program's execve, so the reaper keeps no copy; nor any other file.
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 0, uintptr(^uint32(0)), 0)
	reap(pid)
	return 0
}

// reap waits for every child until the program has ended, and ends as it did. A signal that arrives is handed on.
//
//go:nosplit
//go:norace
//go:nocheckptr
func reap(program uintptr) {
	var all [2]uint64
	all[0], all[1] = ^uint64(0), ^uint64(0)
	for {
		signal, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&all)), 0, 0, 8, 0, 0)
		if e == unix.EINTR || e == unix.EAGAIN {
			continue
		}
		if e == 0 && signal != uintptr(unix.SIGCHLD) {
			_, _, _ = syscall.RawSyscall(unix.SYS_KILL, program, signal, 0)
			continue
		}
		if e != 0 {
			// A filter denies rt_sigtimedwait: reap without forwarding.
			reapAll(program, 0)
			exit(exitFailed)
		}
		reapAll(program, unix.WNOHANG)
	}
}

//go:nosplit
//go:norace
//go:nocheckptr
func reapAll(program, flags uintptr) {
	for {
		var status uint32
		pid, _, e := syscall.RawSyscall6(unix.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&status)), flags, 0, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 || pid == 0 {
			return
		}
		if pid != program {
			continue
		}
		if status&0x7f == 0 { // WIFEXITED
			exit(uintptr(status>>8) & 0xff)
		}
		exit(128 + uintptr(status&0x7f))
	}
}
