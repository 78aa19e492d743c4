//go:build faults

package fault

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/internal/host"
	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What is between the points: files that somebody else has written to, and callers that do not do their part.

func (r *runtime) file(name string) string { return filepath.Join(r.root, r.id, name) }

func (r *runtime) up() {
	r.t.Helper()
	r.must(r.create()...)
	r.must("start", r.id)
}

// A state file that does not make sense is told of, by every verb, and delete --force ends all that is in the cgroup.
func TestOCIUnreadableState(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(text string) string{
		"half":            func(s string) string { return s[:len(s)/2] },
		"empty":           func(string) string { return "" },
		"null":            func(string) string { return "null" },
		"a list":          func(string) string { return "[1, 2]" },
		"nothing known":   func(string) string { return `{"what": "else"}` },
		"a text for pid":  func(s string) string { return strings.Replace(s, `"pid":`, `"pid":"1","was":`, 1) },
		"a huge pid":      func(s string) string { return strings.Replace(s, `"pid":`, `"pid":99999999999999999999`, 1) },
		"pid 2^32+1":      func(s string) string { return strings.Replace(s, `"pid":`, `"pid":4294967297,"was":`, 1) },
		"a negative pid":  func(s string) string { return strings.Replace(s, `"pid":`, `"pid":-1,"was":`, 1) },
		"a huge time":     func(s string) string { return strings.Replace(s, `"startTime":`, `"startTime":1e400,"was":`, 1) },
		"another's":       func(s string) string { return strings.Replace(s, `"id":"`, `"id":"x`, 1) },
		"binary":          func(string) string { return "\x00\xff\x7fELF" },
		"deeply nested":   func(string) string { return strings.Repeat("[", 1<<16) },
		"one long string": func(string) string { return `"` + strings.Repeat("x", 1<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRuntime(t)
			r.up()
			text, err := os.ReadFile(r.file("state.json"))
			if err == nil {
				err = os.WriteFile(r.file("state.json"), []byte(spoil(string(text))), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if s := r.status(); s != "unreadable" {
				t.Errorf("the status is %s", s)
			}
			if out, code := r.call("list"); code != 0 || !strings.Contains(out, "delete --force") {
				t.Errorf("list: %d, %q", code, out)
			}
			for _, args := range [][]string{{"start", r.id}, {"kill", r.id, "KILL"}, {"exec", r.id, "true"}, {"delete", r.id}, {"pause", r.id}} {
				r.refused("read the state of container", args...)
			}
			if r.programs() == nil {
				t.Error("the container is gone before it was deleted")
			}
			r.must("delete", "--force", r.id)
			r.nothingLeft("after delete --force")
		})
	}
}

// A pid that has become another process's is never signalled.
func TestOCIReusedPID(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	r.up()
	r.must("kill", r.id, "KILL")
	r.until("stopped")
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	text, err := os.ReadFile(r.file("state.json"))
	var state map[string]any
	if err == nil {
		err = json.Unmarshal(text, &state)
	}
	if err != nil {
		t.Fatal(err)
	}
	state["pid"] = other.Process.Pid
	text, err = json.Marshal(state)
	if err == nil {
		err = os.WriteFile(r.file("state.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.truth("with another's pid", "stopped")
	r.refused("container not running", "kill", r.id, "KILL")
	r.refused("stopped", "exec", r.id, "true")
	r.must("delete", "--force", r.id)
	if err := other.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("the other process: %v", err)
	}
}

func TestOCIStartAfterTheProcessDied(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	r.must(r.create()...)
	r.must("kill", r.id, "KILL")
	r.until("stopped")
	r.refused("cannot start a container that has stopped", "start", r.id)
	r.must("delete", r.id)
	r.nothingLeft("after delete")
}

// Without the copy of its config.json a container can be told of and deleted.
func TestOCIConfigMissing(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	r.must(r.create()...)
	if err := os.Remove(r.file("config.json")); err != nil {
		t.Fatal(err)
	}
	r.truth("without config.json", "created")
	r.refused("read the spec of container", "start", r.id)
	r.truth("after start was refused", "created")
	r.must("delete", r.id)
	r.nothingLeft("after delete")
}

func TestOCIStartSocketRemoved(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	r.must(r.create()...)
	if err := os.Remove(r.file("start.sock")); err != nil {
		t.Fatal(err)
	}
	r.refused("can only be deleted", "start", r.id)
	r.truth("after start was refused", "created")
	r.must("delete", r.id)
	r.nothingLeft("after delete")
}

// A state folder without room, at every size from none to enough.
func TestOCINoRoom(t *testing.T) {
	t.Parallel()
	for _, option := range []string{"size=%d", "nr_inodes=%d"} {
		t.Run(option, func(t *testing.T) {
			t.Parallel()
			r := newRuntime(t)
			unit, enough := os.Getpagesize(), false
			if strings.HasPrefix(option, "nr_") {
				unit = 1
			}
			for n := 1; n <= 16 && !enough; n++ {
				when := fmt.Sprintf(option, n*unit)
				if err := os.MkdirAll(r.root, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := unix.Mount("tmpfs", r.root, "tmpfs", 0, "mode=700,"+when); err != nil {
					t.Fatal(err)
				}
				out, code := r.call(r.create()...)
				s := r.truth(when, "none", "created")
				switch {
				case code == 0 && s == "created":
					out, code := r.call("start", r.id)
					s = r.truth(when+", started", "running", "stopped")
					if enough = code == 0; enough != (s == "running") || !enough && !strings.Contains(out, "no space left") {
						t.Errorf("%s: start: %d, %s, and the container is %s", when, code, out, s)
					}
				case code == 0 || s != "none" || !strings.Contains(out, "no space left"):
					t.Errorf("%s: create: %d, %s, and the container is %s", when, code, out, s)
				}
				r.must("delete", "--force", r.id)
				r.nothingLeft(when)
				if err := unix.Unmount(r.root, 0); err != nil {
					t.Error(err)
				}
			}
			if !enough {
				t.Error("there never was enough")
			}
		})
	}
}

// hook gives a hook that runs a shell's script.
func hook(script string) []specs.Hook {
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin"}}}
}

// The runtime waits for a hook that does not end, and says so by its status; delete --force ends the wait.
func TestOCIHookHangs(t *testing.T) {
	t.Parallel()
	for _, cgroups := range []string{"cgroupfs", "disabled"} {
		for name, set := range map[string]func(h *specs.Hooks, list []specs.Hook){
			"createRuntime":   func(h *specs.Hooks, list []specs.Hook) { h.CreateRuntime = list },
			"createContainer": func(h *specs.Hooks, list []specs.Hook) { h.CreateContainer = list },
			"startContainer":  func(h *specs.Hooks, list []specs.Hook) { h.StartContainer = list },
		} {
			t.Run(name+" "+cgroups, func(t *testing.T) {
				t.Parallel()
				r := newRuntime(t)
				r.spec.Hooks = &specs.Hooks{}
				if cgroups == "disabled" {
					r.spec.Linux.Resources = nil
				}
				path := "/bin/sh"
				set(r.spec.Hooks, []specs.Hook{{Path: path, Args: []string{"sh", "-c", "sleep 1000; true " + r.id}}})
				r.write()
				args, status := append([]string{"--cgroup-manager", cgroups}, r.create()...), "creating"
				if name == "startContainer" {
					r.must(args...)
					args, status = []string{"start", r.id}, "created"
				}
				cmd, output := r.command(nil, args...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); r.programs() == nil && time.Now().Before(deadline); {
					time.Sleep(5 * time.Millisecond)
				}
				if s := r.status(); s != status {
					t.Errorf("while the hook runs the status is %s, want %s", s, status)
				}
				r.must("delete", "--force", r.id)
				timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
				err := cmd.Wait()
				timer.Stop()
				if err == nil || cmd.ProcessState.ExitCode() < 0 {
					t.Errorf("%v: %v: %s", args, err, output())
				}
				r.nothingLeft("after delete --force")
			})
		}
	}
}

func TestOCIHookTimesOut(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	second := 1
	list := hook("sleep 1000; true " + r.id)
	list[0].Timeout = &second
	r.spec.Hooks = &specs.Hooks{CreateRuntime: list}
	r.write()
	r.refused("did not end within 1 seconds", r.create()...)
	r.truth("after the timeout", "none")
	r.nothingLeft("after the timeout")
}

// A hook that kills the runtime is a kill -9 like any other.
func TestOCIHookKillsTheRuntime(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]specs.Hooks{
		"createRuntime": {CreateRuntime: hook("kill -9 $PPID")},
		"poststart":     {Poststart: hook("kill -9 $PPID")},
		"poststop":      {Poststop: hook("kill -9 $PPID")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRuntime(t)
			r.spec.Hooks = &h
			r.write()
			if _, _, killed := r.callWith(nil, r.create()...); killed != (name == "createRuntime") {
				t.Errorf("create was killed: %t", killed)
			} else if killed {
				r.truth("after the kill", "stopped")
				r.refused("exists", r.create()...)
				r.must("delete", r.id)
				r.nothingLeft("after delete")
				return
			}
			if _, _, killed := r.callWith(nil, "start", r.id); killed != (name == "poststart") {
				t.Errorf("start was killed: %t", killed)
			}
			r.truth("after start", "running")
			if _, _, killed := r.callWith(nil, "delete", "--force", r.id); killed != (name == "poststop") {
				t.Errorf("delete was killed: %t", killed)
			}
			r.nothingLeft("after delete")
		})
	}
}

// Callers whose console socket is none, or that do not take what it brings.
func TestOCIConsoleSocket(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		socket func(r *runtime) string
		words  string // of the error; none for a success
	}{
		"missing":        {func(r *runtime) string { return filepath.Join(r.bundle, "none") }, "no such file"},
		"no socket":      {func(r *runtime) string { return filepath.Join(r.bundle, "config.json") }, "connection refused"},
		"a folder":       {func(r *runtime) string { return r.bundle }, "connection refused"},
		"nobody accepts": {func(r *runtime) string { return r.console(10) }, ""},
		"no more room": {func(r *runtime) string {
			name := r.console(0)
			for { // until it would block: its backlog is full then
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					r.t.Fatal(err)
				}
				r.t.Cleanup(func() { _ = unix.Close(fd) })
				if err := unix.Connect(fd, &unix.SockaddrUnix{Name: name}); err == unix.EAGAIN {
					return name
				} else if err != nil {
					r.t.Fatal(err)
				}
			}
		}, "nobody has taken the connection"},
		"closes at once": {func(r *runtime) string {
			name := r.console(0)
			return name + closing
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRuntime(t)
			r.spec.Process.Terminal = true
			r.write()
			socket, closes := strings.CutSuffix(c.socket(r), closing)
			if closes {
				socket = r.closer()
			}
			out, code := r.call(r.create("--console-socket", socket)...)
			switch {
			case c.words == "" && code == 0:
				r.truth("after create", "created")
				// A terminal whose master is closed hangs up, and the program may end of it.
				r.must("start", r.id)
			case c.words == "" && closes:
				r.truth("after create", "none")
			case c.words == "" || code == 0 || !strings.Contains(out, c.words):
				t.Errorf("create: %d, %q; want %q", code, out, c.words)
			default:
				r.truth("after create", "none")
				r.nothingLeft("after create")
			}
			r.must("delete", "--force", r.id)
			r.nothingLeft("after delete")
		})
	}
}

const closing = "?closing"

// closer is a socket whose connections are closed at once.
func (r *runtime) closer() string {
	r.t.Helper()
	name := filepath.Join(r.t.TempDir(), "closer")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: name})
	}
	if err == nil {
		err = unix.Listen(fd, 0)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		for {
			c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			_ = unix.Close(c)
		}
	}()
	r.t.Cleanup(func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // which ends accept(2)
		<-done
		_ = unix.Close(fd)
	})
	return name
}

