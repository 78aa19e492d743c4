package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// shell is a hook that runs a script of the host's shell, or of the container's.
func shell(script string) []specs.Hook {
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}}
}

// TestHooks: their order, their state on standard input, their environment.
func TestHooks(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	log := filepath.Join(t.TempDir(), "log")
	hook := func(name string) []specs.Hook {
		return shell(`s=$(cat); echo "` + name + ` $(echo "$s" | sed 's/.*"status":"\([a-z]*\)".*/\1/') env=$(env | grep -c SECRET) $(pwd)" >>` + log)
	}
	//nolint:staticcheck // Prestart is old, and Docker still uses it
	e.spec.Hooks = &specs.Hooks{
		Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"), Poststart: hook("poststart"), Poststop: hook("poststop"),
		StartContainer: shell("cat >/tmp/state; hostname >>/tmp/state"),
	}
	e.spec.Root.Readonly = false
	e.spec.Process.Env = append(e.spec.Process.Env, "SECRET=1")
	e.spec.Process.Args = []string{"cat", "/tmp/state"}
	e.write()
	out := e.want(0, "brig", "run", "--bundle", e.bundle, "hooked")
	if !strings.Contains(out, `"id":"hooked"`) {
		t.Errorf("the startContainer hook left %q", out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, line := range []string{"prestart creating", "createRuntime creating", "createContainer creating", "poststart running", "poststop stopped"} {
		want += fmt.Sprintf("%s env=0 %s\n", line, e.bundle)
	}
	if string(text) != want {
		t.Errorf("got\n%swant\n%s", text, want)
	}
}

// TestHooksFindTheirPlace: hooks of the create phase see the root with its mounts at its path, and can still change it
// (runtime-spec config.md, "createContainer Hooks"); with and without a user namespace, also where nobody but the host's
// root may enter the folder above.
func TestHooksFindTheirPlace(t *testing.T) {
	t.Parallel()
	otherwise := differs(t)
	for _, users := range []bool{false, true} {
		e := newEngine(t)
		if users {
			e.ownUsers()
		}
		if err := os.Chmod(e.bundle, 0o700); err != nil {
			t.Fatal(err)
		}
		out := openFolder(t)
		rootfs := filepath.Join(e.bundle, "rootfs")
		pid := `pid=$(sed 's/.*"pid":\([0-9]*\).*/\1/'); `
		e.spec.Hooks = &specs.Hooks{
			CreateRuntime:   shell(pid + "hostname >" + out + "/runtime; nsenter -m -t $pid stat -f -c %T " + rootfs + "/dev >>" + out + "/runtime"),
			CreateContainer: shell("(hostname; stat -f -c %T " + rootfs + "/dev) >" + out + "/container; echo put there by a hook >" + rootfs + "/dev/shm/note"),
		}
		if users { // its root may not enter the bundle from outside, as with runc; by the mount it made it can
			e.spec.Hooks.CreateContainer = shell("hostname >" + out + "/container")
		}
		e.spec.Process.Args = []string{"cat", "/dev/shm/note"}
		e.write()
		host, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		code, words, inside := 0, "put there by a hook", "brig\ntmpfs\n"
		if users {
			code, words, inside = 1, "No such file", "brig\n"
		}
		if otherwise {
			code, words = 1, "No such file"
		}
		e.want(code, words, "run", "--bundle", e.bundle, "placed")
		for name, want := range map[string]string{"runtime": host + "\ntmpfs\n", "container": inside} {
			if text, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(text) != want {
				t.Errorf("user namespace %v: the %s hook saw %q (%v), want %q", users, name, text, err, want)
			}
		}
	}
}

// TestStartHooksAreConfined: a startContainer hook is a program of the image's, so it has the program's rights and no more.
func TestStartHooksAreConfined(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Root.Readonly = false
	e.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActErrno}}}
	status := "grep -E '^(Uid|Gid|Cap|NoNewPrivs|Seccomp)' /proc/self/status"
	e.spec.Hooks = &specs.Hooks{StartContainer: shell(status + " >/tmp/hook; mkdir /tmp/made; ls /proc/self/fd | wc -l >>/tmp/hook; hostname sneaky")}
	e.spec.Hooks.StartContainer[0].Args[2] += "; true"
	e.spec.Process.Args = []string{"sh", "-c", "cat /tmp/hook; ls /tmp; hostname; echo; " + status}
	e.write()
	if err := os.Chmod(filepath.Join(e.bundle, "rootfs/tmp"), 0o1777); err != nil { //nolint:gosec // as /tmp is
		t.Fatal(err)
	}
	e.addApplets("grep", "wc", "ls", "mkdir")
	out := e.want(0, "\nbrig\n", "run", "--bundle", e.bundle, "confined")
	hook, program, ok := strings.Cut(out, "\n\n")
	fields := func(text string) (s string) {
		for line := range strings.Lines(text) {
			if strings.Contains(line, ":\t") {
				s += line
			}
		}
		return s
	}
	if !ok || fields(hook) == "" || strings.TrimSpace(fields(hook)) != strings.TrimSpace(fields(program)) {
		t.Errorf("the hook had\n%s\nthe program has\n%s", hook, program)
	}
	if strings.Contains(hook, "made") || !strings.Contains(hook, "\n4\n") {
		t.Errorf("the hook passed the filter, or had more than its streams: %s", hook)
	}
}

