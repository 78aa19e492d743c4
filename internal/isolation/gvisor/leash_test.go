package gvisor

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// fakeKernel answers for gVisor's kernel: its one program is process 7, which ends when end is closed.
type fakeKernel struct {
	end     chan struct{}
	mu      sync.Mutex
	methods []string
	signals []signalArgs
}

func newFakeKernel(t *testing.T, dir string) *fakeKernel {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, socketName)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	k := &fakeKernel{end: make(chan struct{})}
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go k.answer(c)
		}
	}()
	return k
}

func (k *fakeKernel) answer(c *net.UnixConn) {
	defer c.Close() //nolint:errcheck // a test's
	var r struct {
		Method string
		Arg    json.RawMessage
	}
	if json.NewDecoder(c).Decode(&r) != nil {
		return
	}
	k.mu.Lock()
	k.methods = append(k.methods, r.Method)
	k.mu.Unlock()
	switch r.Method {
	case executeMethod:
		reply(c, 7, nil)
	case waitMethod:
		<-k.end
		reply(c, 5<<8, nil)
	case signalMethod:
		var s signalArgs
		_ = json.Unmarshal(r.Arg, &s)
		k.mu.Lock()
		k.signals = append(k.signals, s)
		k.mu.Unlock()
		if s.Signo == int32(unix.SIGKILL) {
			close(k.end)
		}
		reply(c, nil, nil)
	}
}

// command is a connection with a supervisor, and a channel that is closed when that is done with it.
func command(t *testing.T, dir string) (c *net.UnixConn, done chan struct{}) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for n, fd := range pair {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[n] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	done = make(chan struct{})
	go func() {
		defer close(done)
		hold(ends[1], dir, "box", noKernel)
	}()
	return ends[0], done
}

func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("not in time: %s", what)
	}
}

// A program is killed when its command is gone. One that has ended is not, however long its command takes to hear of it: the kernel may have
// given its pid to another program.
func TestHold(t *testing.T) {
	t.Parallel()
	for _, ended := range []bool{false, true} {
		dir := t.TempDir()
		k := newFakeKernel(t, dir)
		c, done := command(t, dir)
		l := &leash{c, json.NewDecoder(c)}
		var pid int32
		err := question(c, executeMethod, &execArgs{ContainerID: "box"}, nil)
		if err == nil {
			err = answer(l.answers, executeMethod, &pid)
		}
		if err != nil || pid != 7 {
			t.Fatalf("process %d, %v", pid, err)
		}
		want := []signalArgs{{CID: "box", PID: 7, Signo: int32(unix.SIGKILL)}}
		if ended {
			l.signal(unix.SIGUSR1)
			want = []signalArgs{{CID: "box", PID: 7, Signo: int32(unix.SIGUSR1)}}
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
				k.mu.Lock()
				n := len(k.signals)
				k.mu.Unlock()
				if n > 0 || time.Now().After(deadline) {
					break
				}
			}
			close(k.end)
			within(t, "the supervisor has done with it", done)
		}
		var status uint32
		if ended {
			l.signal(unix.SIGTERM)
			if err := l.wait(&status); err != nil || status != 5<<8 {
				t.Errorf("it ended with %#x, %v", status, err)
			}
		}
		_ = c.Close()
		within(t, "the supervisor has done with it", done)
		if len(k.signals) != len(want) || k.signals[0] != want[0] {
			t.Errorf("ended %v: signals %v", ended, k.signals)
		}
	}
}

// The supervisor does what a command needs, and nothing else of the kernel's.
func TestHoldRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := newFakeKernel(t, dir)
	for _, c := range []struct{ request, want string }{
		{`{"method":"containerManager.Checkpoint","arg":{"ContainerID":"box"}}`, "no method"},
		{`{"method":"containerManager.Checkpoint","arg":{"Resume":true}}`, "unknown field"},
		{`{"method":"containerManager.ExecuteAsync","arg":{"ContainerID":"other"}}`, "no sandbox"},
		{`{"method":"containerManager.ExecuteAsync","arg":{"ContainerID":"box","GuestFDs":[0]}}`, "0 files"},
		{`{"method":"containerManager.ExecuteAsync","arg":{"ContainerID":"box","PIDNamespace":{}}}`, "unknown field"},
		{`nonsense`, "invalid character"},
	} {
		conn, done := command(t, dir)
		if _, err := conn.Write([]byte(c.request)); err != nil {
			t.Fatal(err)
		}
		err := answer(json.NewDecoder(conn), executeMethod, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.request, err)
		}
		within(t, "the supervisor has done with it", done)
	}
	if k.methods != nil {
		t.Errorf("the kernel was asked for %q", k.methods)
	}
}

// Another user is not answered, also where the files let one in.
func TestServeExecForItsUser(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	dir := t.TempDir()
	k := newFakeKernel(t, dir)
	l, err := ServeExec(dir, "box", noKernel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	name := filepath.Join(dir, leashName)
	for _, open := range []string{filepath.Dir(dir), dir, name} {
		if err := os.Chmod(open, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, user := range []int{0, 65534} {
		said := make(chan string, 1)
		go func() { said <- askAs(user, name) }()
		if got := <-said; (got != "") != (user == 0) {
			t.Errorf("user %d got %q", user, got)
		}
	}
	if len(k.methods) > 0 {
		t.Errorf("the kernel was asked for %q", k.methods)
	}
}

// askAs sends nonsense as another user, and gives what comes back. The thread that it turns into one ends with its goroutine.
func askAs(user int, name string) string {
	runtime.LockOSThread()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd) //nolint:errcheck // a test's
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(user), uintptr(user), uintptr(user)); errno != 0 {
		return errno.Error()
	}
	if err = unix.Connect(fd, &unix.SockaddrUnix{Name: name}); err == nil {
		_, err = unix.Write(fd, []byte("nonsense"))
	}
	if err != nil && !errors.Is(err, unix.EPIPE) {
		return err.Error()
	}
	text := make([]byte, 1<<10)
	n, _ := unix.Read(fd, text)
	return string(text[:max(n, 0)])
}

// A command that says nothing, and one that never comes to an end, is left.
func TestHoldBounds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := newFakeKernel(t, dir)
	_, silent := command(t, dir)
	endless, done := command(t, dir)
	go func() {
		_, _ = endless.Write([]byte(`{"method":"`))
		for text := []byte(strings.Repeat("x", 1<<20)); ; {
			if _, err := endless.Write(text); err != nil {
				return
			}
		}
	}()
	within(t, "the endless one is left", done)
	within(t, "the silent one is left", silent)
	if k.methods != nil {
		t.Errorf("the kernel was asked for %q", k.methods)
	}
}

func noKernel() int { return 0 }
