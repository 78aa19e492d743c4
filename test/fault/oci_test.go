//go:build faults

package fault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// runtime is brig-oci with a state folder and a bundle of its own. Tests with one each may run beside each other: all that a
// container is has its id, which no other test has, in a name or in its arguments.
type runtime struct {
	t            *testing.T
	id           string
	root, bundle string
	spec         *specs.Spec
	files        int
}

var runtimes atomic.Int64

func newRuntime(t *testing.T) *runtime {
	t.Helper()
	testenv.Check(t, testenv.Root, testenv.Program("busybox"))
	r := &runtime{t: t, root: filepath.Join(t.TempDir(), "state"), bundle: t.TempDir()}
	r.id = fmt.Sprintf("fault-%d-%dx", os.Getpid(), runtimes.Add(1))
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "dev", "proc", "run", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(r.bundle, "rootfs", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(busybox)
	if err == nil {
		err = os.WriteFile(filepath.Join(r.bundle, "rootfs/bin/busybox"), text, 0o755)
	}
	for _, name := range []string{"sh", "sleep", "true"} {
		err = errors.Join(err, os.Symlink("busybox", filepath.Join(r.bundle, "rootfs/bin", name)))
	}
	if err != nil {
		t.Fatal(err)
	}
	r.must("spec", "--bundle", r.bundle)
	text, err = os.ReadFile(filepath.Join(r.bundle, "config.json"))
	if err == nil {
		r.spec = &specs.Spec{}
		err = json.Unmarshal(text, r.spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.spec.Process.Terminal = false
	r.spec.Process.Args = []string{"sh", "-c", "sleep 1000 & sleep 1000; true # " + r.id}
	r.write()
	t.Cleanup(func() {
		if out, code := r.call("delete", "--force", r.id); code != 0 {
			t.Errorf("the last delete --force: %s", out)
		}
		r.nothingLeft("at the end")
	})
	return r
}

func (r *runtime) write() {
	r.t.Helper()
	text, err := json.Marshal(r.spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(r.bundle, "config.json"), text, 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// command is a call that is not started. Its output goes to a file: what a container inherits would hold a pipe.
func (r *runtime) command(env []string, args ...string) (cmd *exec.Cmd, output func() string) {
	r.t.Helper()
	cmd = exec.Command(oci, append([]string{"--root", r.root}, args...)...)
	f, err := os.CreateTemp(r.t.TempDir(), "out")
	if err != nil {
		r.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr, cmd.Env = f, f, append(os.Environ(), env...)
	return cmd, func() string {
		_ = f.Close()
		text, err := os.ReadFile(f.Name())
		if err != nil {
			r.t.Error(err)
		}
		return string(text)
	}
}

// patience bounds every call: one that takes longer hangs.
var patience = testenv.Patience(45 * time.Second)

func (r *runtime) callWith(env []string, args ...string) (out string, code int, killed bool) {
	r.t.Helper()
	cmd, output := r.command(env, args...)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() {
		r.t.Errorf("%v hangs", args)
		_ = cmd.Process.Kill()
	})
	_ = cmd.Wait()
	timer.Stop()
	return output(), cmd.ProcessState.ExitCode(), strings.Contains(cmd.ProcessState.String(), "killed")
}

func (r *runtime) call(args ...string) (out string, code int) {
	r.t.Helper()
	out, code, _ = r.callWith(nil, args...)
	return out, code
}

func (r *runtime) must(args ...string) {
	r.t.Helper()
	if out, code := r.call(args...); code != 0 {
		r.t.Errorf("%v: exit code %d: %s", args, code, out)
	}
}

// refused demands an error with these words.
func (r *runtime) refused(words string, args ...string) {
	r.t.Helper()
	if out, code := r.call(args...); code == 0 || !strings.Contains(out, words) {
		r.t.Errorf("%v: exit code %d: %q; want an error that says %q", args, code, out, words)
	}
}

// status is what `state` says, or "none", or "unreadable".
func (r *runtime) status() string {
	r.t.Helper()
	out, code := r.call("state", r.id)
	var s specs.State
	switch {
	case code == 0 && json.Unmarshal([]byte(out), &s) == nil:
		return string(s.Status)
	case strings.Contains(out, "does not exist"):
		return "none"
	case strings.Contains(out, "delete --force"):
		return "unreadable"
	}
	r.t.Errorf("state: %s", out)
	return "?"
}

func (r *runtime) until(status string) {
	r.t.Helper()
	for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); r.status() != status; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Errorf("%s is %s, never %s", r.id, r.status(), status)
			return
		}
	}
}

// programs are the processes that have executed the container's program or something else with its id.
// What a gVisor guest runs shows on the host as its kernel only, which is there from the creation on.
func (r *runtime) programs() (list []string) {
	if testenv.Isolation() == "gvisor" {
		return r.members()
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		text, err := os.ReadFile(file)
		if err == nil && bytes.Contains(text, []byte(r.id)) && !bytes.Contains(text, []byte("brig-oci")) {
			list = append(list, file+": "+string(bytes.ReplaceAll(text, []byte{0}, []byte{' '})))
		}
	}
	return list
}

// members are the processes in the container's cgroup, dead ones included.
func (r *runtime) members() (list []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && bytes.Contains(text, []byte(r.id)) { // the group's name may have more than the id
			list = append(list, file)
		}
	}
	return list
}

// left is all that there is of the container, but for the state folder itself.
func (r *runtime) left() []string {
	var left []string
	entries, err := os.ReadDir(r.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.t.Error(err)
	}
	for _, e := range entries {
		left = append(left, filepath.Join(r.root, e.Name()))
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/brig/", "/sys/fs/cgroup/brig/"} {
		groups, _ := filepath.Glob(pattern + "*" + r.id + "*")
		left = append(left, groups...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(r.bundle)) {
		left = append(left, "a mount of "+r.bundle)
	}
	links, _ := filepath.Glob("/run/brig/ids/*")
	for _, l := range links {
		if owner, err := os.Readlink(l); err == nil && strings.HasPrefix(owner, r.root) {
			left = append(left, l+" of "+owner)
		}
	}
	return append(append(left, r.programs()...), r.members()...)
}

// nothingLeft gives what is dying a moment.
func (r *runtime) nothingLeft(when string) {
	r.t.Helper()
	var left []string
	for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if left = r.left(); left == nil {
			return
		}
	}
	r.t.Errorf("%s: left:\n  %s", when, strings.Join(left, "\n  "))
}

// truth checks what `state` says after a fault, and that `list` agrees. A process that has lost its maker, or has got its start, is
// on its way for an instant, in which it is neither.
func (r *runtime) truth(when string, may ...string) string {
	r.t.Helper()
	var s string
	var runs []string
	for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); ; time.Sleep(5 * time.Millisecond) {
		s = r.status()
		runs = r.programs()
		alive := s == "running" || s == "created" && testenv.Isolation() == "gvisor"
		if s == "paused" || s != "creating" && alive == (runs != nil) {
			break
		}
		if time.Now().After(deadline) {
			r.t.Errorf("%s: the status is %s, and there are %q", when, s, runs)
			break
		}
	}
	if !slices.Contains(may, s) {
		r.t.Errorf("%s: the status is %s", when, s)
	}
	out, code := r.call("list", "--format", "json")
	if code != 0 || strings.Contains(out, `"id":"`+r.id+`"`) != (s != "none" && s != "unreadable") {
		r.t.Errorf("%s: the status is %s, and list says %q", when, s, out)
	}
	return s
}