func TestOCIPIDFileNotWritable(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"no folder": "none/pid", "a folder": ".", "no room": "full"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRuntime(t)
			dir := t.TempDir()
			file := filepath.Join(dir, path)
			if path == "full" {
				if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=1"); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
			}
			r.refused("pid file", r.create("--pid-file", file)...)
			r.truth("after create", "none")
			r.nothingLeft("after create")
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left in the folder of the pid file: %v, %v", left, err)
			}
			r.up()
			r.refused("pid file", "exec", "--pid-file", file, r.id, "sleep", "1000")
			r.truth("after exec", "running")
			if n := len(r.members()); n != 3 {
				t.Errorf("%d processes in the container, want the 3 that it has itself", n)
			}
		})
	}
}

// groups are the container's cgroup folders.
func (r *runtime) groups() []string {
	r.t.Helper()
	text, err := os.ReadFile(r.file("state.json"))
	var state struct{ Cgroups map[string]string }
	if err == nil {
		err = json.Unmarshal(text, &state)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	var list []string
	for _, dir := range state.Cgroups {
		list = append(list, dir)
	}
	return list
}

// The cgroup is removed from outside: of a container that has stopped, and, after its processes were moved, of one that runs.
func TestOCICgroupRemoved(t *testing.T) {
	t.Parallel()
	for _, runs := range []bool{false, true} {
		t.Run(fmt.Sprintf("runs %t", runs), func(t *testing.T) {
			t.Parallel()
			r := newRuntime(t)
			r.up()
			if !runs {
				r.must("kill", r.id, "KILL")
				r.until("stopped")
			}
			for _, dir := range r.groups() {
				for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); ; time.Sleep(time.Millisecond) {
					members, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
					for _, pid := range strings.Fields(string(members)) {
						_ = os.WriteFile(filepath.Join(filepath.Dir(filepath.Dir(dir)), "cgroup.procs"), []byte(pid), 0)
					}
					err := unix.Rmdir(dir)
					if err == nil || err == unix.ENOENT {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("remove %s: %v", dir, err)
					}
				}
			}
			if runs {
				r.truth("without its cgroup", "running")
				r.refused("cgroup", "exec", r.id, "true")
				r.refused("no such file", "pause", r.id)
			} else {
				r.truth("without its cgroup", "stopped")
			}
			r.must("delete", "--force", r.id)
			r.nothingLeft("after delete")
		})
	}
}

