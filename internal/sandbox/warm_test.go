package sandbox

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// TestHandover has a run say what no run says: each is refused in words.
func TestHandover(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		word, request string
		more          int
		want          string
	}{
		"other word":  {"?", "{}", 0, `the run said "?" with 1 files`},
		"too many":    {warmDetach, "{}", 1, `the run said "detach" with 2 files`},
		"no JSON":     {warmRun, "{", 0, "read the request: unexpected EOF"},
		"no program":  {warmRun, "{}", 0, "read the request: it has no program"},
		"half a spec": {warmDetach, `{"Spec": {"ociVersion": "1.0"}}`, 0, "read the request: it has no program"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := connected(t)
			f, err := memory([]byte(c.request))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			rights := []int{int(f.Fd())}
			for range c.more {
				rights = append(rights, int(f.Fd()))
			}
			if err := unix.Sendmsg(int(theirs.Fd()), []byte(c.word), unix.UnixRights(rights...), nil, 0); err != nil {
				t.Fatal(err)
			}
			run := &client{conn: ours}
			if err := run.receive(); err == nil || err.Error() != c.want {
				t.Errorf("%v, and not %s", err, c.want)
			}
		})
	}
}

// TestStranger has another user connect with a warm sandbox, and a run with one of another user's: neither says more than its name.
func TestStranger(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	dir, err := os.MkdirTemp("", "brig-stranger-") // short enough for a socket's address
	if err == nil {
		err = os.Chmod(dir, 0o777) //nolint:gosec // for the stranger
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listen := func(name string) (int, error) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/" + name})
		}
		if err == nil {
			err = unix.Listen(fd, 1)
		}
		return fd, errors.Join(err, os.Chmod(dir+"/"+name, 0o777)) //nolint:gosec // for the stranger
	}
	ours, err := listen("ours")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ours)
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := os.NewFile(uintptr(client), "client")
	defer conn.Close()
	asNobody(t, func() error {
		theirs, err := listen("theirs") // a peer sees who listened
		t.Cleanup(func() { _ = unix.Close(theirs) })
		return errors.Join(err, unix.Connect(client, &unix.SockaddrUnix{Name: dir + "/ours"}))
	})
	h := &holder{listener: ours}
	if c := h.accept(); c != nil {
		t.Error("a stranger has it")
	}
	if a, err := receiveAnswer(conn); err != nil || a.Error != "at the other end is user 65534" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := knock(dir, "theirs", warmRun, conn, nil, time.Now().Add(time.Minute)); err == nil || err.Error() != "at the other end is user 65534" {
		t.Errorf("a stranger's sandbox: %v", err)
	}
}

// asNobody does something in a thread that is another user, who may write anywhere, and ends with it.
func asNobody(t *testing.T, do func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()                                                            // and never unlocked: the thread is gone then
		_, _, errno := unix.RawSyscall(unix.SYS_SETREUID, uintptr(65534), ^uintptr(0), 0) // the thread's alone
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0))
		}
		if errno != 0 {
			done <- errno
			return
		}
		done <- do()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func connected(t *testing.T) (a, b *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(pair[0]), "a"), os.NewFile(uintptr(pair[1]), "b")
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}
