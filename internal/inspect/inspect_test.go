package inspect

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/internal/annotation"
	"brig/internal/cgroup"
	"brig/internal/plan"
	"brig/internal/sandbox"
	"brig/internal/seccomp"
	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestMain lets the test binary be the monitor of the detached sandboxes that tests start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sandbox.MonitorCommand {
		os.Exit(sandbox.Monitor())
	}
	os.Exit(m.Run())
}

// everyLayer is a small spec with every layer on.
func everyLayer(t *testing.T) *specs.Spec {
	t.Helper()
	filter, err := seccomp.Profile(seccomp.Default, nil)
	if err != nil {
		t.Fatal(err)
	}
	memory, pids, quota, period := int64(64<<20), int64(32), int64(50000), uint64(100000)
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: "box",
		Root:     &specs.Root{Readonly: true},
		Process: &specs.Process{
			Args: []string{"sleep", "1000"}, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Type: "bind", Source: "/usr", Destination: "/usr", Options: []string{"rbind", "ro", "nosuid", "nodev"}},
			{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/tmp", Options: []string{"nosuid", "nodev", "mode=1777", "size=64m"}},
		},
		Linux: &specs.Linux{Seccomp: filter, Resources: &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &memory, Swap: &memory}, Pids: &specs.LinuxPids{Limit: &pids}, CPU: &specs.LinuxCPU{Quota: &quota, Period: &period},
		}},
		Annotations: map[string]string{
			annotation.Root: "ram", annotation.Landlock: "on", annotation.LockCaps: "true", annotation.IDs: "auto", annotation.Seccomp: seccomp.Default,
		},
	}
	s.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/scsi", "/proc/no-such", "/sys/firmware"}
	s.Linux.ReadonlyPaths = []string{"/proc/sys", "/proc/no-such"}
	for _, link := range []string{"/bin", "/lib", "/lib64"} {
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: link, Destination: link, Options: []string{"rbind", "ro", "copy-symlink"}})
	}
	for _, n := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.PIDNamespace, specs.MountNamespace, specs.NetworkNamespace,
		specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: n})
	}
	return s
}

// start runs a sandbox for the time of the test. weaken then changes the spec that is stored beside it: what is asked
// for is then more than what is in force.
func start(t *testing.T, spec *specs.Spec) *running {
	t.Helper()
	testenv.Check(t, testenv.Root)
	dir := t.TempDir() + "/brig"
	store, err := sandbox.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	id, err := store.Detach(&sandbox.Request{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	b, err := store.Find(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := b.Remove(ctx, true); err != nil {
			t.Error(err)
		}
	})
	return &running{t: t, Sandbox: b, dir: filepath.Join(dir, "sandboxes", id)}
}

type running struct {
	*sandbox.Sandbox
	t   *testing.T
	dir string
}

func (r *running) rewrite(name string, change func(text []byte) any) {
	r.t.Helper()
	file := filepath.Join(r.dir, name)
	text, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := json.Marshal(change(text))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(file, out, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			r.t.Error(err)
		}
	})
}

func (r *running) spec(change func(*specs.Spec)) {
	r.t.Helper()
	r.rewrite("config.json", func(text []byte) any {
		var s specs.Spec
		if err := json.Unmarshal(text, &s); err != nil {
			r.t.Fatal(err)
		}
		change(&s)
		return &s
	})
}

