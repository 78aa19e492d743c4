package launch

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Layer names the mechanism of defence (or of plain preparation) that an instruction belongs to. Explain groups by it
// and errors name it.
type Layer string

// The layers, as the design's table calls them.
const (
	Supervision  Layer = "supervision"
	Namespaces   Layer = "namespaces"
	IDs          Layer = "ids"
	Cgroup       Layer = "cgroup"
	Mounts       Layer = "mounts"
	Root         Layer = "root file system"
	Devices      Layer = "devices"
	ProcSys      Layer = "proc and sys"
	Terminal     Layer = "sessions and terminals"
	Limits       Layer = "resource limits"
	Capabilities Layer = "capabilities"
	NoNewPrivs   Layer = "no new privileges"
	MAC          Layer = "mandatory access control"
	Landlock     Layer = "landlock"
	Seccomp      Layer = "seccomp"
	Exec         Layer = "program"
)

// Reg is a register: it holds the result of an instruction, or an input that the parent binds before the start.
// The zero Reg is no register.
type Reg uint16

// Point is a place where the child stops and waits for its parent's word.
type Point uint32

// The points of a launch, in the order in which they are reached. A program has only those it needs.
const (
	// PointNamespaces: the namespaces exist. The parent writes the id maps and finishes the idmapped mounts.
	PointNamespaces Point = iota + 1
	// PointCreated: all mounts are made and the root is not entered yet; the hooks of the create phase run now.
	PointCreated
	// PointTerminal: the child has sent the master of the terminal.
	PointTerminal
	// PointReady: all is set up but for the last irrevocable steps; the parent gives the start.
	PointReady
	// PointListener: the child has sent the listener of a filter that asks before execve; see Child.LetOneProgram.
	PointListener
	// PointAgent: the child has sent the listener of the spec's seccomp filter, which is for the agent that the spec names.
	PointAgent
	// PointStart: the first word on a channel that Program.Hold opened; an engine's `start` gives it.
	PointStart
)

func (p Point) String() string {
	switch p {
	case PointNamespaces:
		return "namespaces"
	case PointTerminal:
		return "terminal"
	case PointCreated:
		return "created"
	case PointReady:
		return "ready"
	case PointListener:
		return "listener"
	case PointAgent:
		return "agent"
	case PointStart:
		return "start"
	}
	return fmt.Sprintf("point %d", uint32(p))
}

type opcode uint8

const (
	opCall    opcode = iota // a system call
	opAwait                 // tell the parent a point is reached, wait for its word
	opSendFD                // send a register's file descriptor to the parent
	opFork                  // go on in a new process that is the parent's child; this one ends
	opPart                  // let go of the parent: nobody hears of a failure until the next opControl
	opControl               // from here on the parent is whoever is at the other end of a register's socket
	opInit                  // go on in a new child; this process reaps and forwards signals until it ends
)

type argKind uint8

const (
	argConst  argKind = iota
	argReg            // a register
	argMem            // the address of bytes
	argVector         // the address of a NULL-terminated array of pointers to strings
	argFprog          // the address of a struct sock_fprog
)

// Arg is one argument of an instruction.
type Arg struct {
	kind    argKind
	value   uint64
	mem     []byte
	vector  []string
	text    string     // how memory reads
	symbols *symbolSet // how a constant reads
	fd      Reg        // a register that the child stores into mem, as a 32-bit number, before the call
	fdAt    int        // where in mem
}

// tolerated is how many errnos one instruction can tolerate.
const tolerated = 4

// Instruction is one step of a program.
type Instruction struct {
	Layer Layer
	// Why is the step in a person's words, with the path it is about: "mount proc on /proc".
	Why string
	// Name is the system call's.
	Name string

	op       opcode
	nr       uintptr
	args     []Arg
	dst      Reg
	tolerate [tolerated]unix.Errno
	sticky   bool // a tolerated EACCES here is what a later failure reports
	either   bool // skipped once another such one has succeeded
	expect   unix.Errno
	point    Point
}

// Input is a file descriptor that the parent opens before the start.
type Input struct {
	Reg  Reg
	Name string
}

// Program is a launch program under construction, or finished. It is plain data: building one makes no system call.
type Program struct {
	Instructions []Instruction
	Inputs       []Input

	names []string // of registers; names[0] is unused
	layer Layer
	why   string
}

