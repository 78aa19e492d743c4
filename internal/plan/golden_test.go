package plan

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"brig/internal/annotation"
	"brig/internal/caps"
	"brig/internal/mac"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

// A machine of the tests' own.
var (
	testDirs = []string{
		"/", "/usr", "/etc/alternatives", "/etc/ssl/certs", "/dev", "/proc/acpi", "/proc/asound", "/proc/scsi", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
		"/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel/debug", "/sys/kernel/security", "/sys/module", "/srv/root", "/srv/data", "/srv/data/in",
		"/home/me/work", "/home/me/work/src", "/run/pod/shm", "/run/pod/secrets", "/srv/bundle/rootfs",
	}
	testFiles = []string{
		"/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/resolv.conf", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/keys",
		"/proc/key-users", "/proc/kmsg", "/proc/schedstat", "/proc/timer_list", "/proc/vmallocinfo", "/proc/sysrq-trigger", "/run/pod/hosts", "/run/pod/resolv.conf",
		"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/fuse", "/dev/kvm", "/dev/sda",
	}
	testLinks   = map[string]string{"/bin": "usr/bin", "/sbin": "usr/sbin", "/lib": "usr/lib", "/lib64": "usr/lib64"}
	testInRoot  = []string{"/", "/proc", "/dev", "/sys", "/etc", "/var", "/var/run", "/tmp", "/run", "/srv", "/bin", "/work"}
	testInRootF = []string{"/etc/hosts", "/etc/passwd"}
)

func kind(dirs, files []string) func(string) Kind {
	return func(name string) Kind {
		switch {
		case slices.Contains(dirs, name):
			return Dir
		case slices.Contains(files, name):
			return File
		}
		return Missing
	}
}

func testFacts() *Facts {
	return &Facts{
		OwnNamespace: func(kind specs.LinuxNamespaceType, path string) bool { return path == "/proc/1/ns/"+string(kind) },
		Privileged:   true, LandlockABI: 7, LastCap: caps.Max, Caps: caps.All, Supervised: true,
		Host:       kind(append(slices.Clone(testDirs), "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64"), testFiles),
		Link:       func(name string) (string, bool) { to, ok := testLinks[name]; return to, ok },
		InRoot:     kind(testInRoot, testInRootF),
		LinkInRoot: func(name string) bool { return name == "/etc/localtime" },
		ModeInRoot: func(name string) (uint32, bool) { return 0o711, kind(testInRoot, nil)(name) == Dir },
	}
}

type golden struct {
	name, spec string
	facts      func(*Facts)
	change     func(*specs.Spec)
	exec       bool
	hook       string // the kind of hook that is compiled
}

func annotate(pairs ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		for i := 0; i < len(pairs); i += 2 {
			s.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

func askAgent(s *specs.Spec) {
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: "/run/agent.sock",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActNotify}},
	}
}

func hostMounts(s *specs.Spec) {
	without(s, specs.MountNamespace)
	without(s, specs.UserNamespace)
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
}

