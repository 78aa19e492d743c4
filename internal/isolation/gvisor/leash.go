package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A program that `brig exec` has executed ends with the command, also when that is killed. The host's kernel sees to it natively
// (PR_SET_PDEATHSIG); a process of the guest's has no parent on the host. So the supervisor of the sandbox, which outlives the command and
// which the sandbox does not outlive, asks gVisor's kernel in the command's name, and holds the program by their connection.
//
// A command sends one request, that of the control socket, and gets two answers: the program's pid, and its wait status when it has
// ended. In between each byte that it sends is a signal for the program. It is the supervisor alone that waits for the program, and then
// sends nothing more: from its end on the guest's kernel may give the pid to another.

// leashName is the supervisor's socket in a sandbox's folder.
const leashName = "exec.sock"

const (
	executeMethod = "containerManager.ExecuteAsync"
	waitMethod    = "containerManager.WaitPID"
)

// ServeExec executes programs in the guest for commands of this process's user and of root, until the listener is closed, and kills each
// whose command is gone. dir and id are the sandbox's, and kernel gives its kernel's process, once there is one.
func ServeExec(dir, id string, kernel func() int) (io.Closer, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // read only
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), leashName)})
	if err != nil {
		return nil, fmt.Errorf("make the socket of brig exec: %w", err)
	}
	l.SetUnlinkOnClose(false) // the name is of a descriptor that is closed; the folder goes with the sandbox
	go func() {
		for {
			c, err := l.AcceptUnix()
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err != nil: // no descriptor is free, say
				time.Sleep(10 * time.Millisecond)
			default:
				go hold(c, dir, id, kernel)
			}
		}
	}()
	return l, nil
}

// held is a program that was executed for a command.
type held struct {
	c       *net.UnixConn
	dir, id string
	pid     int32
	ended   atomic.Bool
	signals chan unix.Signal // closed when the command is gone, or the program
}

// hold executes one program, and kills it when its command is gone before its end.
func hold(c *net.UnixConn, dir, id string, kernel func() int) {
	defer c.Close() //nolint:errcheck // nobody is to be told
	h := &held{c: c, dir: dir, id: id, signals: make(chan unix.Signal)}
	ctx, silent := context.WithCancel(context.Background())
	defer silent()
	var err error
	h.pid, err = forward(ctx, c, dir, id, func() {
		h.listen()
		giveUp(ctx, silent, kernel, answerTime)
	})
	if err != nil {
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.tellEnd(ctx)
	}()
	for s := range h.signals {
		h.signal(s)
	}
	h.signal(unix.SIGKILL)
	<-ended
}

// giveUp ends the waiting of a command that is gone, some time later: a kernel that does as it ought to has told the pid by then, and the
// end. Where a process is stopped that it needs, it will execute the program when that goes on, and the program is to be killed then.
func giveUp(ctx context.Context, silent func(), kernel func() int, after time.Duration) {
	look := time.NewTicker(after)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if (Asked{Kernel: kernel()}).Stopped(true) == nil {
			silent()
			return
		}
	}
}

// tellEnd waits for the end of the program, and lets listen end. Where the kernel has ended with it, the command is told nothing, and
// takes the sandbox for gone.
func (h *held) tellEnd(ctx context.Context) {
	var status uint32
	err := call(ctx, h.dir, waitMethod, waitArgs{h.pid, h.id}, nil, &status)
	h.ended.Store(true)
	if remote := (*remoteError)(nil); err == nil || errors.As(err, &remote) {
		reply(h.c, status, err)
	}
	_ = h.c.CloseRead()
}

// listen takes signals until the command is gone, or the program.
func (h *held) listen() {
	defer close(h.signals)
	for said := make([]byte, 1); ; {
		if n, err := h.c.Read(said); n == 0 || err != nil {
			return
		}
		h.signals <- unix.Signal(said[0])
	}
}

func (h *held) signal(s unix.Signal) {
	if !h.ended.Load() {
		_ = callSoon(h.dir, signalMethod, signalArgs{CID: h.id, Signo: int32(s), PID: h.pid}, nil)
	}
}

// commandTime is how long a command may take to say what it wants, and to take an answer.
const commandTime = 10 * time.Second

