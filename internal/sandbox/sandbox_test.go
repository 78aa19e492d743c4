package sandbox

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"brig/internal/annotation"
	"brig/internal/seccomp"
	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hostView is a small spec with every layer on.
func hostView(t testing.TB, args ...string) *specs.Spec {
	t.Helper()
	filter, err := seccomp.Profile(seccomp.Default, nil)
	if err != nil {
		t.Fatal(err)
	}
	limit := int64(64 << 20)
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Readonly: true},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}},
		Mounts: []specs.Mount{
			{Type: "bind", Source: "/usr", Destination: "/usr", Options: []string{"rbind", "ro", "nosuid", "nodev"}},
			{Type: "bind", Source: "/bin", Destination: "/bin", Options: []string{"bind", "copy-symlink"}},
			{Type: "bind", Source: "/lib", Destination: "/lib", Options: []string{"bind", "copy-symlink"}},
			{Type: "bind", Source: "/lib64", Destination: "/lib64", Options: []string{"bind", "copy-symlink"}},
			{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/tmp", Options: []string{"nosuid", "nodev", "mode=1777", "size=64m"}},
		},
		Linux: &specs.Linux{Seccomp: filter, Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}},
		Annotations: map[string]string{
			annotation.Root: "ram", annotation.Landlock: "on", annotation.LockCaps: "true", annotation.IDs: "auto",
		},
	}
	for _, n := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.PIDNamespace, specs.MountNamespace, specs.NetworkNamespace,
		specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: n})
	}
	return s
}

// TestMain lets the test binary be the monitor of the detached sandboxes that tests start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == MonitorCommand {
		os.Exit(Monitor())
	}
	os.Exit(m.Run())
}

func needRoot(t testing.TB) {
	t.Helper()
	testenv.Check(t, testenv.Root)
}

func openStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.TempDir() + "/brig")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// output runs a request in the foreground and gives what it wrote.
func output(t *testing.T, s *Store, req *Request) (string, Result, error) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := s.Run(req, Streams{Out: f, Err: f})
	text, rerr := os.ReadFile(f.Name())
	if rerr != nil {
		t.Fatal(rerr)
	}
	left, lerr := os.ReadDir(s.path("sandboxes"))
	if lerr != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, lerr)
	}
	return string(text), r, err
}

func TestRunEnds(t *testing.T) {
	needRoot(t)
	t.Parallel()
	for _, tt := range []struct {
		name   string
		script string
		req    Request
		want   Result
		out    string
	}{
		{"exit", "echo hi; exit 5", Request{}, Result{ExitCode: 5, Cause: Exited}, "hi\n"},
		{"timeout", "sleep 60", Request{Timeout: 100 * time.Millisecond}, Result{ExitCode: 124, Cause: TimedOut}, ""},
		{"output", "while :; do echo aaaaaaa; done", Request{OutputLimit: 80}, Result{ExitCode: 137, Cause: OutputLimit}, strings.Repeat("aaaaaaa\n", 10)},
		{"oom", "exec perl -e 'my $x; $x .= chr(65 + $_ % 26) x 1048576 for 1..500; print length $x'", Request{}, Result{ExitCode: 137, Signal: 9, Cause: OOM}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := tt.req
			req.Spec = hostView(t, "sh", "-c", tt.script)
			out, r, err := output(t, openStore(t), &req)
			if err != nil {
				t.Fatal(err)
			}
			r.Message = ""
			if r != tt.want || out != tt.out {
				t.Errorf("got %+v %q, want %+v %q", r, out, tt.want, tt.out)
			}
		})
	}
}

// A file that somebody has left among the sandboxes is in nobody's way.
func TestStrayFile(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	stray := s.path("sandboxes", "stray")
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := s.Find("stray"); !errors.Is(err, ErrNotFound) {
		t.Errorf("found: %v", err)
	}
	if _, err := os.Stat(stray); err != nil {
		t.Error(err)
	}
}

func TestNotFound(t *testing.T) {
	needRoot(t)
	t.Parallel()
	for name, want := range map[string]int{"no-such-program": 127, "/usr": 126, "/no/such": 127} {
		_, _, err := output(t, openStore(t), &Request{Spec: hostView(t, name)})
		if ExitCode(err) != want {
			t.Errorf("%s: %v gives %d, want %d", name, err, ExitCode(err), want)
		}
	}
}

func TestDetached(t *testing.T) {
	needRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s := openStore(t)
	spec := hostView(t, "sh", "-c", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.02; done")
	id, err := s.Detach(&Request{Spec: spec, Name: "job"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Find("job")
	if err != nil || b.ID != id {
		t.Fatal(b, err)
	}
	if _, err := s.Detach(&Request{Spec: hostView(t, "true"), Name: "job"}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the same name again: %v", err)
	}
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.Exec(&ExecRequest{Args: []string{"sh", "-c", "echo in; cat /proc/self/uid_map; ls /proc | grep -c '^[0-9]'; grep Seccomp: /proc/self/status; exit 4"}}, Streams{Out: out, Err: out})
	text, _ := os.ReadFile(out.Name())
	if err != nil || r.ExitCode != 4 || !strings.HasPrefix(string(text), "in\n") || !strings.Contains(string(text), "Seccomp:\t2") {
		t.Errorf("exec: %+v, %v, %q", r, err, text)
	}
	if err := b.Pause(ctx); err != nil {
		t.Error(err)
	}
	if st, err := b.State(); err != nil || st.Status != Paused {
		t.Errorf("paused: %+v, %v", st, err)
	}
	if err := b.Resume(ctx); err != nil {
		t.Error(err)
	}
	if stats, err := b.Stats(); err != nil || stats.Memory.Current == 0 {
		t.Errorf("stats: %+v, %v", stats, err)
	}
	if err := b.Remove(ctx, false); err == nil {
		t.Error("a running sandbox was removed")
	}
	if err := b.Stop(ctx, 0); err != nil {
		t.Error(err)
	}
	if r, err := b.Wait(ctx); err != nil || r.ExitCode != 3 {
		t.Errorf("wait: %+v, %v", r, err)
	}
	var log strings.Builder
	if err := b.Logs(ctx, &log, &log, true, 0); err != nil || log.String() != "ready\nbye\n" {
		t.Errorf("log %q, %v", log.String(), err)
	}
	if err := b.Remove(ctx, false); err != nil {
		t.Error(err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// TestBytesAreKept: what is no UTF-8 arrives as it is in the foreground, and is refused in the background, where it would
// pass through JSON.
func TestBytesAreKept(t *testing.T) {
	needRoot(t)
	t.Parallel()
	spec := func() *specs.Spec { return hostView(t, "printf", "a\xffb") }
	if out, r, err := output(t, openStore(t), &Request{Spec: spec()}); err != nil || r.ExitCode != 0 || out != "a\xffb" {
		t.Errorf("%q, %+v, %v", out, r, err)
	}
	if id, err := openStore(t).Detach(&Request{Spec: spec()}); err == nil || !strings.Contains(err.Error(), `"a\xffb" is no UTF-8 text`) {
		t.Errorf("%s, %v", id, err)
	}
}