// goldens are the launches whose programs are held in testdata/NAME.program.txt, from the spec testdata/SPEC.json.
var goldens = []golden{
	{name: "default", spec: "default"},
	{name: "strict", spec: "strict"},
	{name: "labels", spec: "default", change: labels, facts: bothModules},
	{name: "labels-privileges", spec: "compat", change: mayGainPrivileges, facts: bothModules},
	{name: "labels-init", spec: "terminal", change: labels, facts: bothModules},
	{name: "exec-labels", spec: "terminal", exec: true, change: labels, facts: bothModules},
	{name: "compat", spec: "compat"},
	{name: "terminal-init", spec: "terminal"},
	{name: "terminal", spec: "terminal", change: annotate(annotation.Init, "")},
	{name: "rootfs", spec: "rootfs"},
	{name: "overlay", spec: "rootfs", change: writableRoot("ram")},
	{name: "overlay-disk", spec: "host-users", change: writableRoot("disk")},
	{name: "overlay-places", spec: "rootfs", facts: readOnlyFileSystem, change: func(s *specs.Spec) { s.Process.Cwd = "/app" }},
	{name: "devices", spec: "devices"},
	{name: "mounts", spec: "mounts"},
	{name: "network", spec: "network"},
	{name: "host-users", spec: "host-users", facts: func(f *Facts) { f.CgroupTasks = 3 }},
	{name: "bundle", spec: "bundle", facts: func(f *Facts) { f.MAC = mac.Host{AppArmor: true, OwnAttr: true, Enforcing: true} }},
	{name: "privileges", spec: "privileges", facts: func(f *Facts) { f.Supervised = false }},
	{name: "joined-user", spec: "joined-user"},
	{name: "scheduling", spec: "scheduling", facts: func(f *Facts) { f.Supervised = false }},
	{name: "exec-scheduling", spec: "scheduling", exec: true, facts: func(f *Facts) { f.CgroupTasks, f.Supervised = 1, false }},
	{name: "mount-extensions", spec: "mount-extensions"},
	{name: "mount-label", spec: "bundle", change: func(s *specs.Spec) {
		s.Linux.MountLabel = "system_u:object_r:container_file_t:s0:c1,c2"
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc", Type: "tmpfs", Options: []string{"tmpcopyup"}})
	}, facts: func(f *Facts) { f.MAC = mac.Host{AppArmor: true, SELinux: true} }},
	{name: "host-mounts", spec: "rootfs", facts: func(f *Facts) { f.Supervised = false }, change: hostMounts},
	{name: "exec-host-mounts", spec: "rootfs", exec: true, facts: func(f *Facts) { f.Supervised = false }, change: hostMounts},
	{name: "net-devices", spec: "bundle", change: func(s *specs.Spec) {
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {}, "eth0": {Name: "inner%d"}, "eth2": {Name: "inner%d"}}
	}, facts: func(f *Facts) { f.MAC = mac.Host{AppArmor: true} }},
	{name: "time-offsets", spec: "time-offsets"},
	{name: "exec-time-offsets", spec: "time-offsets", exec: true},
	{name: "time-offsets-joined-user", spec: "time-offsets", change: func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1000/ns/user" }},
	{name: "rootless", spec: "default", facts: func(f *Facts) { f.Privileged = false }},
	{name: "no-landlock", spec: "default", change: annotate(annotation.AllowMissing, "seccomp, landlock"), facts: func(f *Facts) { f.LandlockABI = 0 }},
	{name: "landlock-old", spec: "default", facts: func(f *Facts) { f.LandlockABI = 1 }},
	{name: "strict-landlock-old", spec: "strict", facts: func(f *Facts) { f.LandlockABI = 2 }},
	{name: "streams", spec: "default", facts: func(f *Facts) { f.PassFDs, f.InheritStdio = 2, true }},
	{name: "cgroups-v1", spec: "bundle", facts: legacyHierarchies},
	{name: "cgroups-v1-host", spec: "bundle", facts: legacyHierarchies, change: func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	}},
	{name: "nested", spec: "devices", facts: func(f *Facts) { f.Nested = true }},
	{name: "nested-host-users", spec: "host-users", facts: func(f *Facts) { f.Nested = true }},
	{name: "nested-host-processes", spec: "host-users", facts: nestedFacts, change: hostProcesses},
	{name: "exec-host-processes", spec: "host-users", exec: true, facts: nestedFacts, change: hostProcesses},
	{name: "hooked", spec: "bundle", facts: func(f *Facts) { f.Held, f.Hooks, f.MAC = true, true, mac.Host{AppArmor: true} }},
	{name: "agent", spec: "bundle", change: askAgent, facts: func(f *Facts) { f.Held, f.MAC = true, mac.Host{AppArmor: true} }},
	{name: "hook-create-container", spec: "bundle", hook: "createContainer", exec: true},
	{name: "hook-start-container", spec: "default", hook: "startContainer", exec: true},
	{name: "exec", spec: "default", exec: true},
	{name: "exec-terminal", spec: "terminal", exec: true},
	{name: "exec-rootless", spec: "default", exec: true, facts: func(f *Facts) { f.Privileged, f.Supervised = false, false }},
	{name: "exec-bundle", spec: "bundle", exec: true, facts: func(f *Facts) { f.CgroupTasks, f.MAC = 1, mac.Host{AppArmor: true} }},
}

