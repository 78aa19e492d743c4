package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// socketName is the control socket in a sandbox's folder.
const socketName = "gvisor.sock"

// remoteError is what a method of the kernel answered.
type remoteError struct{ method, text string }

func (e *remoteError) Error() string { return e.method + ": " + e.text }

// goneError is a kernel that has ended, or does not hold the connection.
type goneError struct{}

func (e *goneError) Error() string { return "gVisor's kernel has ended without a word" }

// Gone tells whether an error is that the kernel has ended.
func Gone(err error) bool {
	var e *goneError
	return errors.As(err, &e)
}

// asking names the method of an error.
func asking(method string, err error) error {
	for _, gone := range []error{io.EOF, io.ErrUnexpectedEOF, unix.ECONNRESET, unix.EPIPE} {
		if errors.Is(err, gone) {
			return &goneError{}
		}
	}
	return fmt.Errorf("ask gVisor's kernel for %s: %w", method, err)
}

// request and response are the messages of gVisor's control server (its package pkg/urpc): JSON one after another on a stream,
// files beside the first byte.
type request struct {
	Method string `json:"method"`
	Arg    any    `json:"arg"`
}

type response struct {
	Success bool            `json:"success"`
	Err     string          `json:"err"`
	Result  json.RawMessage `json:"result"`
}

// dial connects with the kernel of the sandbox whose folder is dir.
func dial(dir string) (*net.UnixConn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // read only
	label, err := keptLabel(dir)
	if err != nil {
		return nil, err
	}
	var c *net.UnixConn
	err = labelSockets(label, func() error {
		c, err = net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName)})
		return err
	})
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil, &goneError{}
	}
	if err != nil {
		return nil, fmt.Errorf("reach gVisor's kernel: %w", err)
	}
	return c, nil
}

// What a guest might have taken over is the kernel process, and what Brig hears from it is then the guest's word: as long as it likes, as late as
// it likes, and with what it likes. (Files that come with an answer the host's kernel closes: nothing here asks for them.)

// call has the kernel run one method. A nil result is not looked at.
func call(ctx context.Context, dir, method string, arg any, files []*os.File, result any) error {
	c, err := dial(dir)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // one question, one answer
	return ask(ctx, c, method, arg, files, result)
}

// answerTime is how long a kernel may take for what it does at once, as a signal. One that is stopped answers nothing.
const answerTime = 10 * time.Second

// silentError is a kernel that has not answered.
type silentError struct{ method string }

func (e *silentError) Error() string {
	return fmt.Sprintf("%s: gVisor's kernel does not answer for %s: its process is stopped, or gets no processor time; SIGKILL ends it all the same", e.method, answerTime)
}

// callSoon is call for what takes the kernel no time.
func callSoon(dir, method string, arg, result any) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), answerTime, &silentError{method})
	defer cancel()
	return call(ctx, dir, method, arg, nil, result)
}

// ask is call on a connection, which is of no use any more when ctx ended it.
func ask(ctx context.Context, c *net.UnixConn, method string, arg any, files []*os.File, result any) error {
	return until(ctx, c, func() error {
		if err := question(c, method, arg, files); err != nil {
			return err
		}
		return answer(answers(c), method, result)
	})
}

// until has a conversation that ctx ends.
func until(ctx context.Context, c *net.UnixConn, do func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := do()
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// question sends a request, with files beside its first byte.
func question(c *net.UnixConn, method string, arg any, files []*os.File) error {
	text, err := json.Marshal(request{method, arg})
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd()) //nolint:gosec // a file descriptor
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(text, rights, nil)
	if err == nil && n < len(text) {
		_, err = c.Write(text[n:])
	}
	if err != nil {
		return asking(method, err)
	}
	return nil
}

// maxAnswer bounds an answer. The longest is a list of processes.
const maxAnswer = 1 << 20

// answers are what comes back from the kernel.
func answers(c io.Reader) *json.Decoder { return json.NewDecoder(&bounded{c, maxAnswer}) }

// bounded is a reader that fails where its text ought to have ended.
type bounded struct {
	from io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is longer than %d KiB", maxAnswer>>10)
	}
	n, err := b.from.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// answer takes what comes back.
func answer(from *json.Decoder, method string, result any) error {
	var r response
	if err := from.Decode(&r); err != nil {
		return asking(method, err)
	}
	if !r.Success {
		text, _, _ := strings.Cut(r.Err, "\ngoroutine ") // where in gVisor that was is for who works on it
		return &remoteError{method, shown(strings.TrimSuffix(text, ":"))}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.Result, result); err != nil {
		return fmt.Errorf("ask gVisor's kernel for %s: it has answered nonsense: %w", method, err)
	}
	return nil
}
