package engine

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// conmon has a container's monitor call the runtime as CRI-O does.
type conmon struct {
	t             *testing.T
	dir, root, id string
	bundle        string
}

func newConmon(t *testing.T) *conmon {
	t.Helper()
	testenv.Check(t, testenv.Root, testenv.Program("conmon"))
	c := &conmon{t: t, dir: t.TempDir(), id: fmt.Sprintf("conmon-%d", time.Now().UnixNano()%1e9)}
	c.root, c.bundle = c.dir+"/state", c.dir+"/bundle"
	for _, d := range []string{"bundle", "exits", "persist"} {
		if err := os.Mkdir(filepath.Join(c.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command(runtime, "--root", c.root, "delete", "--force", c.id).CombinedOutput(); err != nil {
			t.Errorf("delete --force: %v: %s", err, out)
		}
		c.gone("monitor.pid")
	})
	return c
}

// write makes the bundle.
func (c *conmon) write(script string) {
	c.t.Helper()
	_ = os.Remove(c.bundle + "/config.json")
	if out, err := exec.Command(runtime, "spec", "--bundle", c.bundle).CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	var spec specs.Spec
	text, err := os.ReadFile(c.bundle + "/config.json")
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	spec.Root.Path = rootfs(c.t)
	spec.Process.Terminal, spec.Process.Args = false, strings.Fields(script)
	if strings.Contains(script, ";") {
		spec.Process.Args = []string{"sh", "-c", script}
	}
	if text, err = json.Marshal(&spec); err == nil {
		err = os.WriteFile(c.bundle+"/config.json", text, 0o600)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// word is what conmon says on the pipe to its caller.
type word struct {
	PID      *int   `json:"pid"`
	ExitCode *int   `json:"exit_code"`
	Message  string `json:"message"`
}

// monitor starts conmon and gives what it says, up to n words.
func (c *conmon) monitor(n int, args ...string) []word {
	c.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("timeout", append([]string{
		"30", "conmon", "-c", c.id, "-u", c.id, "-r", runtime, "--runtime-arg", "--root=" + c.root, "-l", c.dir + "/log",
		"--socket-dir-path", c.dir, "-P", c.dir + "/monitor.pid",
	}, args...)...)
	cmd.ExtraFiles, cmd.Env = []*os.File{w}, append(os.Environ(), "_OCI_SYNCPIPE=3")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Logf("conmon: %v: %s", err, out)
	}
	_ = w.Close()
	_ = r.SetReadDeadline(time.Now().Add(patience))
	var words []word
	for s := bufio.NewScanner(r); len(words) < n && s.Scan(); {
		var said word
		if err := json.Unmarshal(s.Bytes(), &said); err != nil {
			c.t.Fatalf("conmon says %q: %v", s.Text(), err)
		}
		words = append(words, said)
	}
	if len(words) < n {
		c.t.Fatalf("conmon says only %v", words)
	}
	return words
}

func (c *conmon) create() word {
	c.t.Helper()
	return c.monitor(1, "-b", c.bundle, "-p", c.dir+"/pid", "-n", "name", "--exit-dir", c.dir+"/exits", "--persist-dir", c.dir+"/persist")[0]
}

func (c *conmon) call(words string, args ...string) {
	c.t.Helper()
	if out, err := exec.Command(runtime, append([]string{"--root", c.root}, args...)...).CombinedOutput(); err != nil || !strings.Contains(string(out), words) {
		c.t.Errorf("%v: %v: %q, want %q", args, err, out, words)
	}
}

// soon waits for a file that has the words.
func (c *conmon) soon(name, words string) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(c.dir, name))
		if err == nil && strings.Contains(string(text), words) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: %q (%v), want %q", name, text, err, words)
		}
	}
}

// gone waits for the end of the process whose number is in a file.
func (c *conmon) gone(name string) {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		c.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); unix.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Errorf("conmon, process %d, does not end", pid)
			return
		}
	}
}

// TestConmon is a container's life as CRI-O has it.
func TestConmon(t *testing.T) {
	t.Parallel()
	c := newConmon(t)
	c.write("echo out; echo err >&2; exit 7")
	if said := c.create(); said.PID == nil || *said.PID <= 0 {
		t.Fatalf("create: %+v", said)
	}
	c.call(`"status": "created"`, "state", c.id)
	c.call("", "start", c.id)
	c.soon("exits/"+c.id, "7")
	c.soon("persist/exit", "7")
	c.soon("log", " stdout F out\n")
	c.soon("log", " stderr F err\n")
	c.call(`"status": "stopped"`, "state", c.id)
	c.call("", "delete", c.id)
	c.gone("monitor.pid")
}

func TestConmonExec(t *testing.T) {
	t.Parallel()
	c := newConmon(t)
	c.write("sleep 1000")
	c.create()
	c.call("", "start", c.id)
	process, err := json.Marshal(&specs.Process{Args: []string{"sh", "-c", "echo second; exit 9"}, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err == nil {
		err = os.WriteFile(c.dir+"/process.json", process, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	said := c.monitor(1, "--exec", "--exec-process-spec", c.dir+"/process.json", "-p", c.dir+"/exec.pid", "-P", c.dir+"/exec-monitor.pid")[0]
	if said.ExitCode == nil || *said.ExitCode != 9 {
		t.Errorf("exec: %+v", said)
	}
	c.soon("log", " stdout F second\n")
	c.gone("exec-monitor.pid")
	c.call("", "kill", c.id, "KILL")
	c.soon("exits/"+c.id, "137")
}

// TestConmonHearsOfFailure: what CRI-O shows to a person.
func TestConmonHearsOfFailure(t *testing.T) {
	t.Parallel()
	c := newConmon(t)
	c.write("nosuch")
	said := c.create()
	hold(t, said.PID != nil && *said.PID <= 0 && strings.Contains(said.Message, "executable file not found in $PATH"), "create", fmt.Sprintf("%+v", said))
}
