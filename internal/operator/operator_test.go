package operator

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"brig/internal/annotation"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestMistakes: what is wrong with the file is said with its line, and nothing is passed over.
func TestMistakes(t *testing.T) {
	t.Parallel()
	profile := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(profile, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x","syscalls":[{"names":["mount"],"action":"SCMP_ACT_NOTIFY"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"forbid-privileged = true\nforbid-privilegd = true": `config.toml:2: unknown key "forbid-privilegd"`,
		"[limits]\nmemry = \"2g\"":                          `config.toml:2: unknown key "limits.memry"`,
		"forbid-privileged = \"yes\"":                       "config.toml:1:",
		"forbid-privileged":                                 "config.toml:1:",
		"user-namespace = \"maybe\"":                        `user-namespace = "maybe": there are require, force`,
		"image-devices = \"maybe\"":                         `image-devices = "maybe": there are keep, refuse`,
		"landlock = \"on\"":                                 `landlock = "on": there are require, add`,
		"forbid-host-namespaces = [\"net\"]":                `forbid-host-namespaces = "net": there are pid, network`,
		"drop-capabilities = [\"CAP_CHWON\"]":               "did you mean CAP_CHOWN?",
		"seccomp = \"dfault\"":                              `seccomp = "dfault": there are default, strict, compat`,
		"seccomp = \"/no/such\"":                            "no such file",
		"seccomp = \"" + profile + "\"":                     "SCMP_ACT_NOTIFY is not for a floor",
		"[limits]\nmemory = \"lots\"":                       `limits.memory = "lots" is no size`,
		"[limits]\npids = -1":                               "a limit below zero",
		"[isolation]\ndefault = \"kata\"":                   `isolation.default = "kata": there are native, gvisor, vm`,
		"[[isolation.rule]]\nisolation = \"vm\"":            "annotation is missing",

		"[[registry]]\ninsecure = true":                                              "registry: host is missing",
		"[[registry]]\nhost = \"https://registry.example\"":                          "it is a host name",
		"[[registry]]\nhost = \"a.example\"\n[[registry]]\nhost = \"A.example\"":     "there are two sections",
		"[[registry]]\nhost = \"a.example\"\ncert = \"/c\"":                          "cert and key belong together",
		"[[registry]]\nhost = \"a.example\"\nca = \"ca.pem\"":                        `"ca.pem" is no absolute path`,
		"[[registry]]\nhost = \"a.example\"\nmirrors = [\"https://m.example/path\"]": "without a path",
		"[[registry]]\nhost = \"a.example\"\nmirrors = [\"https://u:p@m.example\"]":  "without a path",
		"[[registry]]\nhost = \"a.example\"\nmirrors = [\"ftp://m.example\"]":        "a mirror is a host",
		"[[registry]]\nhost = \"a.example\"\nskip-verify = true":                     "unknown key",
	} {
		if p, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%+v, %v\nwant %s", text, p, err, want)
		}
	}
}

func parse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// bundle is what an engine brings by default.
func bundle() *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_NET_RAW", "CAP_SETUID"}
	one, three := int64(1), int64(3)
	return &specs.Spec{
		Process: &specs.Process{Args: []string{"true"}, Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc"}, {Destination: "/data", Type: "bind", Source: "/srv", Options: []string{"rbind"}}},
		Linux: &specs.Linux{
			MaskedPaths: []string{"/proc/kcore"},
			Namespaces:  []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}},
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: &one, Minor: &three, Access: "rwm"}}},
		},
	}
}

// TestNothingDemanded: without a policy, and by an empty one, no bundle changes.
func TestNothingDemanded(t *testing.T) {
	t.Parallel()
	for _, p := range []*Policy{nil, parse(t, "")} {
		s := bundle()
		if err := p.Tighten(s); err != nil {
			t.Error(err)
		}
		want := bundle()
		s.Annotations = nil
		if !reflect.DeepEqual(s, want) {
			t.Errorf("it became %+v", s)
		}
	}
}

