package oci

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// Without a caller's terminal the program still has one, and its output arrives as it was written.
func TestForegroundTerminal(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Terminal = true
	e.spec.Process.Args = []string{"sh", "-c", "test -t 0 -a -t 1 -a -t 2 && busybox tty && exit 6"}
	e.write()
	name, end := "/dev/pts/0\n", 6
	if differs(t) {
		name, end = "not a tty\n", 1
	}
	if out, code := e.call("run", "--bundle", e.bundle, "terminal"); code != end || out != name {
		t.Errorf("exit code %d, %q", code, out)
	}
	if s := e.status("terminal"); s != "none" {
		t.Errorf("after run it is %s", s)
	}
	e.want(1, "cannot allocate tty if runc will detach without setting console socket", "run", "--detach", "--bundle", e.bundle, "terminal")
	e.want(1, "cannot allocate tty if runc will detach without setting console socket", "create", "--bundle", e.bundle, "terminal")
	e.want(1, "cannot use console socket if runc will not detach or allocate tty", "run", "--console-socket", "/x", "--bundle", e.bundle, "terminal")

	e.spec.Process.Terminal = false
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.want(0, "", "run", "--detach", "--bundle", e.bundle, "terminal")
	t.Cleanup(func() { e.call("delete", "--force", "terminal") })
	// What a process in the background holds open does not hold the caller up.
	out, code := e.call("exec", "--tty", "terminal", "sh", "-c", "sleep 1000 & busybox seq 1 20000; exit 7")
	if lines := strings.Split(out, "\n"); code != 7 || len(lines) != 20001 || lines[19999] != "20000" {
		t.Errorf("exec --tty: exit code %d, %d lines, the last %q", code, len(lines), lines[max(0, len(lines)-2):])
	}
	e.want(255, "cannot allocate tty if runc will detach without setting console socket", "exec", "--tty", "--detach", "terminal", "true")
}

// A caller's terminal passes keys on raw, gives the program its size, and is afterwards as it was.
func TestCallersTerminal(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	master, slave := pty(t)
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 31, Col: 97}); err != nil {
		t.Fatal(err)
	}
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	e.spec.Process.Terminal = true
	e.spec.Process.Args = []string{"sh", "-c", "busybox stty size; read line; echo got $line; exit 5"}
	e.write()
	cmd := exec.Command("timeout", "--foreground", "60", runtime, "--root", e.root, "run", "--bundle", e.bundle, "caller")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := master.WriteString("a key\n"); err != nil {
		t.Fatal(err)
	}
	said := make(chan string)
	go func() {
		var all strings.Builder
		for buffer := make([]byte, 256); !strings.Contains(all.String(), "got a key"); {
			n, err := master.Read(buffer)
			if err != nil {
				break
			}
			all.Write(buffer[:n])
		}
		said <- all.String()
		_, _ = io.Copy(io.Discard, master)
	}()
	select {
	case out := <-said:
		if !strings.Contains(out, "31 97") || !strings.Contains(out, "got a key") {
			t.Errorf("it said %q", out)
		}
	case <-time.After(testenv.Patience(30 * time.Second)):
		t.Error("it said nothing")
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("run: %v, want exit code 5", err)
	}
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil || after.Lflag != before.Lflag || after.Iflag != before.Iflag || after.Oflag != before.Oflag {
		t.Errorf("the caller's terminal is left as %+v, %v; it was %+v", after, err, before)
	}
}

// pty opens a pair of terminals.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}
