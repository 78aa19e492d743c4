package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// Clone says how the child comes to be.
type Clone struct {
	// Flags are the CLONE_NEW* namespaces that the child is born into.
	Flags uint64
	// Cgroup is a directory of cgroup v2 that the child is born into (CLONE_INTO_CGROUP); nil for the parent's.
	Cgroup *os.File
	// HighFD keeps the child's control socket out of the numbers below it, when the program passes file descriptors
	// with numbers of their own. 0 for no wish.
	HighFD int
}

// Child is a process that runs a launch program. Its methods are for one goroutine.
type Child struct {
	PID   int
	PIDFD *os.File // owned by the Child until Release; close-on-exec

	program  *Program     // of a child of this process
	steps    map[int]Step // of one that Attach found
	ctl      *os.File
	received *os.File
}

// StepError is the failure of one instruction in the child.
type StepError struct {
	Index int
	Layer Layer
	Why   string // the step in a person's words
	Call  string // the system call with its arguments
	Errno unix.Errno
	// Probe tells that the instruction had to fail and did not: the layer is not in force.
	Probe bool
}

func (e *StepError) Error() string {
	if e.Probe {
		return fmt.Sprintf("%s: %s: the kernel let it through, so the layer is not in force", e.Layer, e.Why)
	}
	if name, _, _ := strings.Cut(e.Call, "("); e.Errno == unix.ENOSYS && since[name] != "" {
		return fmt.Sprintf("%s: %s", e.Why, (&MissingCallError{name}).Error())
	}
	return fmt.Sprintf("%s: %s", e.Why, e.Errno.Error())
}

func (e *StepError) Unwrap() error { return e.Errno }

// ErrGone is returned when the child ended without a word: it was killed.
var ErrGone = errors.New("the process ended while it was set up: it was killed, perhaps for lack of memory")

// Start forks the child, which runs the program up to its first await. inputs has an open file for every input of the
// program; they stay the caller's.
//
// The calling thread becomes the child's parent: with PR_SET_PDEATHSIG in the program the child dies with this thread,
// so the caller locks its goroutine to it (runtime.LockOSThread) for as long as the child is to live.
func (p *Program) Start(clone Clone, inputs map[Reg]*os.File) (*Child, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the control socket: %w", err)
	}
	ctl := os.NewFile(uintptr(pair[0]), "control socket")
	defer func() { _ = unix.Close(pair[1]) }()
	if clone.HighFD > 0 {
		high, err := unix.FcntlInt(uintptr(pair[1]), unix.F_DUPFD_CLOEXEC, clone.HighFD)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("move the control socket to a high file descriptor: %w", err), ctl.Close())
		}
		_ = unix.Close(pair[1])
		pair[1] = high
	}
	fds := make(map[Reg]int, len(inputs))
	for r, f := range inputs {
		fds[r] = int(f.Fd()) //nolint:gosec // a file descriptor
	}
	im, err := p.link(fds, pair[0], pair[1])
	if err != nil {
		return nil, errors.Join(err, ctl.Close())
	}
	im.prepare()
	pid, pidfd, errno := fork(clone, im)
	if errno == unix.ENOSYS && clone.Cgroup == nil && clone.Flags&unix.CLONE_NEWTIME == 0 {
		pid, pidfd, errno = oldFork(clone, im)
	}
	im.release()
	runtime.KeepAlive(inputs)
	if clone.Cgroup != nil && (errno == unix.ENOSYS || errno == unix.EINVAL || errno == unix.E2BIG) {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrNotBornInCgroup, errno), ctl.Close())
	}
	if errno != 0 {
		return nil, errors.Join(cloneError(clone, errno), ctl.Close())
	}
	return &Child{PID: pid, PIDFD: os.NewFile(uintptr(pidfd), "pidfd"), program: p, ctl: ctl}, nil
}

// cloneArgs is struct clone_args of linux/sched.h, CLONE_ARGS_SIZE_VER2.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// fork is the one clone3. The child never returns from it.
//
//go:noinline
//go:norace
func fork(clone Clone, im *image) (pid int, pidfd int32, errno unix.Errno) {
	fd := int32(-1)
	args := cloneArgs{
		flags:      clone.Flags | unix.CLONE_PIDFD,
		pidfd:      uint64(uintptr(unsafe.Pointer(&fd))),
		exitSignal: uint64(unix.SIGCHLD),
	}
	if clone.Cgroup != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(clone.Cgroup.Fd())
	}
	// As syscall.forkExec: no other goroutine may be between opening a file and marking it close-on-exec, and signals
	// stay blocked until the child has no handler left.
	syscall.ForkLock.Lock()
	beforeFork()
	r, _, e := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if e == 0 && r == 0 {
		afterForkInChild()
		runChild(im)
	}
	afterFork()
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(clone)
	return int(r), fd, unix.Errno(e)
}

// oldFork is fork by clone(2), for machines where a filter hides clone3: it has no time namespaces and no cgroup to be born in.
// The order of its arguments is that of rawFork; the pidfd is stored where the parent's copy of the thread id would be.
//
//go:noinline
//go:norace
func oldFork(clone Clone, im *image) (pid int, pidfd int32, errno unix.Errno) {
	fd := int32(-1)
	flags := uintptr(clone.Flags) | unix.CLONE_PIDFD | uintptr(unix.SIGCHLD)
	syscall.ForkLock.Lock()
	beforeFork()
	r, _, e := syscall.RawSyscall6(unix.SYS_CLONE, flags, 0, uintptr(unsafe.Pointer(&fd)), 0, 0, 0)
	if e == 0 && r == 0 {
		afterForkInChild()
		runChild(im)
	}
	afterFork()
	syscall.ForkLock.Unlock()
	return int(r), fd, unix.Errno(e)
}

