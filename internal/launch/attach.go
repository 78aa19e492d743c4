package launch

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Listen makes the socket at which a held child waits (Program.Hold). dir is a folder that nobody else may enter: who can
// connect can start the program.
func Listen(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the start socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "start socket")
	if err = unix.Bind(fd, address(dir, name)); err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make the start socket: %w", err)
	}
	return f, nil
}

// address goes through a descriptor: a socket's path has at most 107 bytes (unix(7)), a state folder's may have more.
func address(dir *os.File, name string) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)}
}

// Step is what Attach has to know of an instruction to name it.
type Step struct {
	Layer Layer  `json:"layer"`
	Why   string `json:"why"`
	Call  string `json:"call"`
}

// Steps are the instructions from the given Point on, by their index, for Attach in another process.
func (p *Program) Steps(from Point) map[int]Step {
	steps := map[int]Step{}
	found := false
	for i := range p.Instructions {
		in := &p.Instructions[i]
		found = found || in.op == opAwait && in.point == from
		if found {
			steps[i] = Step{in.Layer, in.Why, p.Text(in)}
		}
	}
	return steps
}

// Attach connects to a held child and becomes its parent in all but name: Continue starts it, WaitExec waits for the
// program or the failure. pidfd refers to the child and becomes the Child's. ECONNREFUSED or ENOENT: nobody waits there.
func Attach(dir *os.File, name string, pid int, pidfd *os.File, steps map[int]Step) (*Child, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reach the held process: %w", err)
	}
	ctl := os.NewFile(uintptr(fd), "start connection")
	if err := unix.Connect(fd, address(dir, name)); err != nil {
		_ = ctl.Close()
		return nil, fmt.Errorf("reach the held process: %w", err)
	}
	return &Child{PID: pid, PIDFD: pidfd, ctl: ctl, steps: steps}, nil
}

// WaitHeld waits until the child has parted from this process.
func (c *Child) WaitHeld() error {
	for {
		m, err := c.receive()
		if err == io.EOF { //nolint:errorlint // receive gives it as it is
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