func labels(s *specs.Spec) {
	s.Process.ApparmorProfile, s.Process.SelinuxLabel = "brig-x", "system_u:system_r:brig_t:s0:c1,c2"
}

func mayGainPrivileges(s *specs.Spec) {
	labels(s)
	annotate(annotation.Landlock, "")(s)
	s.Process.NoNewPrivileges = false
}

func bothModules(f *Facts) {
	f.MAC = mac.Host{AppArmor: true, SELinux: true, OwnAttr: true, Enforcing: true}
}

func writableRoot(kind string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Root = &specs.Root{Path: "/srv/root"}
		annotate(annotation.Root, "", annotation.Files, "", annotation.RootWritable, kind, annotation.RootWritableSize, "67108864")(s)
	}
}

// readOnlyFileSystem is what an image is.
func readOnlyFileSystem(f *Facts) {
	f.Attributes = func(name string) uint64 {
		if name == "/srv/root" {
			return unix.MOUNT_ATTR_RDONLY
		}
		return 0
	}
}

func nestedFacts(f *Facts) { f.Nested = true }

// hostProcesses is what a rootless Podman makes of --pid=host --group-add=keep-groups -v X:/over:O.
func hostProcesses(s *specs.Spec) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[annotation.KeepGroups] = "1"
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/over", Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/srv/low", "upperdir=/srv/up", "workdir=/srv/work"}})
}

