package gvisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper is a process, stopped or not, of that name.
func sleeper(t *testing.T, halted bool, name string) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.Args[0] = name
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if halted {
		halt(t, cmd.Process.Pid)
	}
	return cmd.Process.Pid
}

// halt stops a process, and waits until it is.
func halt(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
}

// TestWatched: who asks a kernel that does not answer hears which process is stopped; and where none is, goes on waiting.
func TestWatched(t *testing.T) {
	t.Parallel()
	awake, stopped := sleeper(t, false, "sleep"), sleeper(t, true, "sleep")
	for name, c := range map[string]struct {
		asked Asked
		want  string
	}{
		"the kernel":     {Asked{Kernel: stopped, Supervisor: awake}, fmt.Sprintf("gVisor's kernel, process %d, is stopped", stopped)},
		"the supervisor": {Asked{Kernel: awake, Supervisor: stopped}, fmt.Sprintf("the supervisor of the sandbox, process %d, is stopped", stopped)},
		"none":           {Asked{Kernel: awake, Supervisor: awake}, "enough"},
		"nobody":         {Asked{}, "enough"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeoutCause(t.Context(), 8*lateAfter, errors.New("enough"))
			defer cancel()
			ctx, over := c.asked.Watched(ctx)
			defer over()
			done := make(chan struct{})
			dir := liar(t, func(c *net.UnixConn) {
				hear(c)
				<-done
			})
			err := call(ctx, dir, "containerManager.Signal", "id", nil, nil)
			close(done)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, without %q", err, c.want)
			}
		})
	}
}

// TestStoppedBeside: a file server that is stopped counts at once, a stub only where stubs are looked at.
func TestStoppedBeside(t *testing.T) {
	t.Parallel()
	server, stub := sleeper(t, true, serverCommand), sleeper(t, true, "sleep")
	beside := func(pids ...int) Asked { return Asked{Beside: func() []int { return pids }} }
	for _, c := range []struct {
		asked Asked
		stubs bool
		pid   int
	}{{beside(server), false, server}, {beside(stub), false, 0}, {beside(stub), true, stub}, {beside(stub, server), false, server}, {beside(1<<22 + 1), true, 0}} {
		if e := c.asked.Stopped(c.stubs); (e == nil) != (c.pid == 0) || e != nil && e.PID != c.pid {
			t.Errorf("%+v: %v, and not process %d", c, e, c.pid)
		}
	}
}

// TestGiveUp: the supervisor goes on waiting for a program whose command is gone while the kernel is stopped: it will begin when that goes on,
// and is to be killed then.
func TestGiveUp(t *testing.T) {
	t.Parallel()
	kernel := sleeper(t, true, "sleep")
	silent, looks := make(chan struct{}), make(chan struct{}, 100)
	go giveUp(t.Context(), func() { close(silent) }, func() int {
		looks <- struct{}{}
		return kernel
	}, time.Millisecond)
	for range 3 {
		<-looks
	}
	select {
	case <-silent:
		t.Error("it did not wait for a kernel that is stopped")
	default:
	}
	if err := unix.Kill(kernel, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	go func() {
		for range looks { // however many it needs
		}
	}()
	within(t, "it gives up when none is", silent)
}