// TestRefusals: what is refused, and by which key.
func TestRefusals(t *testing.T) {
	t.Parallel()
	allCaps := []string{"CAP_SYS_ADMIN", "CAP_CHOWN"}
	for _, c := range []struct {
		text, key, words string
		change           func(*specs.Spec)
	}{
		{"forbid-privileged = true", "forbid-privileged", "CAP_SYS_ADMIN without a user namespace", func(s *specs.Spec) { s.Process.Capabilities.Bounding = allCaps }},
		{"forbid-privileged = true", "forbid-privileged", "CAP_SYS_ADMIN without a user namespace", func(s *specs.Spec) { // beside a name of a later kernel's
			s.Process.Capabilities.Bounding = append([]string{"CAP_OF_TOMORROW"}, allCaps...)
		}},
		{"forbid-privileged = true", "forbid-privileged", "nothing of /other is masked", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/other", Type: "proc"})
		}},
		{"forbid-privileged = true", "forbid-privileged", "no mount namespace", func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/proc/self/ns/mnt" }},
		{`forbid-host-namespaces = ["network"]`, "forbid-host-namespaces", "the host's network namespace", func(s *specs.Spec) {
			s.Linux.Namespaces[2].Path = "/proc/self/ns/net"
		}},
		{`user-namespace = "require"`, "user-namespace", "maps the host's root", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 1, HostID: 100_000, Size: 10}, {ContainerID: 0, HostID: 0, Size: 1}}
		}},
		{"forbid-privileged = true", "forbid-privileged", "every device", func(s *specs.Spec) {
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})
		}},
		{"forbid-privileged = true", "forbid-privileged", "nothing of /proc is masked", func(s *specs.Spec) { s.Linux.MaskedPaths = nil }},
		{"forbid-privileged = true", "forbid-privileged", "no mount namespace", func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:1] }},
		{`forbid-host-namespaces = ["pid", "cgroup"]`, "forbid-host-namespaces", "the host's cgroup namespace", func(*specs.Spec) {}},
		{`user-namespace = "require"`, "user-namespace", "no user namespace", func(*specs.Spec) {}},
		{`user-namespace = "force"`, "user-namespace", "joins the network namespace /run/netns/pod", func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/run/netns/pod" }},
		{`landlock = "require"`, "landlock", "run.brig.landlock=on", func(*specs.Spec) {}},
	} {
		s := bundle()
		c.change(s)
		err := parse(t, c.text).Tighten(s)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Key != c.key || !strings.Contains(refused.Reason, c.words) {
			t.Errorf("%s: %v, want %s: … %s", c.text, err, c.key, c.words)
		}
		if err := parse(t, c.text).Tighten(allowed(c.text)); err != nil {
			t.Errorf("%s: a bundle that is as demanded: %v", c.text, err)
		}
	}
}

// allowed is a bundle that meets every demand.
func allowed(string) *specs.Spec {
	s := bundle()
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"}, specs.LinuxNamespace{Type: "cgroup"})
	s.Annotations = map[string]string{annotation.Landlock: "on"}
	s.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"} // root of its own user namespace only
	return s
}

