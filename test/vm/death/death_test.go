//go:build vm

// Package death kills brig by SIGKILL and sees whether what it runs ends, too: on kernels with and without AppArmor and SELinux,
// which make the kernel forget the parent-death signal at an execve that changes the label. It needs the folder BRIG_TEST_BIN
// with brig.
package death

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// patience is for a machine in software.
const patience = 30 * time.Second

// module is what confines sandboxes on this machine: the flag that asks for it, and how it shows in attr/current.
type module struct {
	name, flag, label string
	as                []string // put before brig
}

func modules() module {
	switch {
	case testenv.SELinux.Missing() == "":
		return module{"SELinux", "--security-opt=label=auto", "system_u:system_r:brig_", nil}
	case testenv.AppArmor.Missing() == "":
		return module{"AppArmor", "--security-opt=apparmor=auto", "brig-", nil}
	}
	return module{name: "no security module", flag: "--init=false"}
}

func (m module) command(args ...string) *exec.Cmd {
	argv := append(append([]string{}, m.as...), filepath.Join(os.Getenv("BRIG_TEST_BIN"), "brig"))
	argv = append(argv, args...)
	return exec.Command(argv[0], argv[1:]...)
}

// program is one that brig runs: a pidfd and a pid.
type program struct{ fd, pid int }

// start has brig run a program that waits, and gives both when the program is executed, under the label that begins so.
func (m module) start(t *testing.T, label, verb string, args ...string) (*exec.Cmd, program) {
	t.Helper()
	mark := "BRIG_DEATH=" + rand.Text()
	cmd := m.command(append([]string{verb, "-e", mark}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if len(m.as) > 0 {
		cmd.Stderr = nil
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		p, ok := marked(t, mark)
		if !ok {
			select {
			case <-ended:
				t.Fatalf("brig %s %q ended: %s %s", verb, args, cmd.ProcessState, said.String())
			default:
			}
			continue
		}
		if !p.lives(t) {
			continue // it is still being loaded
		}
		have, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", p.pid))
		if label != "" && (err != nil || !strings.HasPrefix(string(have), label)) {
			t.Fatalf("the program runs under %q, want %s (%v)", have, label, err)
		}
		return cmd, p
	}
	t.Fatalf("brig %s %q has executed no program: %s", verb, args, said.String())
	return nil, program{}
}

// marked finds the process whose environment has the mark, which it has from its execve on.
func marked(t *testing.T, mark string) (program, bool) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(data, []byte(mark)) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(file, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // of a test that has failed
			_ = unix.Close(fd)
		})
		return program{fd, pid}, true
	}
	return program{}, false
}

// kill ends brig and waits until it is gone. Its parent-death signals are sent by then.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	program{fd: fd}.ends(t, "brig")
}

// ends waits until the process is gone.
func (p program) ends(t *testing.T, what string) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	for deadline := time.Now().Add(patience); ; {
		n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
		if err == unix.EINTR { //nolint:errorlint // a plain one
			continue
		}
		if n != 1 || err != nil {
			t.Errorf("%s is still there (%v)", what, err)
		}
		return
	}
}

// lives tells that a process waits and has no SIGKILL to die of.
func (p program) lives(t *testing.T) bool {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch name {
		case "State":
			if !strings.HasPrefix(value, "S") {
				return false
			}
		case "SigPnd", "ShdPnd":
			if set, err := strconv.ParseUint(value, 16, 64); err != nil || set&(1<<(unix.SIGKILL-1)) != 0 {
				return false
			}
		}
	}
	return true
}

var waits = []string{"--", "sleep", "1000"}

func args(flags ...string) []string { return append(flags, waits...) }

// TestKilledBrig: a sandbox in the foreground and a program of brig exec end with a brig that is killed.
func TestKilledBrig(t *testing.T) {
	m := modules()
	for _, flags := range [][]string{{}, {"--preset", "strict"}, {"--preset", "compat"}, {"--init"}, {"--userns", "host"}, {"--cap-add", "ALL"}} {
		t.Run(strings.Join(append([]string{"run"}, flags...), " "), func(t *testing.T) {
			cmd, p := m.start(t, m.label, "run", args(append(flags, m.flag)...)...)
			kill(t, cmd)
			p.ends(t, "the program")
		})
	}
	t.Run("exec", func(t *testing.T) {
		name := "death-" + strings.ToLower(rand.Text()[:8])
		_, first := m.start(t, m.label, "run", args("--name", name, m.flag)...)
		cmd, p := m.start(t, m.label, "exec", append([]string{name}, waits[1:]...)...)
		kill(t, cmd)
		p.ends(t, "the program of exec")
		if !first.lives(t) {
			t.Error("the sandbox has ended, too")
		}
	})
	if !t.Failed() {
		testenv.Layer(t, "supervision: killed with brig", testenv.Enforced, "brig of run and of exec ended by SIGKILL under "+m.name+": the program ends")
	}
}

// TestForgottenSignal is what the kernel does where the label comes at execve, and the control of the other tests: the program lives
// on, and the next command ends it.
func TestForgottenSignal(t *testing.T) {
	m := modules()
	if m.label == "" {
		testenv.Check(t, testenv.AppArmor)
	}
	cmd, p := m.start(t, m.label, "run", args("--allow-missing=supervision", m.flag)...)
	kill(t, cmd)
	if !p.lives(t) {
		t.Error("it has ended: the test above proves nothing")
	}
	if out, err := m.command("ps").CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
	p.ends(t, "the program, after the next command,")
}

// TestForeignLabel: a policy that lets nobody change before execve has such a sandbox refused, and not outlive brig.
func TestForeignLabel(t *testing.T) {
	testenv.Check(t, testenv.SELinux)
	m := modules()
	const label = "system_u:system_r:brig_test_t:s0:c1,c2"
	cmd := exec.Command("bash", append([]string{"-o", "pipefail", "-c", `"$@" 2>&1 | cat`, "bash"}, m.command(append([]string{"run", "--security-opt=label=" + label}, waits...)...).Args...)...)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--init") || !strings.Contains(string(out), "dyntransition") {
		t.Errorf("%v %s", err, out)
	}
	testenv.Layer(t, "supervision: label of another's policy", testenv.Refused, strings.TrimSpace(string(out)))
}
