package oci

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const leaderless = "BRIG_TEST_LEADERLESS"

// A child of this test ends its first thread, in which init runs, and lives on in the runtime's others.
func init() {
	if os.Getenv(leaderless) != "" {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
}

// TestAliveWithoutItsFirstThread: a process goes on when its first thread has ended, and is at its end when the last has.
func TestAliveWithoutItsFirstThread(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), leaderless+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	zombie := func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		return strings.HasPrefix(string(text[strings.LastIndexByte(string(text), ')')+1:]), " Z")
	}
	for deadline := time.Now().Add(10 * time.Second); !zombie(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("its first thread does not end")
		}
	}
	_, start, err := processStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	c := &container{}
	c.PID, c.StartTime = pid, start
	if alive, err := c.alive(); !alive || err != nil {
		t.Errorf("alive: %v, %v", alive, err)
	}
	fd, err := c.pidfd()
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd.Fd()), Events: unix.POLLIN}}, 10000); n != 1 || err != nil {
		t.Fatalf("it does not end: %d, %v", n, err)
	}
	if alive, err := c.alive(); alive || err != nil {
		t.Errorf("at its end: alive %v, %v", alive, err)
	}
}
