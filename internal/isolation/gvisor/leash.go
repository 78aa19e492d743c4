package gvisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// A program that `brig exec` has executed ends with the command, also when that is killed. The host's kernel sees to it natively
// (PR_SET_PDEATHSIG); a process of the guest's has no parent on the host. So the supervisor of the sandbox, which outlives the command and
// which the sandbox does not outlive, asks gVisor's kernel in the command's name, and holds the program by their connection.

// leashName is the supervisor's socket in a sandbox's folder. Its messages are those of the control socket.
const leashName = "exec.sock"

// released is what a command says that has seen the end of its program, or lets it go on without it.
const released = 'r'

// ServeExec executes programs in the guest for commands, until the listener is closed, and kills each whose command is gone. dir and id
// are the sandbox's.
func ServeExec(dir, id string) (io.Closer, error) {
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
			if err != nil {
				return
			}
			go hold(c, dir, id)
		}
	}()
	return l, nil
}

// hold executes one program, and kills it when its command is gone without a word.
func hold(c *net.UnixConn, dir, id string) {
	defer c.Close() //nolint:errcheck // nobody is to be told
	pid, err := forward(c, dir)
	if err != nil {
		return
	}
	var said [1]byte
	if n, _ := c.Read(said[:]); n == 1 && said[0] == released {
		return
	}
	_ = call(dir, "containerManager.Signal", signalArgs{CID: id, Signo: int32(unix.SIGKILL), PID: pid}, nil, nil)
}

// forward takes one request to gVisor's kernel, and its answer back, which is the program's pid. A command that cannot be told any more
// has no error: it is gone.
func forward(c *net.UnixConn, dir string) (pid int32, err error) {
	var r struct {
		Method string
		Arg    json.RawMessage
	}
	files, err := receive(c, &r)
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if err != nil {
		return 0, err
	}
	answer := response{Success: true}
	var remote *remoteError
	switch err = call(dir, r.Method, r.Arg, files, &pid); {
	case errors.As(err, &remote):
		answer = response{Err: remote.text}
	case err != nil:
		answer = response{Err: err.Error()}
	default:
		answer.Result, _ = json.Marshal(pid)
	}
	_ = json.NewEncoder(c).Encode(&answer)
	return pid, err
}

// maxFiles is how many descriptors one message may have (SCM_MAX_FD of the kernel).
const maxFiles = 253

// receive reads a message and the files beside its first byte, which are the caller's to close, whatever the error.
func receive(c *net.UnixConn, message any) ([]*os.File, error) {
	text, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := c.ReadMsgUnix(text, rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oobn])
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "of brig exec"))
		}
		if err != nil {
			return files, err
		}
	}
	return files, json.NewDecoder(io.MultiReader(bytes.NewReader(text[:n]), c)).Decode(message)
}

// execute asks the kernel to execute a program, through the supervisor where the program is to end with this process. The
// connection that is given then is the leash, nil otherwise.
func execute(dir string, supervised bool, args *execArgs, files []*os.File, pid *int32) (*net.UnixConn, error) {
	const method = "containerManager.ExecuteAsync"
	if !supervised {
		return nil, call(dir, method, args, files, pid)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // read only
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), leashName)})
	if err != nil {
		return nil, fmt.Errorf("reach the supervisor of the sandbox: %w", err)
	}
	if err := ask(c, method, args, files, pid); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// release lets the program go.
func release(leash *net.UnixConn) {
	if leash != nil {
		_, _ = leash.Write([]byte{released}) // a supervisor that is gone holds nothing
		_ = leash.Close()
	}
}
