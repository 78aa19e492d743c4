package oci

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"
)

// TestNotifySocket: the container has a socket of its own for sd_notify(3), and its word comes to the service manager with
// the process that is the unit's main one.
func TestNotifySocket(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	host := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: host, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := os.Chmod(host, 0o700); err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(e.root, "noted", "notify", "notify.sock")
	e.spec.Process.Args = []string{"sh", "-c", "echo socket=$NOTIFY_SOCKET; ls -l $NOTIFY_SOCKET; exec sleep 1000"}
	e.write()
	pidFile := filepath.Join(t.TempDir(), "pid")
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(runtime, "--root", e.root, "run", "--detach", "--bundle", e.bundle, "--pid-file", pidFile, "noted")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+host)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(testenv.Patience(60*time.Second), func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	t.Cleanup(func() { e.call("delete", "--force", "noted") })
	e.until("noted", "running")
	// The container's word, spoken from outside: its busybox has nothing that sends datagrams.
	var dir *os.File
	for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); ; time.Sleep(5 * time.Millisecond) {
		if dir, err = os.Open(filepath.Dir(inside)); err == nil {
			if _, err = os.Stat(inside); err == nil {
				break
			}
			dir.Close()
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	defer dir.Close()
	name := "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/notify.sock"
	speak, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer speak.Close()
	if _, err := speak.Write([]byte("STATUS=nearly\nREADY=1\nMAINPID=1\n")); err != nil {
		t.Fatal(err)
	}
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"READY=1\n", "MAINPID=" + string(pid) + "\n"} {
		buffer := make([]byte, 200)
		_ = socket.SetReadDeadline(time.Now().Add(testenv.Patience(30 * time.Second)))
		if n, err := socket.Read(buffer); err != nil || string(buffer[:n]) != want {
			t.Errorf("the service manager hears %q, %v, want %q", buffer[:n], err, want)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); ; time.Sleep(5 * time.Millisecond) {
		text, _ := os.ReadFile(out.Name())
		if strings.Contains(string(text), "socket=/run/notify/notify.sock\nsrwxrwxrwx") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("inside: %s", text)
		}
	}
}
