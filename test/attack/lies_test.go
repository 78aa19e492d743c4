package attack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/internal/annotation"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// liar runs brig with a kernel process that lies.
type liar struct {
	t    *testing.T
	brig string
}

func newLiar(t *testing.T) *liar {
	t.Helper()
	need(t)
	return &liar{t, hostileKernel(t, bench.brig)}
}

func (l *liar) command(ctx context.Context, args ...string) *exec.Cmd {
	return command(ctx, l.brig, append([]string{"--root", bench.state}, args...)...)
}

// do runs a command that has to end by itself.
func (l *liar) do(args ...string) result {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.t.Context()), patience) // also at the end of a test
	defer cancel()
	r := finish(l.command(ctx, args...))
	if ctx.Err() != nil {
		l.t.Errorf("brig %s did not end: %+v", strings.Join(args, " "), r)
	}
	if strings.ContainsAny(r.errors, "\x1b\a\r") {
		l.t.Errorf("brig %s says what a terminal obeys: %q", strings.Join(args, " "), r.errors)
	}
	return r
}

func (l *liar) run(flags []string, what, method string) result {
	l.t.Helper()
	return l.do(slices.Concat([]string{"run", "-e", bench.mark, "--isolation", "gvisor", "--rootfs", bench.rootfs}, flags, []string{"--", "/attack", "lie", what, method})...)
}

// detached gives the name of a sandbox whose kernel says it runs.
func (l *liar) detached(what, method string) string {
	l.t.Helper()
	name := "liar-" + random()
	if r := l.run([]string{"-d", "--name", name}, what, method); r.code != 0 {
		l.t.Fatalf("%+v", r)
	}
	l.t.Cleanup(func() {
		if r := l.do("rm", "-f", name); r.code != 0 {
			l.t.Errorf("%+v", r)
		}
	})
	return name
}

// interrupted runs a command, sends it signals, one when the last has had its time, and wants its end.
func (l *liar) interrupted(c *exec.Cmd) int {
	l.t.Helper()
	if err := c.Start(); err != nil {
		l.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(done)
	}()
	late := time.After(patience)
	for {
		select {
		case <-done:
			return c.ProcessState.ExitCode()
		case <-late:
			_ = c.Process.Kill()
			<-done
			l.t.Errorf("%s does not end by signals", strings.Join(c.Args, " "))
			return -1
		case <-time.After(300 * time.Millisecond):
			_ = c.Process.Signal(unix.SIGTERM)
		}
	}
}