func (r *running) read(o Options) *Report {
	r.t.Helper()
	report, err := Read(r.Sandbox, o)
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

// bad are the layers that are not as strong as asked for.
func bad(r *Report) []string {
	var list []string
	for _, l := range r.Layers {
		if !l.OK {
			list = append(list, l.Layer)
		}
	}
	return list
}

func layer(t *testing.T, r *Report, name string) Layer {
	t.Helper()
	i := slices.IndexFunc(r.Layers, func(l Layer) bool { return l.Layer == name })
	if i < 0 {
		t.Fatalf("no layer %q in %+v", name, r.Layers)
	}
	return r.Layers[i]
}

// TestEveryLayerInForce reads a sandbox back as it was asked for, and tells for each layer what the kernel says.
func TestEveryLayerInForce(t *testing.T) {
	t.Parallel()
	b := start(t, everyLayer(t))
	r := b.read(Options{Calls: true, Spec: true})
	if list := bad(r); list != nil {
		t.Errorf("not as asked for: %q\n%+v", list, r.Layers)
	}
	for name, want := range map[string][2]string{
		"namespaces":        {"user pid mount network ipc uts cgroup", "user pid mount network ipc uts cgroup"},
		"ids":               {"a range of its own; root inside is nobody outside", "0–65535 "},
		"capabilities":      {"none, securebits locked", "none, in all five sets"},
		"no new privileges": {"true", "true"},
		"seccomp":           {"default", "filter mode, filters: 1, "},
		"landlock":          {"on: files", "ABI "},
		"root file system":  {"the host's programs and nothing else, read-only", "read-only, "},
		"proc and sys":      {"4 paths hidden, 2 read-only", "so they are"},
		"cgroup":            {"memory 64.0 MiB, no swap, 32 processes, 0.50 cpus", "memory 64.0 MiB, "},
	} {
		l := layer(t, r, name)
		if !strings.HasPrefix(l.Asked, want[0]) || !strings.HasPrefix(l.Effective, want[1]) {
			t.Errorf("%s: asked %q, in force %q", name, l.Asked, l.Effective)
		}
	}
	if e := layer(t, r, "cgroup").Effective; !strings.Contains(e, "32 processes") || !strings.Contains(e, "0.50 cpus") {
		t.Errorf("limits: %s", e)
	}
	if e := layer(t, r, "landlock").Effective; !strings.HasSuffix(e, "proved by a refused call before the start") {
		t.Errorf("landlock: %s", e)
	}
	if r.Spec == nil || r.Spec.Hostname != "box" || r.State.PID == 0 {
		t.Errorf("spec %+v, state %+v", r.Spec, r.State)
	}
	for target, writable := range map[string]bool{"/": false, "/usr": false, "/tmp": true, "/dev/null": true} {
		i := slices.IndexFunc(r.Mounts, func(m Mount) bool { return m.Target == target })
		if i < 0 || r.Mounts[i].Writable != writable {
			t.Errorf("mount %s: %+v", target, r.Mounts)
		}
	}
	if r := b.read(Options{}); r.Calls != nil || r.Spec != nil || bad(r) != nil {
		t.Errorf("without options: %+v", r)
	}
}

// TestCalls reads the filter back from the kernel.
func TestCalls(t *testing.T) {
	t.Parallel()
	b := start(t, everyLayer(t))
	c := b.read(Options{Calls: true}).Calls
	if c == nil || !c.Same || c.Reason != "" {
		t.Fatalf("%+v", c)
	}
	for name, list := range map[string][]string{"read": c.Allowed, "execve": c.Allowed, "clone": c.Depends, "socket": c.Depends, "mount": c.Refused, "bpf": c.Refused, "ptrace": c.Refused} {
		if !slices.Contains(list, name) {
			t.Errorf("%s is not where it belongs", name)
		}
	}
	if !strings.HasSuffix(c.String(), "; the very filter that was asked for") {
		t.Error(c)
	}
}

// TestWeaker: whatever is in force and not as strong as what is asked for is reported, and nothing else is.
func TestWeaker(t *testing.T) {
	t.Parallel()
	b := start(t, everyLayer(t))
	for _, c := range []struct {
		name, layer, says string
		change            func(*specs.Spec)
	}{
		{"a namespace shared with the host", "namespaces", "shared with the host: time", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		}},
		{"another filter", "seccomp", "differs from what was asked for", func(s *specs.Spec) {
			profile, err := seccomp.Profile(seccomp.Strict, nil)
			if err != nil {
				t.Fatal(err)
			}
			s.Linux.Seccomp = profile
		}},
		{"less memory", "cgroup", "memory 64.0 MiB", func(s *specs.Spec) { *s.Linux.Resources.Memory.Limit = 32 << 20 }},
		{"fewer processes", "cgroup", "32 processes", func(s *specs.Spec) { *s.Linux.Resources.Pids.Limit = 16 }},
		{"less processor time", "cgroup", "0.50 cpus", func(s *specs.Spec) { *s.Linux.Resources.CPU.Quota = 25000 }},
		{"a tmpfs that is to be read-only", "root file system", "writable beyond what was asked: /tmp", func(s *specs.Spec) { s.Mounts[3].Options = append(s.Mounts[3].Options, "ro") }},
		{"a path that is to be hidden", "proc and sys", "open: /proc/version", func(s *specs.Spec) { s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/version") }},
		{"a folder that is to be hidden", "proc and sys", "open: /usr/share", func(s *specs.Spec) { s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/usr/share/") }},
		{"a mount that is to be hidden", "proc and sys", "open: /tmp", func(s *specs.Spec) { s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/tmp") }},
		{"a path that is to be read-only", "proc and sys", "open: /proc/irq", func(s *specs.Spec) { s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/proc/irq") }},
		{"an AppArmor profile", "access control", "", func(s *specs.Spec) { s.Process.ApparmorProfile = "brig-no-such" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			b.spec(c.change)
			r := b.read(Options{Calls: true})
			if list := bad(r); !slices.Equal(list, []string{c.layer}) {
				t.Errorf("not as asked for: %q, want %q", list, c.layer)
			}
			if e := layer(t, r, c.layer).Effective; !strings.Contains(e, c.says) {
				t.Errorf("%s: %q does not say %q", c.layer, e, c.says)
			}
		})
	}
	b.t = t
}

// TestWeakSandbox starts one with layers off and then asks for them.
func TestWeakSandbox(t *testing.T) {
	t.Parallel()
	spec := everyLayer(t)
	spec.Linux.Seccomp, spec.Process.NoNewPrivileges, spec.Linux.Resources = nil, false, nil
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}}
	delete(spec.Annotations, annotation.Landlock)
	delete(spec.Annotations, annotation.LockCaps)
	delete(spec.Annotations, annotation.IDs)
	spec.Linux.Namespaces = spec.Linux.Namespaces[1:] // the host's ids
	b := start(t, spec)
	r := b.read(Options{})
	if list := bad(r); list != nil {
		t.Errorf("less was asked for, and %q are not as asked for", list)
	}
	for name, want := range map[string]string{
		"seccomp": "off", "landlock": "off", "no new privileges": "false", "ids": "the host's",
		"capabilities": "bounding: CAP_KILL; permitted: CAP_KILL; effective: CAP_KILL",
	} {
		if got := layer(t, r, name).Effective; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	full := everyLayer(t)
	b.spec(func(s *specs.Spec) {
		s.Linux.Seccomp, s.Process.NoNewPrivileges, s.Linux.Namespaces = full.Linux.Seccomp, true, full.Linux.Namespaces
		s.Process.Capabilities = full.Process.Capabilities
		s.Annotations[annotation.Landlock] = "on"
	})
	if got, want := bad(b.read(Options{})), []string{"namespaces", "ids", "capabilities", "no new privileges", "seccomp", "landlock"}; !slices.Equal(got, want) {
		t.Errorf("not as asked for: %q, want %q", got, want)
	}
}

// TestAccepted: a layer that the policy allowed to be missing is told, and is no fault.
func TestAccepted(t *testing.T) {
	t.Parallel()
	b := start(t, everyLayer(t))
	b.spec(func(s *specs.Spec) { s.Process.ApparmorProfile = "brig-no-such" })
	b.rewrite("state.json", func(text []byte) any {
		var st sandbox.State
		if err := json.Unmarshal(text, &st); err != nil {
			t.Fatal(err)
		}
		st.Landlock = sandbox.Landlock{}
		st.Missing = []plan.MissingLayer{{Layer: "apparmor", Reason: "no such module"}, {Layer: "landlock", Reason: "an old kernel"}}
		return &st
	})
	r := b.read(Options{})
	if list := bad(r); list != nil {
		t.Errorf("not as asked for: %q", list)
	}
	for name, reason := range map[string]string{"access control": "no such module", "landlock": "an old kernel"} {
		if got := layer(t, r, name).Effective; got != "missing, as --allow-missing accepts: "+reason {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestUpdated: what brig update changes is what is asked for from then on, up and down.
func TestUpdated(t *testing.T) {
	t.Parallel()
	b := start(t, everyLayer(t))
	for _, memory := range []int64{128 << 20, 48 << 20} {
		if err := b.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory, Swap: &memory}}); err != nil {
			t.Fatal(err)
		}
		r := b.read(Options{})
		if list := bad(r); list != nil {
			t.Errorf("not as asked for: %q", list)
		}
		l := layer(t, r, "cgroup")
		if want := "memory " + Bytes(uint64(memory)) + ", "; !strings.HasPrefix(l.Asked, want) || !strings.HasPrefix(l.Effective, want) || !strings.Contains(l.Asked, "32 processes") {
			t.Errorf("asked %q, in force %q", l.Asked, l.Effective)
		}
	}
}

// TestInit inspects the program, not Brig's own process at pid 1.
func TestInit(t *testing.T) {
	t.Parallel()
	spec := everyLayer(t)
	spec.Annotations[annotation.Init] = "true"
	b := start(t, spec)
	st, err := b.State()
	if err != nil {
		t.Fatal(err)
	}
	pid := workload(st.PID, spec)
	name, err := os.ReadFile("/proc/" + itoa(pid) + "/comm")
	if err != nil || pid == st.PID || strings.TrimSpace(string(name)) != "sleep" {
		t.Errorf("process %d of %d is %q, %v", pid, st.PID, name, err)
	}
	if r := b.read(Options{Calls: true}); bad(r) != nil || !r.Calls.Same {
		t.Errorf("not as asked for: %q", bad(r))
	}
}

func itoa(n int) string { text, _ := json.Marshal(n); return string(text) }

// TestEnded: of a sandbox that has ended there is the state alone.
func TestEnded(t *testing.T) {
	t.Parallel()
	spec := everyLayer(t)
	spec.Process.Args = []string{"true"}
	b := start(t, spec)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := b.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if r := b.read(Options{Calls: true, Spec: true}); r.State.Status != sandbox.Stopped || r.Layers != nil || r.Calls != nil || r.Spec == nil {
		t.Errorf("%+v", r)
	}
}

// TestAsTight compares limits in force with those asked for.
func TestAsTight(t *testing.T) {
	t.Parallel()
	i := func(n int64) *int64 { return &n }
	u := func(n uint64) *uint64 { return &n }
	f := func(n float64) *float64 { return &n }
	mem := func(limit, swap *int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: limit, Swap: swap}}
	}
	cpu := func(quota int64) *specs.LinuxResources {
		return &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: u(100)}}
	}
	pids := func(n int64) *specs.LinuxResources { return &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &n}} }
	for _, c := range []struct {
		name  string
		in    cgroup.Limits
		asked *specs.LinuxResources
		want  bool
	}{
		{"nothing", cgroup.Limits{}, &specs.LinuxResources{}, true},
		{"memory", cgroup.Limits{MemoryBytes: u(10)}, mem(i(10), nil), true},
		{"rounded down to pages", cgroup.Limits{MemoryBytes: u(9)}, mem(i(10), nil), true},
		{"more memory", cgroup.Limits{MemoryBytes: u(11)}, mem(i(10), nil), false},
		{"no limit", cgroup.Limits{}, mem(i(10), nil), false},
		{"no limit wanted", cgroup.Limits{}, mem(i(-1), i(-1)), true},
		{"no swap", cgroup.Limits{MemoryBytes: u(10), SwapBytes: u(0), SwapCounted: true}, mem(i(10), i(10)), true},
		{"swap all the same", cgroup.Limits{MemoryBytes: u(10), SwapCounted: true}, mem(i(10), i(10)), false},
		{"more swap", cgroup.Limits{MemoryBytes: u(10), SwapBytes: u(6), SwapCounted: true}, mem(i(10), i(15)), false},
		{"a kernel that does not count swap", cgroup.Limits{MemoryBytes: u(10)}, mem(i(10), i(10)), true},
		{"swap without end", cgroup.Limits{MemoryBytes: u(10), SwapCounted: true}, mem(i(10), i(-1)), true},
		{"processes", cgroup.Limits{Pids: u(5)}, pids(5), true},
		{"more processes", cgroup.Limits{Pids: u(6)}, pids(5), false},
		{"any number of processes", cgroup.Limits{}, pids(-1), true},
		{"processors", cgroup.Limits{CPUs: f(1.5)}, cpu(150), true},
		{"more processors", cgroup.Limits{CPUs: f(2)}, cpu(150), false},
		{"all processors", cgroup.Limits{}, cpu(150), false},
	} {
		if got := (&Report{Limits: &c.in}).asTight(c.asked); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestAccessControl compares labels as the modules write them.
func TestAccessControl(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		have, profile, label string
		ok                   bool
	}{
		{"brig (enforce)\n", "brig", "", true}, {"brig (kill)", "brig", "", true}, {"brig (complain)", "brig", "", false}, {"brig-other (enforce)", "brig", "", false},
		{"unconfined\n", "brig", "", false}, {"unconfined\n", "unconfined", "", true}, {"a b (enforce)", "a b", "", true}, {"unconfined", "", "", true},
		{"u:r:t:s0:c1,c2\x00", "", "u:r:t:s0:c1,c2", true}, {"u:r:t:s0:c1,c22", "", "u:r:t:s0:c1,c2", false}, {"", "", "u:r:t:s0", false}, {"", "brig", "", false},
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(dir+"/attr", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/attr/current", []byte(c.have), 0o600); err != nil {
			t.Fatal(err)
		}
		spec := &specs.Spec{Process: &specs.Process{ApparmorProfile: c.profile, SelinuxLabel: c.label}}
		l, err := (&Report{State: &sandbox.State{}}).accessControl(&process{dir: dir}, spec)
		if err != nil || l.OK != c.ok {
			t.Errorf("%q with %q%q asked for: %+v, %v", c.have, c.profile, c.label, l, err)
		}
	}
}

// TestAsked says in words what a spec asks for.
func TestAsked(t *testing.T) {
	t.Parallel()
	text := func(s *specs.Spec) string {
		var b bytes.Buffer
		for _, l := range Asked(s) {
			b.WriteString(l.Layer + ": " + l.Text + "\n")
		}
		return b.String()
	}
	s := everyLayer(t)
	for _, want := range []string{
		"namespaces: user pid mount network ipc uts cgroup\n", "capabilities: none, securebits locked\n", "seccomp: default\n", "landlock: on: ",
		"root file system: the host's programs and nothing else, read-only\n", "writable: /tmp\n", "memory 64.0 MiB, no swap, 32 processes, 0.50 cpus\n",
	} {
		if got := text(s); !strings.Contains(got, want) {
			t.Errorf("%s\nlacks %q", got, want)
		}
	}
	s.Annotations = map[string]string{annotation.Landlock: "off"}
	s.Root = &specs.Root{Path: "/srv/root"}
	s.Mounts, s.Linux.Resources = nil, nil
	s.Process.Capabilities.Bounding = []string{"CAP_CHOWN"}
	s.Process.SelinuxLabel = "u:r:t:s0"
	for _, want := range []string{"ids: the host's\n", "capabilities: CAP_CHOWN\n", "landlock: off\n", "root file system: /srv/root, writable\n", "writable: nothing\n", "access control: u:r:t:s0\n"} {
		if got := text(s); !strings.Contains(got, want) {
			t.Errorf("%s\nlacks %q", got, want)
		}
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 64 << 20: "64.0 MiB", 3 << 30: "3.0 GiB", 1 << 50: "1.0 PiB", 1 << 63: "8192.0 PiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