// points are the names of the fault points that a call passes.
func (r *runtime) points(args ...string) []string {
	r.t.Helper()
	log := filepath.Join(r.t.TempDir(), "points")
	if out, code, _ := r.callWith([]string{"BRIG_FAULT_LOG=" + log}, args...); code != 0 {
		r.t.Fatalf("%v: %s", args, out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// stopped starts a call that stops at a point, and waits until it has.
func (r *runtime) stopped(point int, args ...string) (cmd *exec.Cmd, goOn func() (out string, code int)) {
	r.t.Helper()
	cmd, output := r.command([]string{"BRIG_FAULT_STOP=" + strconv.Itoa(point)}, args...)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	pid := cmd.Process.Pid
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if !status.Stopped() {
		r.t.Fatalf("%v ended before point %d: %s", args, point, output())
	}
	return cmd, func() (string, int) {
		r.t.Helper()
		timer := time.AfterFunc(patience, func() {
			r.t.Errorf("%v hangs after point %d", args, point)
			_ = unix.Kill(pid, unix.SIGKILL)
		})
		defer timer.Stop()
		_ = unix.Kill(pid, unix.SIGCONT)
		_ = cmd.Wait()
		return output(), cmd.ProcessState.ExitCode()
	}
}

// killChildren kills the children of a stopped process: the one that becomes the container, or none yet.
func killChildren(t *testing.T, pid int) {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for _, child := range strings.Fields(string(text)) {
			n, err := strconv.Atoi(child)
			if err == nil {
				err = unix.Kill(n, unix.SIGKILL)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
}

// everything adds to the spec what makes more points: hooks, a user namespace, a terminal.
func (r *runtime) everything() (args []string) {
	hook := []specs.Hook{{Path: "/bin/true"}}
	r.spec.Hooks = &specs.Hooks{
		CreateRuntime: hook, CreateContainer: hook, Poststart: hook, Poststop: hook,
		StartContainer: []specs.Hook{{Path: "/bin/true"}},
	}
	r.spec.Linux.Namespaces = append(r.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 65536}}
	r.spec.Linux.UIDMappings, r.spec.Linux.GIDMappings = ids, ids
	r.spec.Process.Terminal = true
	r.write()
	return []string{"--console-socket", r.console(1000), "--pid-file", filepath.Join(r.t.TempDir(), "pid")}
}

// console is a socket that nobody accepts from, and that has room for so many.
func (r *runtime) console(backlog int) string {
	r.t.Helper()
	r.files++
	name := filepath.Join(r.t.TempDir(), "s"+strconv.Itoa(r.files))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		r.t.Cleanup(func() { _ = unix.Close(fd) })
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: name})
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return name
}

func (r *runtime) create(extra ...string) []string {
	return append(append([]string{"create", "--bundle", r.bundle}, extra...), r.id)
}

// A create that is killed has either not taken place, or stopped, or come to its end; delete clears what is left, and the id is
// taken until then.
func TestOCICreateKilled(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "everything"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRuntime(t)
			var extra []string
			if name == "everything" {
				extra = r.everything()
			}
			walk(t, func(t *testing.T, fault string) bool {
				when := "killed at point " + fault
				out, _, killed := r.callWith([]string{"BRIG_FAULT=" + fault}, r.create(extra...)...)
				if !killed && out != "" {
					t.Errorf("%s: %s", when, out)
				}
				r.truth(when, "none", "stopped", "created")
				r.refused("exists", r.create(extra...)...)
				if n, _ := strconv.Atoi(fault); n%2 == 0 {
					r.must("delete", r.id)
				} else {
					r.must("delete", "--force", r.id)
				}
				r.nothingLeft(when)
				return killed
			})
		})
	}
}