// TestLyingKernel has a guest that got hold of gVisor's kernel process lie to Brig: it answers late, long, or with what is no
// answer. Nobody who asks it waits for ever, and no other command of Brig's for it.
func TestLyingKernel(t *testing.T) {
	t.Parallel()
	need(t)
	t.Run("start", func(t *testing.T) {
		t.Parallel()
		l := newLiar(t)
		if r := l.run([]string{"--timeout", "1s"}, "silence", "StartRoot"); r.code != 124 || !strings.Contains(r.errors, "longer than 1s") {
			t.Errorf("a start that takes too long: %+v", r)
		}
		if r := l.run([]string{"-d", "--timeout", "1s"}, "silence", "StartRoot"); r.code == 0 {
			t.Errorf("a detached start that takes too long: %+v", r)
		}
		if r := l.run(nil, "endless", "StartRoot"); r.code == 0 || !strings.Contains(r.errors, "longer than 1024 KiB") {
			t.Errorf("an endless answer: %+v", r)
		}
		if r := l.run(nil, "escapes", "StartRoot"); r.code == 0 || !strings.Contains(r.errors, "�[2J�brig: all is well�") {
			t.Errorf("an answer with escape sequences: %+v", r)
		}
		args := []string{"run", "-e", bench.mark, "--isolation", "gvisor", "--rootfs", bench.rootfs, "--", "/attack", "lie", "silence", "StartRoot"}
		if code := l.interrupted(l.command(t.Context(), args...)); code != 128+int(unix.SIGTERM) {
			t.Errorf("a start that is interrupted ends with %d", code)
		}
	})
	t.Run("end", func(t *testing.T) {
		t.Parallel()
		l := newLiar(t)
		for what, want := range map[string]string{
			`{"status":127}`: "with which none ends", `{"status":65536}`: "with which none ends", `{"status":-1}`: "ended with exit code 0", "": "without a word",
			`{"status":0,"error":"\u001b[2Jwell"}`: "failed: �[2Jwell",
		} {
			if r := l.run(nil, what, "status"); r.code == 0 || !strings.Contains(r.errors, want) {
				t.Errorf("the end %s: %+v, without %q", what, r, want)
			}
		}
	})
	t.Run("exec", func(t *testing.T) {
		t.Parallel()
		l := newLiar(t)
		name := l.detached("silence", "ExecuteAsync")
		if code := l.interrupted(l.command(t.Context(), "exec", name, "true")); code != 128+int(unix.SIGTERM) {
			t.Errorf("a program that is not executed ends with %d", code)
		}
		name = l.detached("escapes", "ExecuteAsync")
		if r := l.do("exec", name, "true"); r.code == 0 || !strings.Contains(r.errors, "�[2J") {
			t.Errorf("an error with escape sequences: %+v", r)
		}
		name = l.detached("endless", "WaitPID")
		if r := l.do("exec", name, "true"); r.code == 0 {
			t.Errorf("an end without an end: %+v", r)
		}
		// The pid that it tells is the guest's, and no process of the host's hears of the end of the command.
		name = l.detached("pid-1", "ExecuteAsync")
		if r := l.do("exec", name, "true"); r.code != 0 {
			t.Errorf("a pid of the host's: %+v", r)
		}
	})
	t.Run("files", func(t *testing.T) {
		t.Parallel()
		l := newLiar(t)
		name := l.detached("files", "ExecuteAsync")
		for range 3 {
			if r := l.do("exec", name, "true"); r.code == 0 || !strings.Contains(r.errors, "files") {
				t.Errorf("%+v", r)
			}
		}
		// The supervisor asks, and keeps none of them.
		before := l.openFiles(name)
		for range 3 {
			l.do("exec", name, "true")
		}
		if after := l.openFiles(name); after > before+4 {
			t.Errorf("the supervisor has %d files open, and had %d", after, before)
		}
	})
	t.Run("others", func(t *testing.T) {
		t.Parallel()
		l := newLiar(t)
		name := l.detached("silence", "Checkpoint,Resume")
		for _, args := range [][]string{{"ps"}, {"inspect", name}, {"stats", name}, {"logs", name}, {"pause", name}, {"resume", name}} {
			if r := l.do(args...); r.code != 0 {
				t.Errorf("%v: %+v", args, r)
			}
		}
		// Whoever saves it is killed, and what was begun is the next command's to end.
		dir := filepath.Join(t.TempDir(), "saved")
		c := l.command(t.Context(), "checkpoint", name, dir)
		c.Stderr = &strings.Builder{}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		folder, _ := l.about(name)
		saving := filepath.Join(folder, "saving")
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		for text := ""; text != "paused\n"; {
			select {
			case err := <-ended:
				t.Fatalf("brig checkpoint ended by itself: %v, %v", err, c.Stderr)
			case <-time.After(10 * time.Millisecond):
			}
			got, err := os.ReadFile(saving) //nolint:gosec // the test's own
			if text = string(got); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		_ = c.Process.Kill()
		<-ended
		if r := l.do("ps"); r.code != 0 {
			t.Errorf("%+v", r)
		}
		if r := l.do("wait", name); r.code != 137 && !strings.Contains(r.out, "137") {
			t.Errorf("a sandbox that nobody knows to go on has not ended: %+v", r)
		}
	})
	t.Run("stop", func(t *testing.T) {
		t.Parallel()
		l := newLiar(t)
		name := l.detached("silence", "Signal,Processes")
		if r := l.do("stop", "-t", "1", name); r.code != 0 {
			t.Errorf("%+v", r)
		}
	})
}

// about gives the folder of a sandbox, and its supervisor.
func (l *liar) about(name string) (folder string, monitor int) {
	l.t.Helper()
	r := l.do("inspect", "--format", "json", name)
	var about struct {
		State struct {
			ID      string
			Monitor int
		}
	}
	if err := json.Unmarshal([]byte(r.out), &about); err != nil || about.State.ID == "" {
		l.t.Fatalf("%v: %+v", err, r)
	}
	return filepath.Join(bench.state, "sandboxes", about.State.ID), about.State.Monitor
}

// openFiles counts the open files of a sandbox's supervisor.
func (l *liar) openFiles(name string) int {
	l.t.Helper()
	_, monitor := l.about(name)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", monitor))
	if err != nil {
		l.t.Fatal(err)
	}
	return len(files)
}

// ociCall runs a verb of brig-oci's, which has to succeed and to end by itself.
func ociCall(t *testing.T, oci string, c *container, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience) // also at the end of a test
	defer cancel()
	cmd := command(ctx, oci, append([]string{"--root", c.state()}, args...)...)
	errs, err := os.CreateTemp(bench.dir, "errors-") // a pipe would end with the container only
	if err != nil {
		t.Fatal(err)
	}
	defer errs.Close()
	cmd.Stderr = errs
	if err := cmd.Run(); err != nil || ctx.Err() != nil {
		said, _ := os.ReadFile(errs.Name())
		t.Errorf("brig-oci %s: %v, %s", strings.Join(args, " "), err, said)
	}
}