// TestTightened: what changes, and that nothing else does.
func TestTightened(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text   string
		change func(*specs.Spec)
	}{
		{"no-new-privileges = true", func(s *specs.Spec) { s.Process.NoNewPrivileges = true }},
		{`drop-capabilities = ["net_raw", "CAP_SETUID"]`, func(s *specs.Spec) {
			only := []string{"CAP_CHOWN"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: only, Effective: only, Permitted: only, Inheritable: []string{}, Ambient: []string{}}
		}},
		{`drop-capabilities = ["ALL"]`, func(s *specs.Spec) {
			none := []string{}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: none, Effective: none, Permitted: none, Inheritable: none, Ambient: none}
		}},
		{`landlock = "add"`, func(s *specs.Spec) {
			s.Process.NoNewPrivileges = true
			s.Annotations = map[string]string{annotation.Landlock: "on", annotation.LandlockBind: "*", annotation.LandlockConnect: "*"}
		}},
		{`landlock = "require"`, func(s *specs.Spec) {
			s.Process.NoNewPrivileges = true
			s.Annotations = map[string]string{annotation.Landlock: "on", annotation.AllowMissing: "apparmor"}
		}},
		{`seccomp = "strict"`, func(s *specs.Spec) { s.Annotations = map[string]string{annotation.SeccompFloor: "strict"} }},
		{`user-namespace = "force"`, func(s *specs.Spec) {
			s.Annotations = map[string]string{annotation.IDs: "auto", annotation.RootIDMap: "true"}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
			s.Mounts[1].Options = []string{"rbind", "idmap"}
		}},
		{"[limits]\nmemory = \"1m\"\npids = 5\ncpus = 0.5", func(s *specs.Spec) {
			memory, pids, quota, period := int64(1<<20), int64(5), int64(50_000), uint64(100_000)
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
			s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
			s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
		}},
	} {
		s, want := bundle(), bundle()
		if strings.Contains(c.text, "require") {
			s.Annotations = map[string]string{annotation.Landlock: "on", annotation.AllowMissing: "landlock,apparmor"}
		}
		if err := parse(t, c.text).Tighten(s); err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		c.change(want)
		if len(s.Annotations) == 0 {
			s.Annotations = nil
		}
		if !reflect.DeepEqual(s, want) {
			got, _ := json.Marshal(s)
			wanted, _ := json.Marshal(want)
			t.Errorf("%s:\n%s\nwant\n%s", c.text, got, wanted)
		}
	}
}

// TestLimitsOnlyFall: a limit below the policy's stays, one above falls, and "no limit" is above.
func TestLimitsOnlyFall(t *testing.T) {
	t.Parallel()
	p := parse(t, "[limits]\nmemory = \"100\"\npids = 10\ncpus = 2")
	for _, c := range []struct{ limit, swap, pids, quota, wantLimit, wantSwap, wantPids, wantQuota int64 }{
		{50, 60, 5, 1000, 50, 60, 5, 1000},
		{500, 600, 50, 900_000, 100, 200, 10, 200_000},
		{-1, -1, -1, -1, 100, 100, 10, 200_000},
		{500, -1, 0, 0, 100, 100, 10, 200_000},
	} {
		r := &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &c.limit, Swap: &c.swap}, Pids: &specs.LinuxPids{Limit: &c.pids}, CPU: &specs.LinuxCPU{Quota: &c.quota},
		}
		p.TightenResources(r, true)
		if *r.Memory.Limit != c.wantLimit || *r.Memory.Swap != c.wantSwap || *r.Pids.Limit != c.wantPids || *r.CPU.Quota != c.wantQuota {
			t.Errorf("%+v: memory %d, swap %d, pids %d, quota %d", c, *r.Memory.Limit, *r.Memory.Swap, *r.Pids.Limit, *r.CPU.Quota)
		}
	}
	r := &specs.LinuxResources{}
	if p.TightenResources(r, false); !reflect.DeepEqual(r, &specs.LinuxResources{}) {
		t.Errorf("an update of nothing sets %+v", r)
	}
}

// TestRawLimits: nor does a raw file of version 2 get around a limit.
func TestRawLimits(t *testing.T) {
	t.Parallel()
	p := parse(t, "[limits]\nmemory = \"64m\"\npids = 10\ncpus = 2")
	for _, c := range []struct{ file, value, want string }{
		{"memory.max", "max", "67108864"}, {"memory.max", "1G", "67108864"}, {"memory.max", "0x7fffffffffff", "67108864"}, {"memory.max", "32M", "32M"},
		{"memory.max", "16777216P", "67108864"}, {"memory.max", "1000\n", "1000\n"}, {"pids.max", "max", "10"}, {"pids.max", "9", "9"},
		{"cpu.max", "max", "200000 100000"}, {"cpu.max", "max 1000", "2000 1000"}, {"cpu.max", "5000 10000", "5000 10000"}, {"cpu.max", "900000", "200000 100000"},
		{"memory.high", "max", "max"},
	} {
		own := map[string]string{c.file: c.value}
		r := &specs.LinuxResources{Unified: own}
		p.TightenResources(r, false)
		if got := r.Unified[c.file]; got != c.want || own[c.file] != c.value {
			t.Errorf("%s %q becomes %q, want %q", c.file, c.value, got, c.want)
		}
	}
}