func TestOCIRunKilled(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	r.spec.Process.Args = []string{"sh", "-c", "sleep 0.05; true # " + r.id}
	r.write()
	walk(t, func(_ *testing.T, fault string) bool {
		when := "killed at point " + fault
		_, _, killed := r.callWith([]string{"BRIG_FAULT=" + fault}, "run", "--bundle", r.bundle, r.id)
		if s := r.status(); s == "running" {
			r.until("stopped")
		}
		r.truth(when, "none", "stopped", "created")
		r.must("delete", "--force", r.id)
		r.nothingLeft(when)
		return killed
	})
}

// A start that is killed can be given again, or the container has stopped, or it runs.
func TestOCIStartKilled(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "everything"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRuntime(t)
			var extra []string
			if name == "everything" {
				extra = r.everything()
			}
			walk(t, func(t *testing.T, fault string) bool {
				when := "killed at point " + fault
				r.must(r.create(extra...)...)
				_, _, killed := r.callWith([]string{"BRIG_FAULT=" + fault}, "start", r.id)
				switch r.truth(when, "created", "stopped", "running") {
				case "created": // or about to end
					if out, code := r.call("start", r.id); code == 0 {
						r.truth(when+", started again", "running")
					} else if r.truth(when, "stopped"); !strings.Contains(out, "stopped") {
						t.Errorf("%s: start: %s", when, out)
					}
				case "stopped":
					r.refused("stopped", "start", r.id)
				case "running":
					r.refused("running", "start", r.id)
				}
				r.must("delete", "--force", r.id)
				r.nothingLeft(when)
				return killed
			})
		})
	}
}

func TestOCIExecKilled(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	r.must(r.create()...)
	r.must("start", r.id)
	walk(t, func(t *testing.T, fault string) bool {
		when := "killed at point " + fault
		_, _, killed := r.callWith([]string{"BRIG_FAULT=" + fault}, "exec", "--pid-file", filepath.Join(t.TempDir(), "pid"), r.id, "sh", "-c", "sleep 0.05; true # "+r.id+" exec")
		r.truth(when, "running")
		r.must("exec", r.id, "true")
		return killed
	})
	r.must("delete", "--force", r.id)
	r.nothingLeft("at the end")
}

// A delete that is killed is finished by the next one.
func TestOCIDeleteKilled(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "everything", "stopped", "paused"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRuntime(t)
			var extra []string
			if name == "everything" {
				extra = r.everything()
			}
			walk(t, func(_ *testing.T, fault string) bool {
				when := "killed at point " + fault
				r.must(r.create(extra...)...)
				r.must("start", r.id)
				args := []string{"delete", "--force", r.id}
				switch name {
				case "stopped":
					r.must("kill", r.id, "KILL")
					r.until("stopped")
					args = []string{"delete", r.id}
				case "paused":
					r.must("pause", r.id)
				}
				_, _, killed := r.callWith([]string{"BRIG_FAULT=" + fault}, args...)
				r.truth(when, "none", "stopped", "running", "paused")
				r.must("delete", "--force", r.id)
				r.nothingLeft(when)
				return killed
			})
		})
	}
}

