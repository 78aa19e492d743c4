// Package engine has real engines run their containers on brig-oci.
package engine

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

// patience bounds what must happen soon.
const patience = time.Minute

var runtime string // the brig-oci that is tested

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "brig-engine-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	runtime = filepath.Join(dir, "brig-oci")
	cmd := exec.Command("go", "build", "-o", runtime, "brig/cmd/brig-oci")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build brig-oci: %v\n%s", err, out)
		return 1
	}
	// Every engine calls the runtime by the name that selects the suite's isolation: a link is all that they are told.
	if runtime, err = testenv.Handler(dir, runtime); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer keepPodmanOut()()
	return m.Run()
}

// rootfs makes a small root file system of busybox.
func rootfs(t *testing.T) string {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "dev", "etc", "proc", "run", "sys", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields("sh ls cat id ps mount sleep echo true hostname grep kill") {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// containerd is a daemon of this test's own.
type containerd struct {
	t      *testing.T
	dir    string
	daemon *exec.Cmd
	log    *os.File
}

func startContainerd(t *testing.T) *containerd {
	t.Helper()
	testenv.Check(t, testenv.Root, testenv.Program("containerd"), testenv.Program("ctr"))
	dir, err := os.MkdirTemp("/run", "brig-containerd-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "%[1]s/sock"
[plugins."io.containerd.runtime.v2.task"]
  platforms = ["linux/amd64"]
`, dir)
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	// As runc too: with id maps, ctr forgets the binary it was told and has the shim take runc.
	if err := os.Mkdir(dir+"/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(runtime, dir+"/bin/runc"); err != nil {
		t.Fatal(err)
	}
	c := &containerd{t: t, dir: dir}
	if c.log, err = os.Create(dir + "/log"); err != nil {
		t.Fatal(err)
	}
	c.start()
	t.Cleanup(c.stop)
	return c
}

func (c *containerd) start() {
	c.t.Helper()
	c.daemon = exec.Command("containerd", "-c", c.dir+"/config.toml")
	c.daemon.Env = append(os.Environ(), "PATH="+c.dir+"/bin:"+os.Getenv("PATH"))
	c.daemon.Stdout, c.daemon.Stderr = c.log, c.log
	if err := c.daemon.Start(); err != nil {
		c.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := c.try("version"); err == nil {
			return
		} else if time.Now().After(deadline) {
			c.t.Fatalf("containerd does not answer: %v", err)
		}
	}
}

func (c *containerd) halt() {
	_ = c.daemon.Process.Kill()
	_ = c.daemon.Wait()
}

// stop ends what a test left running, and the daemon. A shim that is still there then is an error.
func (c *containerd) stop() {
	tasks, _ := c.try("task", "ls", "-q")
	for id := range strings.FieldsSeq(tasks) {
		_, _ = c.try("task", "rm", "--force", id)
	}
	c.halt()
	for _, pid := range c.shims() {
		c.t.Errorf("a shim is left: process %d", pid)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	removeGroups("/" + c.namespace())
	if c.t.Failed() {
		if text, err := os.ReadFile(c.dir + "/log"); err == nil {
			lines := strings.Split(string(text), "\n")
			c.t.Logf("containerd's log ends:\n%s", strings.Join(lines[max(0, len(lines)-15):], "\n"))
		}
	}
	_ = c.log.Close()
	if err := os.RemoveAll(c.dir); err != nil {
		c.t.Error(err)
	}
}

// shims are the processes that have this daemon's socket in their command line.
func (c *containerd) shims() (pids []int) {
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range list {
		text, _ := os.ReadFile(name)
		if bytes.Contains(text, []byte("containerd-shim")) && bytes.Contains(text, []byte(c.dir+"/sock")) {
			pid, _ := strconv.Atoi(strings.Split(name, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// namespace is containerd's word for the names of one client. They are below a cgroup of this name.
func (c *containerd) namespace() string { return filepath.Base(c.dir) }

// try runs ctr. Its output goes to a file: a container left running would hold a pipe.
func (c *containerd) try(args ...string) (string, error) {
	out, err := os.CreateTemp(c.dir, "ctr-")
	if err != nil {
		return "", err
	}
	defer out.Close()
	defer os.Remove(out.Name())
	cmd := exec.Command("timeout", append([]string{"60", "ctr", "-a", c.dir + "/sock", "-n", c.namespace()}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	if _, serr := out.Seek(0, io.SeekStart); serr != nil {
		return "", serr
	}
	text, rerr := io.ReadAll(out)
	if rerr != nil {
		return "", rerr
	}
	if err != nil {
		err = fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(text))
	}
	return string(text), err
}

func (c *containerd) ctr(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// heard runs ctr until it says anything, with the number of the attempt in place of {}. When a program ends before ctr has had the time to
// open its FIFO, which a goroutine does, ctr cancels that and all of the output is lost, by any runtime (1 of 96 runs with 8 at once, with Debian's
// runc as with brig-oci).
func (c *containerd) heard(args ...string) (out string, err error) {
	for i := range 5 {
		line := slices.Clone(args)
		for j := range line {
			line[j] = strings.ReplaceAll(line[j], "{}", strconv.Itoa(i))
		}
		if out, err = c.try(line...); err != nil || out != "" {
			break
		}
	}
	return out, err
}

// until repeats ctr until its output has the words.
func (c *containerd) until(want string, args ...string) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		out, err := c.try(args...)
		if err == nil && strings.Contains(out, want) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("ctr %v never says %q: %s %v", args, want, out, err)
		}
	}
}

func (c *containerd) runArgs(root, id string, flags []string, program ...string) []string {
	args := append([]string{"run", "--rootfs", "--runc-binary", runtime, "--runc-root", c.dir + "/runc"}, flags...)
	return append(append(args, root, id), program...)
}

func TestContainerd(t *testing.T) {
	c := startContainerd(t)
	root := rootfs(t)
	out, err := c.heard(c.runArgs(root, "once-{}", []string{"--rm"}, "/bin/sh", "-c", "echo from inside; hostname; grep -E 'NoNewPrivs' /proc/self/status")...)
	if err != nil || !strings.Contains(out, "from inside") || !strings.Contains(out, "NoNewPrivs:\t1") {
		t.Errorf("run: %v: %q", err, out)
	}
	if _, err := c.try(c.runArgs(root, "fails", []string{"--rm"}, "/bin/sh", "-c", "exit 7")...); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("the exit code is lost: %v", err)
	}
	if _, err := c.try(c.runArgs(root, "absent", []string{"--rm"}, "nosuch")...); err == nil || !strings.Contains(err.Error(), "executable file not found in $PATH") {
		t.Errorf("a program that is not there: %v", err)
	}

	c.ctr(c.runArgs(root, "long", []string{"-d"}, "/bin/sleep", "1000")...)
	out, err = c.heard("task", "exec", "--exec-id", "e1-{}", "long", "/bin/sh", "-c", "echo second; ps")
	if err != nil || !strings.Contains(out, "second") || !strings.Contains(out, "1 root     /bin/sleep 1000") {
		t.Errorf("exec: %v: %q", err, out)
	}
	c.ctr("task", "pause", "long")
	c.until("PAUSED", "task", "ls")
	c.ctr("task", "resume", "long")
	c.until("RUNNING", "task", "ls")
	if out := c.ctr("task", "metrics", "long"); !strings.Contains(out, "memory") {
		t.Errorf("metrics: %q", out)
	}

	// The daemon dies and comes back; the container has not noticed.
	c.halt()
	c.start()
	c.until("RUNNING", "task", "ls")
	if out, err := c.heard("task", "exec", "--exec-id", "e2-{}", "long", "/bin/echo", "still here"); err != nil || !strings.Contains(out, "still here") {
		t.Errorf("exec after a restart: %v: %q", err, out)
	}
	c.ctr("task", "kill", "-s", "KILL", "long")
	c.until("STOPPED", "task", "ls")
	_, _ = c.try("task", "rm", "long") // tells the exit code 137 as its own
	c.ctr("container", "rm", "long")
}

func TestContainerdFiftyAtOnce(t *testing.T) {
	c := startContainerd(t)
	root := rootfs(t)
	var wg sync.WaitGroup
	limit := make(chan struct{}, 8)
	for i := range 50 {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			id := fmt.Sprintf("many-%d", i)
			out, err := c.heard(c.runArgs(root, id+"-{}", []string{"--rm"}, "/bin/echo", id)...)
			if err != nil || strings.TrimSpace(out) != id {
				t.Errorf("%s: %q, %v", id, out, err)
			}
		})
	}
	wg.Wait()
}