// TestHookEnvironment: a hook that is the host's program has its own environment or none (CVE-2025-23266); one that is the
// container's has the container's where it brings none.
func TestHookEnvironment(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	log := filepath.Join(t.TempDir(), "log")
	bare := func(script string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}
	}
	say := `echo "$SECRET" >>`
	e.spec.Hooks = &specs.Hooks{
		CreateRuntime: bare(say + log), CreateContainer: bare(say + log), Poststop: bare(say + log),
		StartContainer: append(bare(say+"/tmp/env"), specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", say + "/tmp/env"}, Env: []string{"SECRET=own"}}),
	}
	e.spec.Root.Readonly = false
	e.spec.Process.Env = append(e.spec.Process.Env, "SECRET=container's")
	e.spec.Process.Args = []string{"cat", "/tmp/env"}
	e.write()
	e.want(0, "container's\nown\n", "run", "--bundle", e.bundle, "environment")
	if text, err := os.ReadFile(log); err != nil || string(text) != "\n\n\n" {
		t.Errorf("hooks of the host's saw %q, %v", text, err)
	}
}

// TestFailingHooks: the first failure of a kind ends the container, by runc's words; poststop hooks run nevertheless, and
// nothing is left.
func TestFailingHooks(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			failingHooks(t, kind, false)
			failingHooks(t, kind, true)
		})
	}
}

func failingHooks(t *testing.T, kind string, slow bool) {
	t.Helper()
	second := 1
	e := newEngine(t)
	e.addApplets("false")
	log := filepath.Join(t.TempDir(), "log")
	list := []specs.Hook{{Path: "/bin/true"}, {Path: "/bin/false"}, {Path: "/bin/sh", Args: []string{"sh", "-c", "echo third >>" + log}}}
	words := "error running " + kind + " hook #1: /bin/false: exit status 1"
	if slow {
		list[1] = specs.Hook{Path: "/bin/sleep", Args: []string{"sleep", "100"}, Timeout: &second}
		words = "error running " + kind + " hook #1: /bin/sleep: it did not end within 1 seconds"
	}
	h := &specs.Hooks{Poststop: shell("echo poststop >>" + log)}
	*map[string]*[]specs.Hook{
		"prestart": &h.Prestart, "createRuntime": &h.CreateRuntime, "createContainer": &h.CreateContainer, //nolint:staticcheck // see above
		"startContainer": &h.StartContainer, "poststart": &h.Poststart,
	}[kind] = list
	e.spec.Hooks, e.spec.Process.Args = h, []string{"sleep", "1000"}
	e.write()
	e.want(1, words, "run", "--bundle", e.bundle, "failing-"+kind)
	e.want(1, "does not exist", "state", "failing-"+kind)
	if text, err := os.ReadFile(log); err != nil || string(text) != "poststop\n" {
		t.Errorf("%s: the other hooks left %q (%v)", kind, text, err)
	}
}

// TestFailingPoststop is a warning: the container is deleted.
func TestFailingPoststop(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	log := filepath.Join(t.TempDir(), "log")
	e.spec.Hooks = &specs.Hooks{Poststop: append([]specs.Hook{{Path: "/bin/false"}}, shell("echo second >>"+log)...)}
	e.spec.Process.Args = []string{"true"}
	e.write()
	e.want(0, "error running poststop hook #0: /bin/false: exit status 1", "run", "--bundle", e.bundle, "late-hook")
	if text, err := os.ReadFile(log); err != nil || string(text) != "second\n" {
		t.Errorf("the second hook left %q (%v)", text, err)
	}
}