// The process that waits is killed while create is at any of its points.
func TestOCIChildKilledDuringCreate(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	extra := r.everything()
	points := r.points(r.create(extra...)...)
	r.must("delete", "--force", r.id)
	for i, point := range points {
		when := fmt.Sprintf("killed at point %d, %q", i+1, point)
		cmd, goOn := r.stopped(i+1, r.create(extra...)...)
		killChildren(t, cmd.Process.Pid)
		out, code := goOn()
		s := r.truth(when, "none", "stopped", "created")
		if (code == 0) == (s == "none") {
			t.Errorf("%s: create said %d, %q, and the container is %s", when, code, out, s)
		}
		if s == "none" {
			r.nothingLeft(when)
		}
		r.must("delete", "--force", r.id)
		r.nothingLeft(when)
	}
}

// The container's process is killed while start is at any of its points.
func TestOCIChildKilledDuringStart(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	extra := r.everything()
	r.must(r.create(extra...)...)
	points := r.points("start", r.id)
	r.must("delete", "--force", r.id)
	for i, point := range points {
		when := fmt.Sprintf("killed at point %d, %q", i+1, point)
		r.must(r.create(extra...)...)
		_, goOn := r.stopped(i+1, "start", r.id)
		r.must("kill", r.id, "KILL")
		goOn()
		r.until("stopped")
		r.refused("stopped", "start", r.id)
		r.must("delete", r.id)
		r.nothingLeft(when)
	}
}

// A forced delete passes a command that stands still at any of its points, and what that one does later harms nobody: not even
// a new container with the same id.
func TestOCIForcedDeletePassesAHungCommand(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"create", "start"} {
		args := func(r *runtime) []string {
			if verb == "create" {
				return r.create()
			}
			r.must(r.create()...)
			return []string{"start", r.id}
		}
		r := newRuntime(t)
		points := r.points(args(r)...)
		r.must("delete", "--force", r.id)
		for i, point := range points {
			if slices.Index(points, point) != i {
				continue // one of several of the kind
			}
			t.Run(verb+" "+point, func(t *testing.T) {
				t.Parallel()
				r := newRuntime(t)
				_, goOn := r.stopped(i+1, args(r)...)
				r.must("delete", "--force", r.id)
				r.truth("after the delete", "none")
				goOn()
				r.truth("after the hung command went on", "none")
				r.nothingLeft("after the hung command went on")
			})
			t.Run(verb+" "+point+", and another container", func(t *testing.T) {
				t.Parallel()
				r := newRuntime(t)
				_, goOn := r.stopped(i+1, args(r)...)
				r.must("delete", "--force", r.id)
				r.must(r.create()...)
				r.must("start", r.id)
				goOn()
				r.truth("after the hung command went on", "running")
				r.must("exec", r.id, "true")
			})
		}
	}
}

// One of several deletes at once does it, and all leave nothing.
func TestOCIDeletesAtOnce(t *testing.T) {
	t.Parallel()
	for _, count := range []int{2, 8} {
		for _, force := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, force %t", count, force), func(t *testing.T) {
				t.Parallel()
				r := newRuntime(t)
				for range 3 {
					r.must(r.create()...)
					args := []string{"delete", r.id}
					if force {
						r.must("start", r.id)
						args = []string{"delete", "--force", r.id}
					}
					type result struct {
						out  string
						code int
					}
					results := make(chan result)
					for range count {
						go func() {
							out, code := r.call(args...)
							results <- result{out, code}
						}()
					}
					did := 0
					for range count {
						switch res := <-results; {
						case res.code == 0:
							did++
						case force || !strings.Contains(res.out, "does not exist"):
							t.Errorf("%v: %s", args, res.out)
						}
					}
					if did == 0 || !force && did > 1 {
						t.Errorf("%d of %d deletes say that they have done it", did, count)
					}
					r.nothingLeft("after the deletes")
				}
			})
		}
	}
}

// Delete and start at once: the container is gone, whoever comes first.
func TestOCIDeleteRacesStart(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	for range 10 {
		r.must(r.create()...)
		done := make(chan bool)
		go func() {
			out, code := r.call("start", r.id)
			if code != 0 && !strings.Contains(out, "does not exist") && !strings.Contains(out, "stopped") {
				t.Errorf("start: %s", out)
			}
			done <- true
		}()
		r.must("delete", "--force", r.id)
		<-done
		r.nothingLeft("after both")
	}
}
