package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file is what runs in the child between clone and execve. Its rules are in the package comment. Every function
// is nosplit (no stack growth), norace and nocheckptr (no instrumentation, which would call into the runtime).

// exitFailed is the status of a child that could not finish its program. Docker uses 125 for the same.
const exitFailed = 125

// runChild runs the linked program. It does not return.
//
//go:nosplit
//go:norace
//go:nocheckptr
func runChild(im *image) {
	hideArguments(im)
	defaultSignals(im)
	// The copy of the parent's end must go, or the child would never see its parent's death.
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, im.parent, 0, 0)
	var denied uintptr // the errno of a sticky instruction
	var found bool     // an either instruction has succeeded
	for i := uintptr(0); i < im.count; i++ {
		in := (*machineCode)(unsafe.Add(unsafe.Pointer(im.code), i*unsafe.Sizeof(machineCode{})))
		var result, errno uintptr
		if in.either && found {
			continue
		}
		switch in.op {
		case opAwait:
			awaitParent(im, in.args[0])
			continue
		case opFork:
			errno = forkInto(im)
		case opInit:
			errno = forkInit(im)
		case opPart:
			_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, im.ctl, 0, 0)
			im.ctl = emptyReg
			continue
		case opControl:
			im.ctl = im.regs[in.args[0]%maxRegs]
			continue
		case opSendFD:
			errno = sendFD(im, im.regs[in.args[0]%maxRegs])
		case opCall:
			var skip bool
			result, errno, skip = call(im, in)
			if skip {
				continue
			}
		}
		if in.expect != 0 {
			if errno == uintptr(in.expect) {
				continue
			}
			fail(im, i, errno)
		}
		if errno != 0 {
			if !tolerates(in, errno) {
				if in.sticky && denied != 0 {
					errno = denied
				}
				fail(im, i, errno)
			}
			if in.sticky && errno == uintptr(unix.EACCES) {
				denied = errno
			}
			result = emptyReg
		} else if in.either {
			found = true
		}
		if in.dst != 0 {
			im.regs[in.dst%maxRegs] = result
		}
	}
	fail(im, im.count, uintptr(unix.ENOEXEC)) // a program ends in execve, which does not return
}

// defaultSignals has the program meet every signal as it is by default. Go leaves SIGHUP and SIGINT ignored where its caller
// ignores them (package os/signal, "Default behavior of signals in Go programs") and does not touch the three that C libraries use
// among themselves; execve keeps that, and a shell cannot trap what was ignored before it. An engine started by nohup(1) is such a
// caller. The other signals have handlers of Go's, which syscall.runtime_AfterForkInChild has taken away.
//
//go:nosplit
//go:norace
//go:nocheckptr
func defaultSignals(im *image) {
	const sigsetSize = 8 // of the kernel's sigset_t
	for _, sig := range [...]uintptr{uintptr(unix.SIGHUP), uintptr(unix.SIGINT), 32, 33, 34} {
		_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&im.action)), 0, sigsetSize, 0, 0)
	}
}

