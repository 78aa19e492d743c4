package oci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// checkTerminal refuses a terminal that nobody would hold, and a socket for a terminal that nobody makes. The words are
// runc's: its callers look for them.
func checkTerminal(spec *specs.Spec, socket string, detach bool) error {
	switch {
	case spec.Process == nil:
		return errors.New("config.json: process is missing; there is nothing to run")
	case detach && spec.Process.Terminal && socket == "":
		return errors.New("cannot allocate tty if runc will detach without setting console socket: use --console-socket")
	case (!detach || !spec.Process.Terminal) && socket != "":
		return errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

// holdTerminal hands the master of the process's terminal to the caller: through its socket, or by copying between the two.
func (o *creation) holdTerminal(master *os.File) (err error) {
	if o.console == "" {
		o.relay, err = relay(master)
		return err
	}
	if err := errors.Join(sendFD(o.console, master, []byte(ptmx)), master.Close()); err != nil {
		return fmt.Errorf("--console-socket %s: %w", o.console, err)
	}
	return nil
}

// console connects the terminal of a process in the foreground with the caller's streams.
type console struct {
	master *os.File
	host   *os.File // the caller's terminal, or nil
	old    *unix.Termios
	stop   *os.File // closing it ends the copying when nothing is left to copy
	done   chan struct{}
	resize chan os.Signal
}

// relay begins the copying. The console has the master from then on.
func relay(master *os.File) (*console, error) {
	c := &console{master: master, done: make(chan struct{}), resize: make(chan os.Signal, 1)}
	if err := c.newlines(); err != nil {
		return nil, errors.Join(err, master.Close())
	}
	stopped, stop, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, master.Close())
	}
	c.stop = stop
	if c.host = hostTerminal(); c.host != nil {
		c.raw()
		c.follow()
	}
	go func() {
		defer close(c.done)
		defer stopped.Close() //nolint:errcheck // read only
		c.output(os.Stdout, int(stopped.Fd()))
	}()
	go func() { _, _ = io.Copy(master, os.Stdin) }()
	return c, nil
}

// newlines keeps the terminal from turning a newline into two characters: the caller's own terminal does, and where the
// output goes into a file nobody wants it.
func (c *console) newlines() error {
	t, err := unix.IoctlGetTermios(int(c.master.Fd()), unix.TCGETS) //nolint:gosec // a file descriptor
	if err == nil {
		t.Oflag &^= unix.ONLCR
		err = unix.IoctlSetTermios(int(c.master.Fd()), unix.TCSETS, t) //nolint:gosec // a file descriptor
	}
	if err != nil {
		return fmt.Errorf("set up the terminal: %w", err)
	}
	return nil
}

// hostTerminal is the caller's terminal: one of its streams, else the one that controls its session.
func hostTerminal() *os.File {
	for _, f := range []*os.File{os.Stderr, os.Stdout, os.Stdin} {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil { //nolint:gosec // a file descriptor
			return f
		}
	}
	f, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil // a service manager's child has none; the program still gets its own
	}
	return f
}

// raw has the caller's terminal pass every key on, until the console is closed (cfmakeraw, termios(3)).
func (c *console) raw() {
	old, err := unix.IoctlGetTermios(int(c.host.Fd()), unix.TCGETS) //nolint:gosec // a file descriptor
	if err != nil {
		return
	}
	t := *old
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag |= unix.OPOST // the newlines that the sandbox's own terminal leaves alone
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if unix.IoctlSetTermios(int(c.host.Fd()), unix.TCSETS, &t) == nil { //nolint:gosec // a file descriptor
		c.old = old
	}
}

// follow keeps both terminals of one size.
func (c *console) follow() {
	signal.Notify(c.resize, unix.SIGWINCH)
	resize := func() {
		if size, err := unix.IoctlGetWinsize(int(c.host.Fd()), unix.TIOCGWINSZ); err == nil { //nolint:gosec // a file descriptor
			_ = unix.IoctlSetWinsize(int(c.master.Fd()), unix.TIOCSWINSZ, size) //nolint:gosec // a file descriptor
		}
	}
	resize()
	go func() {
		for range c.resize {
			resize()
		}
	}()
}

// output copies what the terminal says until nobody has it open any more (EIO, pty(7)), or, once stopped, until it says
// no more for now: a process in the background may keep it open.
func (c *console) output(to io.Writer, stopped int) {
	fds := []unix.PollFd{{Fd: int32(c.master.Fd()), Events: unix.POLLIN}, {Fd: int32(stopped), Events: unix.POLLIN}} //nolint:gosec // file descriptors
	buffer := make([]byte, 32<<10)
	for {
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return
		}
		switch {
		case fds[0].Revents != 0:
			n, err := c.master.Read(buffer)
			if err != nil {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		case fds[1].Revents != 0:
			return
		}
	}
}

// close passes on what is left and gives the caller's terminal back. A nil console is none.
func (c *console) close() {
	if c == nil {
		return
	}
	_ = c.stop.Close()
	<-c.done
	signal.Stop(c.resize)
	if c.old != nil {
		_ = unix.IoctlSetTermios(int(c.host.Fd()), unix.TCSETS, c.old) //nolint:gosec // a file descriptor
	}
	_ = c.master.Close()
}