// forward takes one request to gVisor's kernel, and its answer back, which is the program's pid. A command that cannot be told any more
// has no error: it is gone. listen is called, apart, when the request is there: what comes from then on are signals.
func forward(ctx context.Context, c *net.UnixConn, dir, id string, listen func()) (pid int32, err error) {
	if err := allowed(c); err != nil {
		return 0, err
	}
	args, files, err := receive(c, id)
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if err == nil {
		go listen()
		err = call(ctx, dir, executeMethod, args, files, &pid)
	}
	reply(c, pid, err)
	return pid, err
}

// allowed refuses a process of another user's, to whom the folder is closed anyway (unix(7), SO_PEERCRED).
func allowed(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil { //nolint:gosec // a file descriptor
		return cerr
	}
	if err != nil {
		return fmt.Errorf("ask who is at the other end: %w", err)
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("at the other end is user %d", peer.Uid)
	}
	return nil
}

// reply answers a command.
func reply(c *net.UnixConn, result any, err error) {
	r := response{Success: true}
	var remote *remoteError
	switch {
	case errors.As(err, &remote):
		r = response{Err: remote.text}
	case err != nil:
		r = response{Err: err.Error()}
	default:
		r.Result, _ = json.Marshal(result)
	}
	_ = c.SetWriteDeadline(time.Now().Add(commandTime))
	_ = json.NewEncoder(c).Encode(&r)
}

const (
	// maxFiles is how many descriptors one message may have (SCM_MAX_FD of the kernel).
	maxFiles = 253
	// maxRequest is more than words and environment of a program can have (execve(2): 6 MiB), each byte written as six.
	maxRequest = 40 << 20
)

// receive reads a request for a program of the sandbox id, and the files for it, which are the caller's to close, whatever the error.
func receive(c *net.UnixConn, id string) (*execArgs, []*os.File, error) {
	if err := c.SetReadDeadline(time.Now().Add(commandTime)); err != nil {
		return nil, nil, err
	}
	text, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := c.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, nil, err
	}
	files, err := filesIn(rights[:oobn])
	if err != nil {
		return nil, files, err
	}
	var r struct {
		Method string
		Arg    execArgs
	}
	d := json.NewDecoder(io.MultiReader(bytes.NewReader(text[:n]), io.LimitReader(c, maxRequest)))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, files, fmt.Errorf("read the request: %w", err)
	}
	switch {
	case r.Method != executeMethod:
		return nil, files, fmt.Errorf("there is no method %q here", r.Method)
	case r.Arg.ContainerID != id:
		return nil, files, fmt.Errorf("there is no sandbox %q here", r.Arg.ContainerID)
	case len(r.Arg.GuestFDs) != len(files):
		return nil, files, fmt.Errorf("there are %d files, and %d are to be the program's", len(files), len(r.Arg.GuestFDs))
	}
	return &r.Arg, files, c.SetReadDeadline(time.Time{})
}

// filesIn takes the files of a message.
func filesIn(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "of brig exec"))
		}
		if err != nil {
			return files, err
		}
	}
	return files, nil
}

// leash is a command's end of the connection.
type leash struct {
	c       *net.UnixConn
	answers *json.Decoder
}

// executeHeld has the supervisor execute a program that is to end with this process.
func executeHeld(ctx context.Context, dir string, args *execArgs, files []*os.File, pid *int32) (*leash, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // read only
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), leashName)})
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil, &goneError{}
	}
	if err != nil {
		return nil, fmt.Errorf("reach the supervisor of the sandbox: %w", err)
	}
	l := &leash{c, json.NewDecoder(c)}
	err = until(ctx, c, func() error {
		if err := question(c, executeMethod, args, files); err != nil {
			return err
		}
		return answer(l.answers, executeMethod, pid)
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return l, nil
}

// wait takes the program's wait status.
func (l *leash) wait(status *uint32) error { return answer(l.answers, waitMethod, status) }

// signal sends the program a signal; one of a program that is gone is none. One that was sent SIGKILL is not waited for much longer: a kernel
// that does as it ought to ends it.
func (l *leash) signal(s unix.Signal) {
	if s == unix.SIGKILL {
		_ = l.c.SetReadDeadline(time.Now().Add(answerTime))
	}
	_, _ = l.c.Write([]byte{byte(s)})
}
