package launch

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// status runs the program of a child to its end and gives its wait status. await is called at the stop, if there is one.
func wait(t *testing.T, c *Child) unix.WaitStatus {
	t.Helper()
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(c.PID, &ws, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Release(); err != nil {
			t.Error(err)
		}
		return ws
	}
}

func TestExec(t *testing.T) {
	p := New()
	p.Step(Exec, "run sh")
	p.Execve("/nonexistent/sh", []string{"sh"}, nil).Tolerate(unix.ENOENT)
	p.Execve("/bin/sh", []string{"sh", "-c", "exit 7"}, []string{"A=B"})
	c, err := p.Start(Clone{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitExec(); err != nil {
		t.Error(err)
	}
	if ws := wait(t, c); ws.ExitStatus() != 7 {
		t.Errorf("status %v, want 7", ws)
	}
}

func TestFailureNamesTheStep(t *testing.T) {
	p := New()
	p.Step(Root, "enter the working directory /nowhere")
	p.Chdir("/nowhere")
	p.Execve("/bin/true", []string{"true"}, nil)
	c, err := p.Start(Clone{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = c.WaitExec()
	var step *StepError
	if !errors.As(err, &step) || step.Errno != unix.ENOENT || !strings.Contains(err.Error(), "/nowhere") || step.Call != `chdir("/nowhere")` {
		t.Errorf("got %v (%+v)", err, step)
	}
	if ws := wait(t, c); ws.ExitStatus() != 125 {
		t.Errorf("status %v, want 125", ws)
	}
}

// A register that a tolerated failure left empty makes the instructions that read it no-ops, instead of calls on fd -1.
func TestEmptyRegisterSkips(t *testing.T) {
	p := New()
	fd := p.Openat2("dir", 0, "/nowhere", unix.O_PATH, 0, 0)
	p.Last().Tolerate(unix.ENOENT)
	p.Fchdir(fd)
	p.Execve("/bin/true", []string{"true"}, nil)
	c, err := p.Start(Clone{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitExec(); err != nil {
		t.Error(err)
	}
	if ws := wait(t, c); ws.ExitStatus() != 0 {
		t.Errorf("status %v, want 0", ws)
	}
}

func TestAwaitAndInput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := New()
	out := p.Input("output")
	p.Await(PointReady)
	p.Dup3(out, 1)
	p.Execve("/bin/echo", []string{"echo", "hello"}, nil)
	c, err := p.Start(Clone{}, map[Reg]*os.File{out: w})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitFor(PointReady); err != nil {
		t.Fatal(err)
	}
	if err := c.Continue(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitExec(); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	b := make([]byte, 16)
	n, err := r.Read(b)
	if err != nil || string(b[:n]) != "hello\n" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	wait(t, c)
}

// When the parent is gone, a waiting child ends instead of going on.
func TestParentGone(t *testing.T) {
	p := New()
	p.Await(PointReady)
	p.Execve("/bin/true", []string{"true"}, nil)
	c, err := p.Start(Clone{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitFor(PointReady); err != nil {
		t.Fatal(err)
	}
	if err := c.ctl.Close(); err != nil {
		t.Fatal(err)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(c.PID, &ws, 0, nil); err != nil || ws.ExitStatus() != 125 {
		t.Errorf("status %v, %v, want 125", ws, err)
	}
	_ = c.PIDFD.Close()
}

func TestProbe(t *testing.T) {
	for _, tt := range []struct {
		path string
		ok   bool
	}{{"/nowhere", true}, {"/", false}} {
		p := New()
		p.Step(Landlock, "probe")
		p.Chdir(tt.path).Expect(unix.ENOENT)
		p.Execve("/bin/true", []string{"true"}, nil)
		c, err := p.Start(Clone{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = c.WaitExec()
		var step *StepError
		if tt.ok != (err == nil) || !tt.ok && (!errors.As(err, &step) || !step.Probe) {
			t.Errorf("%s: %v", tt.path, err)
		}
		wait(t, c)
	}
}

// The reaper ends as the program ended, and hands signals on.
func TestForkInit(t *testing.T) {
	for _, tt := range []struct {
		script string
		signal unix.Signal
		want   int
	}{
		{"exit 3", 0, 3},
		{"kill -9 $$", 0, 137},
		{"(sleep 0.01 &) ; exit 4", 0, 4},
		{"trap 'exit 5' TERM; echo; while :; do sleep 0.01; done", unix.SIGTERM, 5},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := New()
		out := p.Input("output")
		p.Dup3(out, 1)
		p.CloseOnExecFrom(3)
		p.ForkInit()
		p.Execve("/bin/sh", []string{"sh", "-c", tt.script}, []string{"PATH=/bin"})
		c, err := p.Start(Clone{}, map[Reg]*os.File{out: w})
		if err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		if err := c.WaitExec(); err != nil {
			t.Error(err)
		}
		if tt.signal != 0 {
			if _, err := r.Read(make([]byte, 1)); err != nil { // the trap is set
				t.Error(err)
			}
			if err := unix.Kill(c.PID, tt.signal); err != nil {
				t.Error(err)
			}
		}
		if ws := wait(t, c); ws.ExitStatus() != tt.want {
			t.Errorf("%q: status %v, want %d", tt.script, ws.ExitStatus(), tt.want)
		}
		_ = r.Close()
	}
}

func TestForkInto(t *testing.T) {
	p := New()
	p.ForkInto()
	p.Await(PointReady)
	p.Execve("/bin/sh", []string{"sh", "-c", "exit 9"}, nil)
	c, err := p.Start(Clone{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := c.PID
	if err := c.WaitFor(PointReady); err != nil {
		t.Fatal(err)
	}
	if c.PID == first {
		t.Error("the child is still the first process")
	}
	if err := c.Continue(); err != nil {
		t.Fatal(err)
	}
	if ws := wait(t, c); ws.ExitStatus() != 9 {
		t.Errorf("status %v, want 9", ws)
	}
}

// What a child shows in /proc is readable inside the sandbox from the moment it has joined its pid namespace.
func TestChildHidesTheCallersArguments(t *testing.T) {
	own, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	if len(own) < 10 || string(argv) != string(own) {
		t.Fatalf("argv is %q, and the kernel has %q", argv, own)
	}
	p := New()
	p.Await(PointReady)
	p.Execve("/bin/true", []string{"true"}, nil)
	c, err := p.Start(Clone{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitFor(PointReady); err != nil {
		t.Fatal(err)
	}
	shown, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.PID))
	if err != nil {
		t.Error(err)
	}
	if got := strings.TrimRight(string(shown), "\x00"); got != "brig" {
		t.Errorf("the child's command line is %q, want brig alone", got)
	}
	if err := errors.Join(c.Continue(), c.WaitExec()); err != nil {
		t.Error(err)
	}
	wait(t, c)
	if now, _ := os.ReadFile("/proc/self/cmdline"); string(now) != string(own) {
		t.Errorf("the parent's own is now %q", now)
	}
}