// New gives an empty program.
func New() *Program {
	return &Program{names: make([]string, 1, 64), Instructions: make([]Instruction, 0, 160)}
}

// Step sets the layer and the person's words for the instructions that follow.
func (p *Program) Step(layer Layer, why string) { p.layer, p.why = layer, why }

// Input declares a file descriptor that the parent will bind, and gives its register.
func (p *Program) Input(name string) Reg {
	r := p.register(name)
	p.Inputs = append(p.Inputs, Input{Reg: r, Name: name})
	return r
}

// Last is the newest instruction, for Tolerate and its like. Preconditions: the program is not empty.
func (p *Program) Last() *Instruction { return &p.Instructions[len(p.Instructions)-1] }

func (p *Program) register(name string) Reg {
	p.names = append(p.names, name)
	return Reg(len(p.names) - 1)
}

func (p *Program) emit(in Instruction) *Instruction {
	in.Layer, in.Why = p.layer, p.why
	p.Instructions = append(p.Instructions, in)
	return p.Last()
}

func (p *Program) call(name string, nr uintptr, args ...Arg) *Instruction {
	return p.emit(Instruction{Name: name, nr: nr, args: args})
}

// callTo is call with the result kept in a new register named result.
func (p *Program) callTo(result, name string, nr uintptr, args ...Arg) Reg {
	r := p.register(result)
	p.call(name, nr, args...).dst = r
	return r
}

// Tolerate makes the instruction go on when it fails with one of the errnos. Its result register is then empty, and
// instructions that read it are skipped.
// Preconditions: at most four errnos.
func (in *Instruction) Tolerate(errnos ...unix.Errno) *Instruction {
	copy(in.tolerate[:], errnos)
	return in
}

// Sticky makes a tolerated EACCES of this instruction the errno that a later failure reports, as execvp(3) does
// when it tries one folder of PATH after the other.
func (in *Instruction) Sticky() *Instruction {
	in.sticky = true
	return in
}

// Either marks an instruction as one way of several: when it succeeds, the ones after it that are so marked are skipped. A program has
// one such group.
func (in *Instruction) Either() *Instruction {
	in.either = true
	return in
}

// Expect turns the instruction into a probe: it must fail with this errno, and anything else, success included, ends
// the launch. It is how a layer is proved to be in force before the program starts.
func (in *Instruction) Expect(errno unix.Errno) *Instruction {
	in.expect = errno
	return in
}

// Await adds a stop: the child tells the parent that it reached the point and goes on when the parent says so. When
// the parent is gone instead, the child ends.
func (p *Program) Await(point Point) {
	p.emit(Instruction{Name: "await", op: opAwait, point: point})
}

// SendFD sends a copy of the file descriptor in reg to the parent, which meets it in Child.Received.
func (p *Program) SendFD(fd Reg) {
	p.emit(Instruction{Name: "sendmsg", op: opSendFD, args: []Arg{reg(fd)}})
}

