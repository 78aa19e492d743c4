// Package oci runs bundles on brig-oci, as an engine would by hand.
package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var runtime string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "brig-oci-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	runtime = filepath.Join(dir, "brig-oci")
	if err := testenv.Build(runtime, "brig/cmd/brig-oci"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if runtime, err = testenv.Absent(dir, runtime); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if runtime, err = testenv.Handler(dir, runtime); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// engine calls the runtime on one bundle, with a state folder of its own.
type engine struct {
	t      *testing.T
	root   string
	bundle string
	spec   *specs.Spec
	wrap   []string // a command that runs the runtime, with it and its arguments behind
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	testenv.Check(t, testenv.Root)
	e := &engine{t: t, root: filepath.Join(t.TempDir(), "state"), bundle: t.TempDir()}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "dev", "proc", "run", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(e.bundle, "rootfs", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// By another process: a file that this one has open for writing could be busy in a child that another test starts.
	if out, err := exec.Command("cp", busybox, filepath.Join(e.bundle, "rootfs/bin/busybox")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range strings.Fields("sh cat echo sleep id ps true hostname stat head od grep tr ls pwd") {
		if err := os.Symlink("busybox", filepath.Join(e.bundle, "rootfs/bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if out, code := e.call("spec", "--bundle", e.bundle); code != 0 {
		t.Fatal(out)
	}
	text, err := os.ReadFile(filepath.Join(e.bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	e.spec = &specs.Spec{}
	if err := json.Unmarshal(text, e.spec); err != nil {
		t.Fatal(err)
	}
	e.spec.Process.Terminal = false
	return e
}

func (e *engine) write() {
	e.t.Helper()
	text, err := json.Marshal(e.spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(e.bundle, "config.json"), text, 0o600)
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// call runs the runtime to its end. Output goes to a file: what a container inherits would hold a pipe.
func (e *engine) call(args ...string) (out string, code int) {
	e.t.Helper()
	f, err := os.CreateTemp(e.t.TempDir(), "out")
	if err != nil {
		e.t.Fatal(err)
	}
	defer f.Close()
	command := slices.Concat([]string{fmt.Sprint(testenv.Patience(60 * time.Second).Seconds())}, e.wrap, []string{runtime, "--root", e.root}, args)
	cmd := exec.Command("timeout", command...)
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		e.t.Fatal(err)
	}
	text, err := os.ReadFile(f.Name())
	if err != nil {
		e.t.Fatal(err)
	}
	if cmd.ProcessState.ExitCode() != 0 {
		testenv.EndRefused(e.t, string(text))
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// differs tells whether something in the test is otherwise under the isolation it runs on (testdata/ISOLATION.json).
func differs(t *testing.T) bool {
	t.Helper()
	_, ok := testenv.Differs(t)
	return ok
}

func (e *engine) want(code int, words string, args ...string) string {
	e.t.Helper()
	out, got := e.call(args...)
	if got != code || !strings.Contains(out, words) {
		e.t.Errorf("%v: exit code %d, %q; want %d, %q", args, got, out, code, words)
	}
	return out
}

func (e *engine) status(id string) string {
	e.t.Helper()
	out, code := e.call("state", id)
	var s specs.State
	if err := json.Unmarshal([]byte(out), &s); code != 0 || err != nil {
		return "none"
	}
	return string(s.Status)
}

func (e *engine) until(id, status string) {
	e.t.Helper()
	for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); e.status(id) != status; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.t.Fatalf("%s is %s, never %s", id, e.status(id), status)
		}
	}
}

func TestLife(t *testing.T) {
	t.Parallel()
	e, otherwise := newEngine(t), differs(t)
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	pidFile := filepath.Join(t.TempDir(), "pid")
	e.want(0, "", "create", "--bundle", e.bundle, "--pid-file", pidFile, "one")
	t.Cleanup(func() { e.call("delete", "--force", "one") })
	if s := e.status("one"); s != "created" {
		t.Errorf("after create it is %s", s)
	}
	// CVE-2019-5736: the runtime's binary, which the waiting process still executes, cannot be written by anybody's /proc/PID/exe.
	// Unsealed the error would be ETXTBSY, and nothing at all once it had ended.
	if pid, err := os.ReadFile(pidFile); err == nil {
		exe := "/proc/" + string(pid) + "/exe"
		_, err := os.OpenFile(exe, os.O_WRONLY, 0)
		// Where there is no overlayfs it is a sealed copy in memory.
		if to, _ := os.Readlink(exe); !errors.Is(err, unix.EROFS) && !strings.HasPrefix(to, "/memfd:brig-oci") && !(otherwise && errors.Is(err, unix.ETXTBSY)) {
			t.Errorf("the runtime's binary opened for writing: %v, want EROFS", err)
		}
	}
	if pid, err := os.ReadFile(pidFile); err != nil || len(pid) == 0 || bytes.ContainsAny(pid, "\n ") {
		t.Errorf("pid file: %q, %v", pid, err)
	}
	e.want(1, "container with given ID already exists: one", "create", "--bundle", e.bundle, "one")
	e.want(0, "", "start", "one")
	e.want(1, "cannot start an already running container", "start", "one")
	e.want(1, "cannot delete container one that is not stopped: running", "delete", "one")
	e.want(0, "from exec", "exec", "one", "sh", "-c", "echo from exec")
	e.want(9, "", "exec", "one", "sh", "-c", "exit 9")
	e.want(255, "executable file not found in $PATH", "exec", "one", "nosuch")
	listed := "sleep 1000"
	if otherwise {
		listed = "brig-gvisor sentry"
	}
	e.want(0, listed, "ps", "one")
	e.want(0, "", "pause", "one")
	e.want(255, "paused", "exec", "one", "true")
	e.want(0, "", "resume", "one")
	e.want(0, `"type":"stats"`, "events", "--stats", "one")
	e.want(0, "", "update", "--memory", "33554432", "one")
	e.want(0, `"limit":33554432`, "events", "--stats", "one")
	e.want(0, `"id":"one"`, "list", "--format", "json")
	e.want(0, "", "kill", "one", "KILL")
	e.until("one", "stopped")
	e.want(1, "container not running", "kill", "one")
	e.want(255, "stopped", "exec", "one", "true")
	e.want(1, "cannot start a container that has stopped", "start", "one")
	e.want(0, "", "delete", "one")
	e.want(1, "does not exist", "delete", "one")
	e.want(0, "", "delete", "--force", "one")
	e.want(1, "does not exist", "state", "one")
}

func TestRunGivesTheExitCode(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"sh", "-c", "echo said; exit 42"}
	e.write()
	e.want(42, "said", "run", "--bundle", e.bundle, "code")
	e.spec.Process.Args = []string{"nosuch"}
	e.write()
	e.want(1, `exec: \"nosuch\": executable file not found in $PATH`, "run", "--bundle", e.bundle, "code")
	e.spec.Process.Args = []string{"/tmp"}
	e.write()
	e.want(1, "permission denied", "run", "--bundle", e.bundle, "code")
	if out, _ := e.call("list", "-q"); out != "" {
		t.Errorf("left: %q", out)
	}
}

// TestErrorsAreLogged: engines read the last line of the log.
func TestErrorsAreLogged(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	log := filepath.Join(t.TempDir(), "log.json")
	e.want(1, "does not exist", "--log", log, "--log-format", "json", "state", "nobody")
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, _ := io.ReadAll(f)
	var line struct{ Level, Msg, Time string }
	if err := json.Unmarshal(text, &line); err != nil || line.Level != "error" || !strings.Contains(line.Msg, "does not exist") || line.Time == "" {
		t.Errorf("the log has %s (%v)", text, err)
	}
}
