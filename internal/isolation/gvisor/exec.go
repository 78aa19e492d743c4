package gvisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"brig/internal/caps"
	"brig/internal/fault"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Executed is a further program in a running sandbox. It is a process of the guest alone.
type Executed struct {
	// Terminal is the master of its terminal, or nil; the caller's to close.
	Terminal *os.File

	dir, id string
	pid     int32
	wait    *net.UnixConn // nil for one on a leash
	leash   *leash        // nil for a program that need not end with this process
}

// execArgs are gVisor's (control.ExecArgs), as far as they are set here.
type execArgs struct {
	Argv             []string  `json:"argv"`
	Env              []string  `json:"envv"`
	WorkingDirectory string    `json:"wd"`
	KUID             uint32    // in the root user namespace of the guest
	KGID             uint32    //
	ExtraKGIDs       []uint32  //
	NoNewPrivileges  bool      //
	Capabilities     *taskCaps //
	StdioIsPty       bool      //
	ContainerID      string    //
	GuestFDs         []int
}

// taskCaps are gVisor's auth.TaskCapabilities.
type taskCaps struct {
	PermittedCaps, InheritableCaps, EffectiveCaps, BoundingCaps, AmbientCaps uint64
}

type waitArgs struct {
	PID int32
	CID string
}

type signalArgs struct {
	CID   string
	Signo int32
	PID   int32
	Mode  int
}

// noProcess is what gVisor says of a program that would be a process too many: its word for EAGAIN, and nothing of what was not to be had.
const noProcess = "try again"

// Exec runs spec.Process in the sandbox, beside its first program. The rest of spec is the sandbox's own. ctx ends the waiting for the
// kernel; a program that is to end with this process does then.
func Exec(ctx context.Context, spec *specs.Spec, o Options) (*Executed, error) {
	pr, warnings, err := plan.Guest(spec.Process)
	if err == nil {
		err = checkUser(spec)
	}
	if err != nil {
		return nil, err
	}
	for _, text := range warnings {
		if o.Warn != nil {
			o.Warn(text)
		}
	}
	if o.Meanwhile != nil {
		if err := o.Meanwhile(); err != nil {
			return nil, err
		}
	}
	wake(o.Beside)
	e := &Executed{dir: o.Dir, id: o.ID}
	files := slices.Concat(o.Stdio[:], o.PassFDs)
	if pr.Terminal {
		master, slave, err := terminal(pr.ConsoleSize)
		if err != nil {
			return nil, err
		}
		defer slave.Close() //nolint:errcheck // the guest has its own
		e.Terminal = master
		files = []*os.File{slave, slave, slave}
	}
	args := &execArgs{
		Argv: pr.Args, Env: withPath(pr.Env), WorkingDirectory: pr.Cwd, KUID: pr.User.UID, KGID: pr.User.GID, ExtraKGIDs: slices.Sorted(slices.Values(pr.User.AdditionalGids)),
		NoNewPrivileges: pr.NoNewPrivileges, StdioIsPty: pr.Terminal, ContainerID: o.ID,
	}
	for n := range files {
		args.GuestFDs = append(args.GuestFDs, n)
	}
	if args.Capabilities, err = guestCaps(pr.Capabilities); err != nil {
		return nil, err
	}
	if o.Supervised {
		e.leash, err = executeHeld(ctx, e.dir, args, files, &e.pid)
	} else if err = call(ctx, e.dir, executeMethod, args, files, &e.pid); err == nil {
		e.wait, err = dial(e.dir)
	}
	if err != nil {
		if e.Terminal != nil {
			err = errors.Join(err, e.Terminal.Close())
		}
		var remote *remoteError
		switch {
		case errors.As(err, &remote) && remote.text == noProcess:
			return nil, fmt.Errorf("the guest has as many processes as its limit allows (--pids-limit): %w", unix.EAGAIN)
		case errors.As(err, &remote):
			return nil, programError(remote.text)
		}
		return nil, o.Said.explain(err)
	}
	fault.Point("program executed")
	return e, nil
}

// Attach gives a program that was executed before, and whose end nobody has been told yet.
func Attach(dir, id string, pid int32) (*Executed, error) {
	wait, err := dial(dir)
	return &Executed{dir: dir, id: id, pid: pid, wait: wait}, err
}

// PID is the program's in the guest.
func (e *Executed) PID() int32 { return e.pid }

// guestCaps turns the sets of a spec into the kernel's masks.
func guestCaps(c *specs.LinuxCapabilities) (*taskCaps, error) {
	t := &taskCaps{}
	if c == nil {
		return t, nil
	}
	for _, s := range []struct {
		names []string
		mask  *uint64
	}{{c.Permitted, &t.PermittedCaps}, {c.Inheritable, &t.InheritableCaps}, {c.Effective, &t.EffectiveCaps}, {c.Bounding, &t.BoundingCaps}, {c.Ambient, &t.AmbientCaps}} {
		set, err := caps.ParseSet(s.names)
		if err != nil {
			return nil, err
		}
		*s.mask = uint64(set)
	}
	return t, nil
}

// Wait waits for the end of the program and gives its wait status.
func (e *Executed) Wait() (unix.WaitStatus, error) {
	var status uint32
	var err error
	if e.leash != nil {
		err = e.leash.wait(&status)
	} else {
		err = ask(context.Background(), e.wait, waitMethod, waitArgs{e.pid, e.id}, nil, &status)
	}
	var remote *remoteError
	if errors.As(err, &remote) {
		return 0, fmt.Errorf("wait for process %d of the guest: %w", e.pid, err)
	}
	if err != nil {
		return unix.WaitStatus(unix.SIGKILL), nil //nolint:nilerr // the sandbox has ended, and the program with it; or it was sent that
	}
	return waitStatus(status)
}

// Signal sends a signal to the program. One that is gone is no error.
func (e *Executed) Signal(s unix.Signal) error {
	if e.leash != nil {
		e.leash.signal(s)
	} else {
		_ = callSoon(e.dir, signalMethod, signalArgs{CID: e.id, Signo: int32(s), PID: e.pid}, nil)
	}
	return nil
}

// Deaf is false: the program is not the first of the guest.
func (e *Executed) Deaf(unix.Signal) bool { return false }

// Release closes the connection. The program itself is not touched, unless it is to end with this process and runs yet.
func (e *Executed) Release() error {
	if e.leash != nil {
		return e.leash.c.Close()
	}
	return e.wait.Close()
}

// Deaf is false: gVisor's kernel gets the signal, and gives it to the program as from outside of its pid namespace.
func (p *Process) Deaf(unix.Signal) bool { return false }

// terminal makes a terminal of the host's for a program of the guest, which sees it through its own kernel.
func terminal(size *specs.Box) (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a terminal: %w", err)
	}
	fd := int(master.Fd()) //nolint:gosec // a file descriptor
	err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	if err == nil && size != nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(size.Height), Col: uint16(size.Width)}) //nolint:gosec // a window
	}
	var peer uintptr
	if err == nil {
		var errno unix.Errno
		if peer, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC); errno != 0 { //nolint:gosec // a file descriptor
			err = errno
		}
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make a terminal: %w", err), master.Close())
	}
	return master, os.NewFile(peer, "terminal"), nil
}
