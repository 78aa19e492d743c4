package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// socketName is the control socket in a sandbox's folder.
const socketName = "gvisor.sock"

// remoteError is what a method of the kernel answered.
type remoteError struct{ method, text string }

func (e *remoteError) Error() string { return e.method + ": " + e.text }

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
	if err != nil {
		return nil, fmt.Errorf("reach gVisor's kernel: %w", err)
	}
	return c, nil
}

// call has the kernel run one method. A nil result is not looked at.
func call(dir, method string, arg any, files []*os.File, result any) error {
	return callUntil(time.Time{}, dir, method, arg, files, result)
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
	err := callUntil(time.Now().Add(answerTime), dir, method, arg, nil, result)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &silentError{method}
	}
	return err
}

func callUntil(deadline time.Time, dir, method string, arg any, files []*os.File, result any) error {
	c, err := dial(dir)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // one question, one answer
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	return ask(c, method, arg, files, result)
}

func ask(c *net.UnixConn, method string, arg any, files []*os.File, result any) error {
	if err := question(c, method, arg, files); err != nil {
		return err
	}
	return answer(json.NewDecoder(c), method, result)
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
		return fmt.Errorf("ask gVisor's kernel for %s: %w", method, err)
	}
	return nil
}

// answer takes what comes back.
func answer(from *json.Decoder, method string, result any) error {
	var r response
	if err := from.Decode(&r); err != nil {
		return fmt.Errorf("ask gVisor's kernel for %s: %w", method, err)
	}
	if !r.Success {
		return &remoteError{method, r.Err}
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(r.Result, result)
}