// call does one system call. skip tells that a register it reads is empty, so that nothing was done.
//
//go:nosplit
//go:norace
//go:nocheckptr
func call(im *image, in *machineCode) (result, errno uintptr, skip bool) {
	a := in.args
	for n := range a {
		if in.regArgs&(1<<n) != 0 {
			a[n] = im.regs[a[n]%maxRegs]
			if a[n] == emptyReg {
				return 0, 0, true
			}
		}
	}
	if in.store != nil {
		fd := im.regs[in.storeReg%maxRegs]
		if fd == emptyReg {
			return 0, 0, true
		}
		*(*int32)(in.store) = int32(fd) //nolint:gosec // a file descriptor
	}
	r, _, e := syscall.RawSyscall6(in.nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return r, uintptr(e), false
}

//go:nosplit
//go:norace
//go:nocheckptr
func tolerates(in *machineCode, errno uintptr) bool {
	for _, t := range in.tolerate {
		if t != 0 && uintptr(t) == errno {
			return true
		}
	}
	return false
}

// awaitParent tells that a point is reached and waits for the parent's word. The parent's end closes when the parent
// dies; the read then gives 0 and the child ends.
//
//go:nosplit
//go:norace
//go:nocheckptr
func awaitParent(im *image, point uintptr) {
	im.out.kind, im.out.index, im.out.errno = messageReached, uint32(point), 0 //nolint:gosec // a Point
	writeMessage(im)
	awaitWord(im)
}

// awaitWord waits for one byte of the parent's.
//
//go:nosplit
//go:norace
//go:nocheckptr
func awaitWord(im *image) {
	n, _, e := syscall.RawSyscall(unix.SYS_READ, im.ctl, uintptr(unsafe.Pointer(&im.word)), 1)
	if e != 0 || n != 1 {
		exit(exitFailed)
	}
}

// fail reports the instruction and the errno, and ends the child.
//
//go:nosplit
//go:norace
//go:nocheckptr
func fail(im *image, index, errno uintptr) {
	im.out.kind, im.out.index, im.out.errno = messageFailed, uint32(index), uint32(errno) //nolint:gosec // small numbers
	writeMessage(im)
	exit(exitFailed)
}

//go:nosplit
//go:norace
//go:nocheckptr
func writeMessage(im *image) {
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, im.ctl, uintptr(unsafe.Pointer(&im.out)), unsafe.Sizeof(im.out))
}

// exit ends the process, also under a filter that denies exit_group: the fault's signal cannot be ignored.
//
//go:nosplit
//go:norace
//go:nocheckptr
func exit(status uintptr) {
	_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, status, 0, 0)
	var nowhere *uint32
	for {
		*nowhere = 0 //nolint:govet // on purpose
	}
}

// forkInto goes on in a new child of the parent. The process that called it tells the new one's pid and ends.
//
//go:nosplit
//go:norace
//go:nocheckptr
func forkInto(im *image) uintptr {
	pid, errno := rawFork(unix.CLONE_PARENT)
	if errno != 0 {
		return errno
	}
	if pid != 0 {
		im.out.kind, im.out.index, im.out.errno, im.out.value = messageForked, 0, 0, uint64(pid)
		writeMessage(im)
		exit(0)
	}
	awaitWord(im) // the parent knows of this process, before it hears from it
	return 0
}

// rawFork is fork(2) with further flags. The order of clone's arguments differs between machines (clone(2)), but only
// s390 has flags anywhere else than first.
//
//go:nosplit
//go:norace
//go:nocheckptr
func rawFork(flags uintptr) (pid, errno uintptr) {
	r, _, e := syscall.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	return r, uintptr(e)
}

// sendBuffer is what sendmsg needs to pass one file descriptor (unix(7), SCM_RIGHTS).
type sendBuffer struct {
	header  unix.Msghdr
	iov     unix.Iovec
	control struct {
		header unix.Cmsghdr
		fd     int32
		_      int32
	}
}

func (s *sendBuffer) init() {
	s.control.header.Level = unix.SOL_SOCKET
	s.control.header.Type = unix.SCM_RIGHTS
	s.control.header.SetLen(unix.CmsgLen(4))
}

//go:nosplit
//go:norace
//go:nocheckptr
func sendFD(im *image, fd uintptr) uintptr {
	if fd == emptyReg {
		return uintptr(unix.EBADF)
	}
	im.out.kind, im.out.index, im.out.errno = messageFD, 0, 0
	im.send.control.fd = int32(fd) //nolint:gosec // a file descriptor
	// The pointers are laid by prepareSend in the parent: storing one here would be a write barrier.
	_, _, e := syscall.RawSyscall(unix.SYS_SENDMSG, im.ctl, uintptr(unsafe.Pointer(&im.send.header)), 0)
	return uintptr(e)
}

// prepare lays the pointers of the send buffer, in the parent.
func (im *image) prepare() {
	s := &im.send
	s.iov.Base = (*byte)(unsafe.Pointer(&im.out))
	s.iov.SetLen(messageSize)
	s.header.Iov = &s.iov
	s.header.SetIovlen(1)
	s.header.Control = (*byte)(unsafe.Pointer(&s.control))
	s.header.SetControllen(unix.CmsgSpace(4))
}
