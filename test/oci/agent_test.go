package oci

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// agent is a seccomp agent: it answers mkdir with ENOMEDIUM and lets everything else through.
type agent struct {
	t      *testing.T
	path   string
	mu     sync.Mutex
	states []specs.ContainerProcessState
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "brig-agent-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, path: filepath.Join(dir, "sock")}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l.Close(), os.RemoveAll(dir) })
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			a.serve(conn)
		}
	}()
	return a
}

// serve takes the one message of a connection and starts to answer.
func (a *agent) serve(conn *net.UnixConn) {
	defer conn.Close()
	buf, oob := make([]byte, 1<<16), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		a.t.Error(err)
		return
	}
	var state specs.ContainerProcessState
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err = errors.Join(err, json.Unmarshal(buf[:n], &state)); err != nil || len(messages) != 1 {
		a.t.Errorf("%q: %d messages, %v", buf[:n], len(messages), err)
		return
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		a.t.Errorf("%v, %v", fds, err)
		return
	}
	a.mu.Lock()
	a.states = append(a.states, state)
	a.mu.Unlock()
	go a.answer(fds[0])
}

// answer speaks the protocol of seccomp_unotify(2): struct seccomp_notif is 80 bytes with the id first and the number of the
// call at 16, struct seccomp_notif_resp 24 bytes with id, val, error and flags.
func (a *agent) answer(listener int) {
	defer unix.Close(listener) //nolint:errcheck // the end
	for {
		fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}} //nolint:gosec // a file descriptor
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) || fds[0].Revents&unix.POLLHUP != 0 {
			return
		}
		var ask [80]byte
		if ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&ask)) != nil {
			continue
		}
		var reply [24]byte
		copy(reply[:8], ask[:8])
		if binary.NativeEndian.Uint32(ask[16:]) == unix.SYS_MKDIR {
			binary.NativeEndian.PutUint32(reply[16:], ^uint32(unix.ENOMEDIUM)+1)
		} else {
			binary.NativeEndian.PutUint32(reply[20:], unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
		}
		_ = ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&reply))
	}
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 { //nolint:gosec // a file descriptor
		return errno
	}
	return nil
}

// take gives the states that came, and forgets them.
func (a *agent) take() []specs.ContainerProcessState {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.states
	a.states = nil
	return list
}

func notified(path string, names ...string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: path, ListenerMetadata: "metadata of mine",
		Syscalls: []specs.LinuxSyscall{{Names: names, Action: specs.ActNotify}},
	}
}

// TestSeccompAgent: the agent hears of each process and its answers hold; also when it decides on the very calls that the
// runtime makes after the filter is loaded.
func TestSeccompAgent(t *testing.T) {
	t.Parallel()
	for _, noNew := range []bool{false, true} {
		e, a := newEngine(t), newAgent(t)
		e.addApplets("mkdir")
		e.spec.Process.NoNewPrivileges = noNew
		e.spec.Linux.Seccomp = notified(a.path, "mkdir", "execve", "openat", "read", "close")
		e.spec.Annotations = map[string]string{"org.example.key": "value"}
		id := "asked"
		if noNew {
			id = "asked-last"
		}
		e.spec.Process.Args = []string{"sleep", "1000"}
		e.write()
		e.want(0, "", "create", "--bundle", e.bundle, id)
		t.Cleanup(func() { e.call("delete", "--force", id) })
		e.want(0, "", "start", id)
		states := a.take()
		if len(states) != 1 {
			t.Fatalf("the agent heard of %d processes", len(states))
		}
		s := states[0]
		wantStatus := specs.StateCreating
		if noNew {
			wantStatus = specs.StateCreated
		}
		if s.Version != specs.Version || len(s.Fds) != 1 || s.Fds[0] != "seccompFd" || s.Metadata != "metadata of mine" || s.Pid != s.State.Pid || s.Pid <= 0 ||
			s.State.ID != id || s.State.Bundle != e.bundle || s.State.Status != wantStatus || s.State.Annotations["org.example.key"] != "value" {
			t.Errorf("the agent was told %+v", s)
		}
		e.want(1, "No medium found", "exec", id, "mkdir", "/tmp/x")
		if states = a.take(); len(states) != 1 || states[0].State.Status != specs.StateRunning || states[0].Pid == s.Pid || states[0].State.Pid != s.Pid {
			t.Errorf("of exec the agent was told %+v", states)
		}
	}
}

// TestSeccompAgentByAnnotation: crun's annotation and variable name an agent where the profile does not.
func TestSeccompAgentByAnnotation(t *testing.T) {
	t.Parallel()
	e, a := newEngine(t), newAgent(t)
	e.addApplets("mkdir")
	e.spec.Linux.Seccomp = notified("", "mkdir")
	e.spec.Linux.Seccomp.ListenerMetadata = ""
	e.spec.Annotations = map[string]string{"run.oci.seccomp.receiver": a.path}
	e.spec.Process.Args = []string{"mkdir", "/tmp/x"}
	e.write()
	e.want(1, "No medium found", "run", "--bundle", e.bundle, "by-annotation")
}

// TestSeccompAgentRefusals: without an agent nothing runs, and no name in a namespace that others share is taken for one.
func TestSeccompAgentRefusals(t *testing.T) {
	t.Parallel()
	for _, noNew := range []bool{false, true} {
		for path, words := range map[string]string{
			"/nowhere/agent.sock": "failed to connect with seccomp agent",
			"@abstract":           "not an absolute path",
			"":                    "listenerPath",
		} {
			e := newEngine(t)
			e.spec.Process.NoNewPrivileges = noNew
			e.spec.Linux.Seccomp = notified(path, "mkdir")
			e.spec.Process.Args = []string{"echo", "it ran"}
			e.write()
			id := "no-agent-" + strings.Trim(path[:min(len(path), 2)], "/@")
			if out := e.want(1, words, "run", "--bundle", e.bundle, id); strings.Contains(out, "it ran") {
				t.Errorf("%q: the program ran", path)
			}
			e.want(1, "does not exist", "state", id)
		}
		e := newEngine(t)
		e.spec.Process.NoNewPrivileges = noNew
		e.spec.Linux.Seccomp = notified("/nowhere/agent.sock", "write")
		e.write()
		e.want(1, "SCMP_ACT_NOTIFY cannot be used for the write syscall", "run", "--bundle", e.bundle, "no-agent")
	}
}