// A frozen group that is there before the container would keep its first process from ever running; one with processes would be
// somebody else's.
func TestOCICgroupInUse(t *testing.T) {
	t.Parallel()
	r := newRuntime(t)
	r.spec.Linux.CgroupsPath = "/brig/" + r.id
	r.write()
	r.up()
	other := &runtime{t: t, id: r.id + "-other", root: r.root, bundle: r.bundle}
	r.refused("container's cgroup is not empty", other.create()...)
	if s := other.status(); s != "none" {
		t.Errorf("the other container is %s", s)
	}
	r.truth("after the other create", "running")
	r.must("pause", r.id)
	r.must("kill", r.id, "KILL")
	r.until("stopped")
	r.must("delete", r.id)
	r.nothingLeft("after delete")

	dir := frozenGroup(t, r.id)
	r.refused("container's cgroup unexpectedly frozen", r.create()...)
	if s := r.status(); s != "none" {
		t.Errorf("after the refusal the container is %s", s)
	}
	if err := unix.Rmdir(dir); err != nil {
		t.Errorf("the group of somebody else: %v", err)
	}
}

// frozenGroup makes a group that is frozen and empty, where brig-oci looks for it.
func frozenGroup(t *testing.T, id string) string {
	t.Helper()
	file, word := "cgroup.freeze", "1"
	tree, err := host.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(tree.Unified, "brig", id)
	if tree.Unified == "" {
		dir, file, word = filepath.Join(tree.Legacy["freezer"], "brig", id), "freezer.state", "FROZEN"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Rmdir(dir) })
	if err := os.WriteFile(filepath.Join(dir, file), []byte(word), 0); err != nil {
		t.Fatal(err)
	}
	return dir
}
