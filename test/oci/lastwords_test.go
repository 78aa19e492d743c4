package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// created is a container that waits for its start on gVisor's kernel, whose process it gives, with the file of its standard error.
func (e *engine) created(id string) (kernel int, stderr string) {
	e.t.Helper()
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	f, err := os.Create(filepath.Join(e.t.TempDir(), "stderr"))
	if err != nil {
		e.t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("timeout", "60", runtime, "--root", e.root, "create", "--bundle", e.bundle, id)
	cmd.Stderr = f
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(f.Name())
		e.t.Fatalf("%v: %s", err, text)
	}
	e.t.Cleanup(func() { e.call("delete", "--force", id) })
	var state specs.State
	if err := json.Unmarshal([]byte(e.want(0, "", "state", id)), &state); err != nil {
		e.t.Fatal(err)
	}
	return state.Pid, f.Name()
}

func (e *engine) signal(pid int, signals ...unix.Signal) {
	e.t.Helper()
	for _, s := range signals {
		if err := unix.Kill(pid, s); err != nil {
			e.t.Fatal(err)
		}
	}
}

// TestKernelDiesAtStart: the words with which gVisor's kernel ends while it is to start the program are the error's, on standard error and in
// both forms of the log, and the container's standard error has them, too.
func TestKernelDiesAtStart(t *testing.T) {
	t.Parallel()
	if testenv.Isolation() != "gvisor" {
		return // there is no kernel between
	}
	for _, format := range []string{"json", "text"} {
		e := newEngine(t)
		kernel, stderr := e.created("dies")
		pipe, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/2", kernel)) // as its status pipe
		if err != nil || !strings.HasPrefix(pipe, "pipe:") {
			t.Fatalf("%q, %v", pipe, err)
		}
		e.signal(kernel, unix.SIGSTOP)
		out, log := filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "log")
		f, err := os.Create(out)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(runtime, "--root", e.root, "--log", log, "--log-format", format, "start", "dies")
		cmd.Stdout, cmd.Stderr = f, f
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); !opened(cmd.Process.Pid, pipe); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("start does not listen to the kernel")
			}
		}
		e.signal(kernel, unix.SIGABRT, unix.SIGCONT)
		_ = cmd.Wait()
		_ = f.Close()
		if code := cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("exit code %d", code)
		}
		for _, name := range []string{out, log, stderr} {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			words := "gVisor's kernel has ended, and said: SIGABRT: abort; "
			if name == stderr {
				words = "SIGABRT: abort\n"
			}
			if !strings.Contains(string(text), words) {
				t.Errorf("%s, %s: %s", format, filepath.Base(name), text)
			}
			control := func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }
			if name != stderr && (len(text) > 64<<10 || strings.ContainsFunc(string(text), control)) {
				t.Errorf("%s, %s: not for a terminal: %q", format, filepath.Base(name), text)
			}
		}
		e.until("dies", "stopped")
	}
}

// opened tells whether a process has a file open.
func opened(pid int, file string) bool {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, name := range names {
		if to, err := os.Readlink(name); err == nil && to == file {
			return true
		}
	}
	return false
}

// TestKernelDiesLater: of a kernel that ends by itself while no brig-oci runs the container's standard error tells.
func TestKernelDiesLater(t *testing.T) {
	t.Parallel()
	if testenv.Isolation() != "gvisor" {
		return // there is no kernel between
	}
	e := newEngine(t)
	kernel, stderr := e.created("dies")
	e.signal(kernel, unix.SIGABRT)
	e.until("dies", "stopped")
	if text, err := os.ReadFile(stderr); err != nil || !strings.HasPrefix(string(text), "SIGABRT: abort\n") {
		t.Errorf("%v: %s", err, text)
	}
	e.want(1, "cannot start a container that has stopped", "start", "dies")
}

// TestKernelIsStopped: a kernel whose process is stopped (SIGSTOP) keeps no start and no exec waiting without a word.
func TestKernelIsStopped(t *testing.T) {
	t.Parallel()
	if testenv.Isolation() != "gvisor" {
		return // a stopped program answers nobody
	}
	e := newEngine(t)
	kernel, _ := e.created("stopped")
	e.signal(kernel, unix.SIGSTOP)
	e.want(1, fmt.Sprintf("gVisor's kernel, process %d, is stopped (SIGSTOP), and the start is given up", kernel), "start", "stopped")
	e.until("stopped", "stopped")
	kernel, _ = e.created("goes-on")
	e.want(0, "", "start", "goes-on")
	e.signal(kernel, unix.SIGSTOP)
	out := e.want(255, "is stopped (SIGSTOP)", "exec", "goes-on", "true")
	if !regexp.MustCompile(fmt.Sprintf("`kill -CONT %d` lets it go on, `brig-oci delete --force goes-on` ends the container", kernel)).MatchString(out) {
		t.Errorf("%s", out)
	}
	e.signal(kernel, unix.SIGCONT)
	e.want(0, "", "exec", "goes-on", "true")
}

// TestKernelWithoutMemory: a kernel that has too little memory to start is told by that.
func TestKernelWithoutMemory(t *testing.T) {
	t.Parallel()
	if testenv.Isolation() != "gvisor" {
		return // there is no kernel between
	}
	e := newEngine(t)
	limit := int64(6 << 20)
	e.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	e.write()
	out := e.want(1, "OOM-killed (memory limit too low?)", "create", "--bundle", e.bundle, "small")
	if strings.Contains(out, "EOF") {
		t.Error(out)
	}
}