// TestLyingKernelOfBundle has the kernel of an engine's container say nothing: a start that is given up leaves a container that is seen, and
// taken away.
func TestLyingKernelOfBundle(t *testing.T) {
	t.Parallel()
	ociBuilt(t)
	oci := hostileKernel(t, bundles.oci)
	c := newContainer(t, bench.rootfs, func(s *specs.Spec) {
		s.Annotations = map[string]string{annotation.Isolation: "gvisor"}
	}, "/attack", "lie", "silence", "StartRoot,Processes,Signal")
	ociCall(t, oci, c, "create", "--bundle", c.bundle, c.id)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if r := finish(command(ctx, oci, "--root", c.state(), "start", c.id)); r.code == 0 {
		t.Errorf("a start without an answer: %+v", r)
	}
	ociCall(t, oci, c, "state", c.id)
	ociCall(t, oci, c, "delete", "-f", c.id)
	c.gone()
}

// TestLyingPodKernel has the kernel of a pod say that it kills a container, which goes on: an engine waits for the end of each before it ends
// the sandbox, and the kernel with it.
func TestLyingPodKernel(t *testing.T) {
	t.Parallel()
	ociBuilt(t)
	oci := hostileKernel(t, bundles.oci)
	call := func(c *container, args ...string) { ociCall(t, oci, c, args...) }
	pod := newContainer(t, bench.rootfs, func(s *specs.Spec) {
		s.Annotations = map[string]string{annotation.Isolation: "gvisor", "io.kubernetes.cri.container-type": "sandbox"}
	}, "/attack", "lie", "silence", "Wait")
	call(pod, "create", "--bundle", pod.bundle, pod.id)
	t.Cleanup(func() {
		call(pod, "delete", "-f", pod.id)
		pod.gone()
	})
	call(pod, "start", pod.id)
	var state specs.State
	if err := json.Unmarshal([]byte(finish(command(t.Context(), oci, "--root", pod.state(), "state", pod.id)).out), &state); err != nil || state.Pid == 0 {
		t.Fatalf("%v: %+v", err, state)
	}
	member := newContainer(t, bench.rootfs, func(s *specs.Spec) {
		s.Annotations = map[string]string{
			annotation.Isolation: "gvisor", "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": pod.id,
		}
		for i := range s.Linux.Namespaces {
			n := &s.Linux.Namespaces[i]
			if name := map[specs.LinuxNamespaceType]string{"network": "net", "ipc": "ipc", "uts": "uts"}[n.Type]; name != "" {
				n.Path = fmt.Sprintf("/proc/%d/ns/%s", state.Pid, name)
			}
		}
	}, "/attack", "sleep")
	call(member, "create", "--bundle", member.bundle, member.id)
	call(member, "start", member.id)
	call(member, "kill", member.id, "KILL")
	status := ""
	for deadline := time.Now().Add(patience); status != "stopped" && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		state = specs.State{}
		if err := json.Unmarshal([]byte(finish(command(t.Context(), oci, "--root", member.state(), "state", member.id)).out), &state); err != nil {
			t.Fatal(err)
		}
		status = string(state.Status)
	}
	if status != "stopped" {
		t.Errorf("the container is %s", status)
	}
	call(member, "delete", "-f", member.id)
	member.gone()
}