func legacyHierarchies(f *Facts) {
	f.MAC = mac.Host{AppArmor: true, OwnAttr: true, Enforcing: true}
	f.Hierarchies = []Hierarchy{
		{Dir: "cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}, Group: "/sys/fs/cgroup/cpu,cpuacct/brig/x"},
		{Dir: "memory", Controllers: []string{"memory"}, Group: "/sys/fs/cgroup/memory/brig/x"},
	}
}

func readSpec(t testing.TB, name string) *specs.Spec {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{}
	if err := json.Unmarshal(data, s); err != nil {
		t.Fatal(err)
	}
	if profile := s.Annotations[annotation.Seccomp]; profile != "" && s.Linux.Seccomp == nil {
		// The specs of policies leave it out: it is long, and a name stands for it.
		if s.Linux.Seccomp, err = seccomp.Profile(profile, s.Process.Capabilities.Bounding); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (g *golden) inputs(t testing.TB) (*specs.Spec, *Facts) {
	t.Helper()
	spec, facts := readSpec(t, g.spec), testFacts()
	if g.change != nil {
		g.change(spec)
	}
	if g.facts != nil {
		g.facts(facts)
	}
	return spec, facts
}

func (g *golden) run(spec *specs.Spec, facts *Facts) (*Plan, error) {
	if g.hook != "" {
		h := &specs.Hook{Path: "/bin/hook", Args: []string{"hook", "argument"}, Env: []string{"KEY=value"}}
		return CompileHook(spec, h, g.hook == "startContainer", "/srv/bundle", facts)
	}
	if g.exec {
		return CompileExec(spec, facts)
	}
	return Compile(spec, facts)
}

func (g *golden) compile(t testing.TB) *Plan {
	t.Helper()
	p, err := g.run(g.inputs(t))
	if err != nil {
		t.Fatalf("%s: %v", g.name, err)
	}
	return p
}

// filterSize differs from one machine to another.
var filterSize = regexp.MustCompile(`\{\d+ instructions\}`)

// text is the whole plan as it is held: the program, and what the parent does for it.
func text(t testing.TB, p *Plan) string {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprintf(&b, "clone: %s\n", CloneText(p.CloneFlags))
	for _, bind := range p.Binds {
		fmt.Fprintf(&b, "bind: %s", bind.Source)
		for _, w := range []struct {
			word string
			on   bool
		}{{" recursive", bind.Recursive}, {" own-ids", bind.OwnIDs}, {" no-follow", bind.NoFollow}, {" propagates", bind.Propagates}} {
			if w.on {
				b.WriteString(w.word)
			}
		}
		if len(bind.UID) > 0 {
			fmt.Fprintf(&b, " uids %v gids %v", bind.UID, bind.GID)
		}
		if d := bind.Device; d != nil {
			fmt.Fprintf(&b, " as %s %d:%d", d.Type, d.Major, d.Minor)
		}
		b.WriteByte('\n')
	}
	for _, c := range p.CopyUps {
		fmt.Fprintf(&b, "copy up: %s in %s %v\n", c.Path, c.Root, c.Data)
	}
	if o := p.Overlay; o != nil {
		fmt.Fprintf(&b, "overlay: over %s own-ids %v, on disk %v, %d bytes, %d inodes %v\n", o.Lower.Source, o.Lower.OwnIDs, o.Disk, o.Size, o.Inodes, o.Data)
	}
	for _, n := range p.Join {
		fmt.Fprintf(&b, "join: %s %s\n", n.Type, n.Path)
	}
	for _, d := range p.NetDevices {
		fmt.Fprintf(&b, "network device: %s as %s\n", d.Host, d.Name)
	}
	fmt.Fprintf(&b, "inputs: %d tasks, %d streams, %d files, high fd %d\n", len(p.Tasks), len(p.Stdio), len(p.PassFDs), p.HighFD)
	if p.InitialCPUs != nil {
		fmt.Fprintf(&b, "initial CPUs %#x\n", p.InitialCPUs[0])
	}
	fmt.Fprintf(&b, "maps %v, terminal %v, landlock ABI %d, proved %v\n", p.UserNS, p.Terminal, p.LandlockABI, p.LandlockProbed)
	for _, m := range p.Missing {
		fmt.Fprintf(&b, "missing: %s: %s\n", m.Layer, m.Reason)
	}
	if err := p.Program.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return filterSize.ReplaceAllString(b.String(), "{the filter's instructions}")
}

func TestGoldenPrograms(t *testing.T) {
	t.Parallel()
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			got := text(t, g.compile(t))
			file := "testdata/" + g.name + ".program.txt"
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v; go test -update writes it", err)
			}
			if got != string(want) {
				t.Errorf("%s differs; go test -update writes it anew\n%s", file, firstDifference(string(want), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d: want %q\n        got  %q", i+1, w[i], g[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

// TestGoldenFilesAreUsed: a file that no case reads would hold nothing.
func TestGoldenFilesAreUsed(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !f.IsDir() && !slices.ContainsFunc(goldens, func(g golden) bool { return f.Name() == g.name+".program.txt" || f.Name() == g.spec+".json" }) {
			t.Errorf("testdata/%s belongs to no case", f.Name())
		}
	}
}

// TestCompileIsPure compiles each spec a hundred times, some of them at once: the same spec and facts give the same
// program to the byte, and nothing is written into either of them (the race detector sees it).
func TestCompileIsPure(t *testing.T) {
	t.Parallel()
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			spec, facts := g.inputs(t)
			before, err := json.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			first, err := g.run(spec, facts)
			if err != nil {
				t.Fatal(err)
			}
			want := text(t, first)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range 25 {
						p, err := g.run(spec, facts)
						if err != nil {
							t.Error(err)
							return
						}
						if !reflect.DeepEqual(p, first) {
							t.Errorf("another program: %s", firstDifference(want, text(t, p)))
							return
						}
					}
				})
			}
			wg.Wait()
			if after, err := json.Marshal(spec); err != nil || !bytes.Equal(before, after) {
				t.Errorf("the spec was changed: %v", err)
			}
		})
	}
}