// Hold parts the child from its parent: it waits at the listening socket in reg for somebody to connect (Attach), and takes
// that for its parent from then on. The parent sees the control socket close. first is above every number that the
// program passes on.
//
// A signal that asks for its end ends it while it waits. Of itself the first process of a pid namespace would pass over it
// (pid_namespaces(7)), so it is blocked and looked for.
func (p *Program) Hold(listener Reg, first int) {
	mask, old := bytesArg(words(endSignals)).reads("[HUP INT QUIT TERM]"), bytesArg(make([]byte, sigsetSize)).reads("old")
	p.call("rt_sigprocmask", unix.SYS_RT_SIGPROCMASK, num(unix.SIG_BLOCK).reads("SIG_BLOCK"), mask, old, num(sigsetSize))
	signals := p.callTo("signals", "signalfd4", unix.SYS_SIGNALFD4, signed(-1), mask, num(sigsetSize), num(unix.SFD_CLOEXEC|unix.SFD_NONBLOCK).reads("SFD_CLOEXEC|SFD_NONBLOCK"))
	either := p.callTo("starter or signal", "epoll_create1", unix.SYS_EPOLL_CREATE1, num(unix.EPOLL_CLOEXEC).reads("EPOLL_CLOEXEC"))
	for _, fd := range []Reg{listener, signals} {
		in := make([]byte, 16) // struct epoll_event, packed or not
		binary.NativeEndian.PutUint32(in, unix.EPOLLIN)
		p.call("epoll_ctl", unix.SYS_EPOLL_CTL, reg(either), num(unix.EPOLL_CTL_ADD).reads("EPOLL_CTL_ADD"), reg(fd), bytesArg(in).reads("EPOLLIN"))
	}
	// From here on the parent may tell others that they can send signals.
	p.emit(Instruction{Name: "part from the parent", op: opPart})
	p.call("epoll_pwait", unix.SYS_EPOLL_PWAIT, reg(either), bytesArg(make([]byte, 16)).reads("event"), num(1), signed(-1), none(), num(sigsetSize)).Tolerate(unix.EINTR)
	p.call("read", unix.SYS_READ, reg(signals), bytesArg(make([]byte, siginfoSize)).reads("signal"), num(siginfoSize)).Expect(unix.EAGAIN)
	conn := p.callTo("starter", "accept4", unix.SYS_ACCEPT4, reg(listener), num(0), num(0), num(unix.SOCK_CLOEXEC).reads("SOCK_CLOEXEC"))
	high := p.DupAbove("starter, above what is passed on", conn, first)
	p.emit(Instruction{Name: "take it for the parent", op: opControl, args: []Arg{reg(high)}})
	p.Close(conn)
	p.Close(listener)
	p.Close(either)
	p.Close(signals)
	p.call("rt_sigprocmask", unix.SYS_RT_SIGPROCMASK, num(unix.SIG_SETMASK).reads("SIG_SETMASK"), old, none(), num(sigsetSize))
	p.Await(PointStart)
}

// endSignals are the bits of those that ask a process to end: HUP, INT, QUIT, TERM.
const endSignals = 1<<(unix.SIGHUP-1) | 1<<(unix.SIGINT-1) | 1<<(unix.SIGQUIT-1) | 1<<(unix.SIGTERM-1)

const (
	sigsetSize  = 8   // of the kernel's, not the C library's
	siginfoSize = 128 // struct signalfd_siginfo
)

// ForkInto goes on in a new process, needed after setns(2) of a pid namespace: only children enter it. The new process
// is a child of the parent (CLONE_PARENT), the one that ran the program so far ends.
func (p *Program) ForkInto() {
	p.emit(Instruction{Name: "fork into", op: opFork})
}

// ForkInit goes on in a new child; the process that ran the program so far stays as a reaper: it waits for every
// child, hands signals on to the program, and ends as the program ended.
func (p *Program) ForkInit() {
	p.emit(Instruction{Name: "fork, stay as init", op: opInit})
}

// Name is the register's, as explain prints it.
func (p *Program) Name(r Reg) string {
	if int(r) < len(p.names) && r > 0 {
		return p.names[r]
	}
	return fmt.Sprintf("r%d", r)
}

func reg(r Reg) Arg              { return Arg{kind: argReg, value: uint64(r)} }
func num(n uint64) Arg           { return Arg{value: n} }
func signed(n int) Arg           { return Arg{value: uint64(n)} } //nolint:gosec // sign extension is what the kernel wants
func none() Arg                  { return Arg{symbols: pointers} }
func bytesArg(b []byte) Arg      { return Arg{kind: argMem, mem: b} }
func (a Arg) reads(t string) Arg { a.text = t; return a }

func symbol(n uint64, set *symbolSet) Arg { return Arg{value: n, symbols: set} }

// atFDCWD is AT_FDCWD, -100, as a register holds it.
const atFDCWD = 1<<64 - 100

// dir is a directory argument: a register, or the working directory for none.
func dir(r Reg) Arg {
	if r == 0 {
		return Arg{value: atFDCWD, symbols: atFD}
	}
	return reg(r)
}

// str is a NUL-terminated string. A NUL inside s would cut it short in silence, so plan refuses those before; here the
// program is made to fail.
func str(s string) Arg {
	if strings.IndexByte(s, 0) >= 0 {
		s = "\x01NUL byte in a path"
	}
	b := make([]byte, len(s)+1)
	copy(b, s)
	return Arg{kind: argMem, mem: b, text: fmt.Sprintf("%q", s)}
}

func vector(v []string) Arg { return Arg{kind: argVector, vector: v} }

// words packs 64-bit words as the kernel's structures have them.
func words(w ...uint64) []byte {
	b := make([]byte, 8*len(w))
	for i, v := range w {
		binary.NativeEndian.PutUint64(b[8*i:], v)
	}
	return b
}