func cloneError(clone Clone, errno unix.Errno) error {
	var hint string
	switch errno {
	case unix.EPERM:
		hint = ": not allowed to make these namespaces; run as root, or allow unprivileged user namespaces"
		if clone.Flags&unix.CLONE_NEWUSER == 0 {
			hint = ": only root may make these namespaces without a user namespace; ask for one, too"
		}
	case unix.ENOSPC, unix.EUSERS:
		hint = ": a limit in /proc/sys/user (max_*_namespaces) is reached"
	case unix.EAGAIN:
		hint = ": a limit on processes is reached (RLIMIT_NPROC or the cgroup's pids.max)"
	case unix.ENOSYS:
		return &MissingCallError{"clone3"}
	case unix.EINVAL:
		hint = ": this kernel lacks one of these namespaces"
	}
	return fmt.Errorf("clone3(%s): %w%s", cloneFlags.format(clone.Flags), errno, hint)
}

// WaitFor waits until the child stops at point. A failed instruction comes back as *StepError, a child that is gone as
// ErrGone.
func (c *Child) WaitFor(point Point) error {
	for {
		m, err := c.receive()
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			return ErrGone
		}
		if err != nil {
			return err
		}
		switch m.kind {
		case messageReached:
			if Point(m.index) != point {
				return fmt.Errorf("the child stopped at point %s instead of %s", Point(m.index), point)
			}
			return nil
		case messageFailed:
			return c.failed(m)
		}
	}
}

// Continue gives the word that a stopped child waits for.
func (c *Child) Continue() error {
	_, err := c.ctl.Write([]byte{1})
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return ErrGone
	}
	if err != nil {
		return fmt.Errorf("let the child go on: %w", err)
	}
	return nil
}

// WaitExec waits until the program is executed, or an instruction fails (*StepError). A child that was killed in
// between looks executed here; its wait status tells.
func (c *Child) WaitExec() error {
	for {
		m, err := c.receive()
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.kind == messageFailed {
			return c.failed(m)
		}
	}
}

// Received is the file descriptor that the child has sent last (SendFD), or nil. The caller owns it from now on.
func (c *Child) Received() *os.File {
	f := c.received
	c.received = nil
	return f
}

// ControlFD gives the parent's end of the control socket away, to keep a child waiting across processes.
func (c *Child) ControlFD() *os.File { return c.ctl }

// Release closes what the parent holds of the child. The process itself goes on.
func (c *Child) Release() error {
	err := c.ctl.Close()
	if c.received != nil {
		err = errors.Join(err, c.received.Close())
	}
	return errors.Join(err, c.PIDFD.Close())
}

// Kill ends the child and takes its exit status.
func (c *Child) Kill() {
	_ = unix.PidfdSendSignal(int(c.PIDFD.Fd()), unix.SIGKILL, nil, 0) //nolint:gosec // a file descriptor; ESRCH is fine
	_ = reapOne(c.PID)
}

// reapOne takes the exit status of a child that nobody else waits for, so that its pid is no other process's. One that was left
// would keep the first process of its pid namespace from ending.
func reapOne(pid int) error {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (c *Child) failed(m *message) error {
	if c.program == nil {
		s := c.steps[int(m.index)]
		return &StepError{Index: int(m.index), Layer: s.Layer, Why: s.Why, Call: s.Call, Errno: unix.Errno(m.errno)}
	}
	if int(m.index) >= len(c.program.Instructions) {
		return &StepError{Index: int(m.index), Layer: Exec, Why: "run the program", Errno: unix.Errno(m.errno)}
	}
	in := &c.program.Instructions[m.index]
	return &StepError{Index: int(m.index), Layer: in.Layer, Why: in.Why, Call: c.program.Text(in), Errno: unix.Errno(m.errno), Probe: in.expect != 0}
}

// receive reads one message, with the file descriptor it may carry.
func (c *Child) receive() (*message, error) {
	var m message
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&m)), messageSize)
	control := make([]byte, unix.CmsgSpace(4))
	var n, cn int
	var err error
	for {
		n, cn, _, _, err = unix.Recvmsg(int(c.ctl.Fd()), buf, control, unix.MSG_CMSG_CLOEXEC) //nolint:gosec // a file descriptor
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("hear from the child: %w", err)
	}
	if n == 0 {
		return nil, io.EOF
	}
	if n != messageSize {
		return nil, fmt.Errorf("the child sent %d bytes instead of %d", n, messageSize)
	}
	switch m.kind {
	case messageFD:
		err = c.takeFD(control[:cn])
	case messageForked:
		err = c.takeForked(int(m.value)) //nolint:gosec // a pid
	}
	return &m, err
}

func (c *Child) takeFD(control []byte) error {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("the child sent no file descriptor: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("the child sent no file descriptor: %w", err)
	}
	c.received = os.NewFile(uintptr(fds[0]), "from the child")
	return nil
}

// takeForked follows a child that went on in another process. The new one is a child of this process that nobody has
// waited for, so its pid cannot be another's.
func (c *Child) takeForked(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open the forked child %d: %w", pid, err)
	}
	first, firstPID := c.PIDFD, c.PID
	c.PID, c.PIDFD = pid, os.NewFile(uintptr(fd), "pidfd")
	if err := errors.Join(reapOne(firstPID), first.Close()); err != nil {
		return err
	}
	return c.Continue() // the new process waits until it is known
}