// TestLaterDemands: what is executed in a container or mounted there later meets the same demands.
func TestLaterDemands(t *testing.T) {
	t.Parallel()
	p := parse(t, "forbid-privileged = true\nno-new-privileges = true")
	s := bundle()
	if err := p.TightenExec(s); err != nil || !s.Process.NoNewPrivileges {
		t.Errorf("a process that is allowed: %v, %+v", err, s.Process)
	}
	s.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"}
	if err := p.TightenExec(s); err == nil {
		t.Error("exec has CAP_SYS_ADMIN without a user namespace")
	}
	if err := (*Policy)(nil).TightenExec(s); err != nil {
		t.Errorf("nobody forbids it: %v", err)
	}
	added := []specs.Mount{{Destination: "/data", Type: "tmpfs"}}
	if err := p.CheckMounts(added); err != nil {
		t.Errorf("a tmpfs: %v", err)
	}
	if err := p.CheckMounts(append(added, specs.Mount{Destination: "/other", Type: "proc"})); err == nil {
		t.Error("a procfs without masks is added")
	}
}

// TestIsolation: the strongest of all that ask wins.
func TestIsolation(t *testing.T) {
	t.Parallel()
	text := "[isolation]\ndefault = \"native\"\n[[isolation.rule]]\nannotation = \"org.example/trust\"\nvalue = \"none\"\nisolation = \"vm\"\n"
	for _, c := range []struct {
		text, program string
		annotations   map[string]string
		want          string
	}{
		{"", "/usr/bin/brig-oci", nil, "native"},
		{"", "/usr/bin/brig-gvisor-handler", nil, "gvisor"},
		{"", "brig-vm-handler", map[string]string{annotation.Isolation: "native"}, "vm"},
		{"", "brig-oci", map[string]string{annotation.Isolation: "gvisor"}, "gvisor"},
		{text, "brig-gvisor-handler", map[string]string{"org.example/trust": "none"}, "vm"},
		{text, "brig-gvisor-handler", map[string]string{"org.example/trust": "some"}, "gvisor"},
		{"[isolation]\ndefault = \"gvisor\"", "brig-oci", map[string]string{annotation.Isolation: "native"}, "gvisor"},
	} {
		got, err := parse(t, c.text).ChooseIsolation(c.program, c.annotations)
		if err != nil || got != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
	if _, err := (*Policy)(nil).ChooseIsolation("brig-oci", map[string]string{annotation.Isolation: "none"}); err == nil {
		t.Error("an unknown isolation is taken")
	}
}

// TestRegistries: sections of registries are read, and change no bundle.
func TestRegistries(t *testing.T) {
	t.Parallel()
	p := parse(t, "[[registry]]\nhost = \"a.example:5000\"\nmirrors = [\"m.example\", \"https://n.example:1/\", \"http://127.0.0.1:5000\"]\nca = \"/ca\"\ncert = \"/c\"\nkey = \"/k\"\n"+
		"[[registry]]\nhost = \"b.example\"\ninsecure = true\n")
	if len(p.Registries) != 2 || len(p.Registries[0].Mirrors) != 3 || p.Registries[0].Key != "/k" || !p.Registries[1].Insecure {
		t.Errorf("%+v", p.Registries)
	}
	s := bundle()
	if err := p.Tighten(s); err != nil {
		t.Error(err)
	}
	s.Annotations = nil
	if want := bundle(); !reflect.DeepEqual(s, want) {
		t.Errorf("%+v", s)
	}
}
