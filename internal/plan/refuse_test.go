package plan

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"brig/internal/annotation"
	"brig/internal/caps"
	"brig/internal/mac"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// bundle is a small spec that compiles; change makes it one that does not.
func bundle(change func(*specs.Spec)) *specs.Spec {
	s := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/", NoNewPrivileges: true},
		Root:    &specs.Root{Path: "/srv/bundle/rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.UserNamespace}, {Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
		}},
		Annotations: map[string]string{},
	}
	if change != nil {
		change(s)
	}
	return s
}

func without(s *specs.Spec, kind specs.LinuxNamespaceType) {
	for i, n := range s.Linux.Namespaces {
		if n.Type == kind {
			s.Linux.Namespaces = append(s.Linux.Namespaces[:i], s.Linux.Namespaces[i+1:]...)
			return
		}
	}
}

func addMount(m specs.Mount) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) }
}

func scheduled(sched specs.Scheduler) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Process.Scheduler = &sched }
}

func devices(host, inside string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{host: {Name: inside}} }
}

func offsets(clock string, o specs.LinuxTimeOffset) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{clock: o}
	}
}

// TestHostMountsRefusals: an engine's bundle may go without a mount namespace, not without what comes with one.
func TestHostMountsRefusals(t *testing.T) {
	t.Parallel()
	for reason, change := range map[string]func(*specs.Spec, *Facts){
		"a user namespace needs a mount namespace": func(*specs.Spec, *Facts) {},
		"needs root": func(s *specs.Spec, f *Facts) { without(s, specs.UserNamespace); f.Privileged = false },
		"unable to restrict sys entries without a private MNT namespace": func(s *specs.Spec, _ *Facts) {
			without(s, specs.UserNamespace)
			s.Linux.ReadonlyPaths = []string{"/proc/sys"}
		},
	} {
		facts := testFacts()
		facts.Supervised = false
		spec := bundle(func(s *specs.Spec) { without(s, specs.MountNamespace); change(s, facts) })
		var u *UnsupportedError
		if _, err := Compile(spec, facts); !errors.As(err, &u) || u.Field != "linux.namespaces" || !strings.Contains(u.Reason, reason) {
			t.Errorf("%v, want %s", err, reason)
		}
	}
}

// TestExecAffinityRefusals: the field is about further processes alone.
func TestExecAffinityRefusals(t *testing.T) {
	t.Parallel()
	for _, list := range []string{"a", "1-", "-1", "3-1", "1024", "0,,1", "99999", "0-1-2"} {
		for _, affinity := range []specs.CPUAffinity{{Initial: list}, {Final: list}} {
			spec := bundle(func(s *specs.Spec) { s.Process.ExecCPUAffinity = &affinity })
			_, err := CompileExec(spec, testFacts())
			var u *UnsupportedError
			if !errors.As(err, &u) || u.Field != "process.execCPUAffinity" || !strings.Contains(u.Reason, list) {
				t.Errorf("%+v: %v", affinity, err)
			}
			if _, err := Compile(spec, testFacts()); err != nil {
				t.Errorf("the first process: %v", err)
			}
		}
	}
}

// TestRefusals: what a spec asks for and Brig does not do is refused, by the name of the field, before anything starts.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		field, reason string
		change        func(*specs.Spec)
	}{
		{"linux", "is missing", func(s *specs.Spec) { s.Linux = nil }},
		{"process", "is missing", func(s *specs.Spec) { s.Process = nil }},
		{"process.args", "is empty", func(s *specs.Spec) { s.Process.Args = nil }},
		{"process.args", "is empty", func(s *specs.Spec) { s.Process.Args = []string{""} }},
		{"process", "NUL byte", func(s *specs.Spec) { s.Process.Args = []string{"/bin/true", "a\x00b"} }},
		{"process", "NUL byte", func(s *specs.Spec) { s.Process.Env = []string{"A=\x00"} }},
		{"process.cwd", "absolute path", func(s *specs.Spec) { s.Process.Cwd = "work" }},
		{"process.cwd", `without ".."`, func(s *specs.Spec) { s.Process.Cwd = "/a/../../b" }},
		{"process.rlimits", `unknown limit "RLIMIT_FUN"`, func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FUN"}} }},
		{"process.rlimits", "above the hard one", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}} }},
		{"root.path", "is missing", func(s *specs.Spec) { s.Root = nil }},
		{"root.path", "is missing", func(s *specs.Spec) { s.Root.Path = "" }},

		{"hooks", "are for engines; run them before and after", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/x"}}} }},
		{"windows", otherSystem, func(s *specs.Spec) { s.Windows = &specs.Windows{} }},
		{"solaris", otherSystem, func(s *specs.Spec) { s.Solaris = &specs.Solaris{} }},
		{"zos", otherSystem, func(s *specs.Spec) { s.ZOS = &specs.ZOS{} }},
		{"freebsd", otherSystem, func(s *specs.Spec) { s.FreeBSD = &specs.FreeBSD{} }},
		{"vm", "virtual machines", func(s *specs.Spec) { s.VM = &specs.VM{} }},
		{"process.commandLine", otherSystem, func(s *specs.Spec) { s.Process.CommandLine = "cmd" }},
		{"process.user.username", otherSystem, func(s *specs.Spec) { s.Process.User.Username = "app" }},
		{"process.scheduler", "policy is required", scheduled(specs.Scheduler{})},
		{"process.scheduler", "invalid scheduler policy: SCHED_FAIR", scheduled(specs.Scheduler{Policy: "SCHED_FAIR"})},
		{"process.scheduler", "invalid scheduler.nice: 20", scheduled(specs.Scheduler{Policy: specs.SchedOther, Nice: 20})},
		{"process.scheduler", "priority can only", scheduled(specs.Scheduler{Policy: specs.SchedBatch, Priority: 1})},
		{"process.scheduler", "invalid scheduler.priority", scheduled(specs.Scheduler{Policy: specs.SchedFIFO, Priority: -1})},
		{"process.scheduler", "runtime/deadline/period can only", scheduled(specs.Scheduler{Policy: specs.SchedRR, Priority: 1, Runtime: 1})},
		{"process.scheduler", "sched_setattr: `SCHED_DEADLINE` requires `runtime`", scheduled(specs.Scheduler{Policy: specs.SchedDeadline, Deadline: 1 << 20})},
		{"process.scheduler", "sched_setattr: `SCHED_DEADLINE` runtime must be greater than 0", scheduled(specs.Scheduler{Policy: specs.SchedDeadline, Deadline: 1 << 20})},
		{"process.scheduler", "sched_setattr: `SCHED_DEADLINE` requires `deadline`", scheduled(specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1 << 20})},
		{"process.scheduler", "runtime 1023 must be between 1024 and", scheduled(specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1023, Deadline: 1 << 20})},
		{"process.scheduler", "runtime 9223372036854775808 must be between", scheduled(specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1 << 63, Deadline: 1<<63 + 1})},
		{"process.scheduler", "runtime 2048 must be <= deadline 1024", scheduled(specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 2048, Deadline: 1024})},
		{"process.scheduler", "deadline 2048 must be <= period 1024", scheduled(specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1024, Deadline: 2048, Period: 1024})},
		{"process.scheduler", "SCHED_FLAG_UTIL_CLAMP_MIN", scheduled(specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagUtilClampMin}})},
		{"process.ioPriority", "invalid ioPriority.Class", func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} }},
		{"process.ioPriority", "invalid ioPriority.Priority: 8", func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		}},
		{"annotation run.oci.mount_context_type", `"other" is none of context, fscontext`, func(s *specs.Spec) {
			s.Linux.MountLabel, s.Annotations[annotation.MountContext] = "u:r:t:s0", "other"
		}},
		{"linux.seccomp", "no system call of any architecture is frobnicate", func(s *specs.Spec) {
			s.Annotations[annotation.FailUnknownCalls] = "1"
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"frobnicate"}, Action: specs.ActErrno}}}
		}},
		{"linux.mountLabel", "SELinux label", func(s *specs.Spec) { s.Linux.MountLabel = "label\n" }},
		{"linux.netDevices", "without a NET namespace", func(s *specs.Spec) {
			without(s, specs.NetworkNamespace)
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {}}
		}},
		{"linux.netDevices", `invalid network device name "a/b"`, devices("a/b", "")},
		{"linux.netDevices", `invalid network device name ""`, devices("", "")},
		{"linux.netDevices", "longer than 15 bytes", devices("eth1", "sixteen-bytes-lo")},
		{"linux.netDevices", `invalid network device name ".."`, devices("eth1", "..")},
		{"linux.netDevices", `invalid network device name "a b"`, devices("eth1", "a b")},
		{"linux.netDevices", "eth1 and eth2 would both be named net", func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {Name: "net"}, "eth2": {Name: "net"}}
		}},
		{"linux.intelRdt", "is for engines", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }},
		{"linux.memoryPolicy", `invalid memory policy mode ""`, func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} }},
		{"linux.memoryPolicy", `invalid memory policy flag "MPOL_F_NO"`, func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolLocal, Flags: []specs.MemoryPolicyFlagType{"MPOL_F_NO"}}
		}},
		{"linux.memoryPolicy", `invalid memory policy node list "0,x"`, func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0,x"}
		}},
		{"linux.timeOffsets", "time namespace isn't enabled", func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} }},
		{"linux.timeOffsets", "joined by path are fixed", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: "/proc/1/ns/time"})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}}
		}},
		{"linux.timeOffsets", `"realtime" is no clock`, offsets("realtime", specs.LinuxTimeOffset{Secs: 1})},
		{"linux.timeOffsets", "is a second or more", offsets("monotonic", specs.LinuxTimeOffset{Nanosecs: 1e9})},
		{"linux.personality", `unknown domain "SUNOS"`, func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "SUNOS"} }},
		{"linux.personality.flags", "unknown flag", func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"READ_IMPLIES_EXEC"}}
		}},
		{"linux.rootfsPropagation", `unknown value "sharde"`, func(s *specs.Spec) { s.Linux.RootfsPropagation = "sharde" }},
		{"linux.seccomp", "SCMP_ACT_NOTIFY cannot be used for the write syscall", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/x", Syscalls: []specs.LinuxSyscall{{Names: []string{"mount", "write"}, Action: specs.ActNotify}}}
		}},

		{"linux.namespaces", "a mount namespace is needed", func(s *specs.Spec) { without(s, specs.MountNamespace) }}, // of a person's sandbox
		{"linux.namespaces", "the pid namespace is there twice", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
		}},
		{"linux.namespaces", `unknown type "pidd"`, func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "pidd"})
		}},
		{"hostname", "rename the host", func(s *specs.Spec) { without(s, specs.UTSNamespace); s.Hostname = "box" }},
		{"hostname", "has a NUL byte", func(s *specs.Spec) { s.Hostname = "a\x00b" }},
		{"root.path", "has a NUL byte", func(s *specs.Spec) { s.Root.Path += "\x00b" }},
		{"mounts.type", "has a NUL byte", addMount(specs.Mount{Destination: "/data", Type: "tmpfs\x00"})},
		{"mounts.source", "has a NUL byte", addMount(specs.Mount{Destination: "/data", Type: "tmpfs", Source: "a\x00b"})},
		{"hostname", "rename the host", func(s *specs.Spec) { without(s, specs.UTSNamespace); s.Domainname = "box" }},

		{"linux.sysctl", "would change the host", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/bin/x"} }},
		{"linux.sysctl", "would change the host", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"vm.overcommit_memory": "1"} }},
		{"linux.sysctl", "contains an invalid path", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/../kernel/core_pattern": "x"} }},
		{"linux.sysctl", "contains an invalid path", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net..ipv4": "x"} }},
		{"linux.sysctl", "contains an invalid path", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"/net/ipv4/ip_forward": "1"} }},
		{"linux.sysctl", "needs a network namespace", func(s *specs.Spec) {
			without(s, specs.NetworkNamespace)
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		}},
		{"linux.sysctl", "needs a ipc namespace", func(s *specs.Spec) {
			without(s, specs.IPCNamespace)
			s.Linux.Sysctl = map[string]string{"kernel.shmmax": "1"}
		}},
		{"linux.sysctl", "needs a network namespace", func(s *specs.Spec) { // the host's is not its own
			s.Linux.Namespaces[3].Path, s.Linux.Sysctl = "/proc/1/ns/network", map[string]string{"net.ipv4.ip_forward": "1"}
		}},
		{"hostname", "would rename the host", func(s *specs.Spec) { s.Hostname, s.Linux.Namespaces[5].Path = "x", "/proc/1/ns/uts" }},
		{"linux.sysctl", "has a field of its own: hostname", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.hostname": "x"} }},
		{"linux.sysctl", "needs a uts namespace", func(s *specs.Spec) {
			without(s, specs.UTSNamespace)
			s.Linux.Sysctl = map[string]string{"kernel.domainname": "x"}
		}},
		{"linux.sysctl", "contradicts the field domainname", func(s *specs.Spec) {
			s.Domainname = "y"
			s.Linux.Sysctl = map[string]string{"kernel.domainname": "x"}
		}},

		{"linux.maskedPaths", "absolute path", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"proc/kcore"} }},
		{"linux.maskedPaths", `without ".."`, func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/proc/../etc"} }},
		{"linux.readonlyPaths", "NUL", func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/proc/sys\x00"} }},
		{"linux.devices", "absolute path", func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "dev/fuse", Type: "c"}} }},
		{"linux.devices", "must be the device c 1:3", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 5}}
		}},
		{"linux.devices", `unknown type "x"`, func(s *specs.Spec) {
			without(s, specs.UserNamespace)
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "x"}}
		}},
		{"linux.devices", "would be made in /srv/data of the host", func(s *specs.Spec) {
			without(s, specs.UserNamespace)
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/data/fuse", Type: "c"}}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "/srv/data"})
		}},

		{"mounts.destination", "absolute path", addMount(specs.Mount{Destination: "data", Type: "tmpfs"})},
		{"mounts.destination", `without ".."`, addMount(specs.Mount{Destination: "/a/../b", Type: "tmpfs"})},
		{"mounts /data", "the source \"data\" must be absolute", addMount(specs.Mount{Destination: "/data", Type: "bind", Source: "data"})},
		{"mounts /data", "the source /no/such does not exist", addMount(specs.Mount{Destination: "/data", Source: "/no/such", Options: []string{"rbind"}})},
		{"mounts /data", "NUL byte", addMount(specs.Mount{Destination: "/data", Source: "/srv/data", Options: []string{"bind", "a\x00"}})},
		{"mounts /data", `unknown option "nosuidd"`, addMount(specs.Mount{Destination: "/data", Source: "/srv/data", Options: []string{"rbind", "nosuidd"}})},
		{"mounts /data", "tmpcopyup is for a tmpfs", addMount(specs.Mount{Destination: "/data", Source: "/srv/data", Options: []string{"bind", "tmpcopyup"}})},
		{"mounts /etc/hosts", "tmpcopyup is for a directory", addMount(specs.Mount{Destination: "/etc/hosts", Type: "tmpfs", Options: []string{"tmpcopyup"}})},
		{"mounts /etc", "tmpcopyup takes no uid=", addMount(specs.Mount{Destination: "/etc", Type: "tmpfs", Options: []string{"tmpcopyup", "uid=3"}})},
		{"mounts", "/etc/localtime is a symlink", addMount(specs.Mount{Destination: "/etc/localtime", Source: "/srv/data", Options: []string{"bind", "dest-nofollow"}})},
		{"mounts /data", "idmap needs uidMappings", func(s *specs.Spec) {
			without(s, specs.UserNamespace)
			addMount(specs.Mount{Destination: "/data", Source: "/srv/data", Options: []string{"bind", "idmap"}})(s)
		}},
		{"mounts /data", "uids: @0-70000-1 lies in no range", addMount(specs.Mount{Destination: "/data", Source: "/srv/data", Options: []string{"bind", "idmap=uids=@0-70000-1;gids=0-0-1"}})},
		{"mounts /data", "uids and gids belong together", addMount(specs.Mount{Destination: "/data", Source: "/srv/data", Options: []string{"bind", "ridmap=uids=0-0-1"}})},
		{"mounts /data", `"0-0" is not of the form`, addMount(specs.Mount{Destination: "/data", Source: "/srv/data", Options: []string{"bind", "idmap=uids=0-0;gids=0-0-1"}})},
		{"mounts /data", "neither uids= nor gids=", addMount(specs.Mount{Destination: "/data", Source: "/srv/data", Options: []string{"bind", "idmap=pids=0-0-1"}})},
		{"mounts /data", "only bind mounts can be idmapped", addMount(specs.Mount{Destination: "/data", Type: "tmpfs", Options: []string{"idmap"}})},
		{"mounts /data", "belong together", addMount(specs.Mount{Destination: "/data", Type: "bind", Source: "/srv/data", UIDMappings: []specs.LinuxIDMapping{{Size: 1}}})},
		{"mounts /etc", "something else than a link is there", addMount(specs.Mount{Destination: "/etc", Type: "bind", Source: "/bin", Options: []string{"copy-symlink"}})},
		{"mounts", "/etc/hosts is a file in the root file system", addMount(specs.Mount{Destination: "/etc/hosts", Type: "tmpfs"})},
		{"mounts", "/etc is a directory in the root file system", addMount(specs.Mount{Destination: "/etc", Type: "bind", Source: "/run/pod/hosts"})},
		{"mounts", "/dev is a directory in the root file system", addMount(specs.Mount{Destination: "/dev", Type: "bind", Source: "/run/pod/hosts"})},

		{annotation.Landlock, `unknown value "yes"`, annotate(annotation.Landlock, "yes")},
		{annotation.Landlock, "needs process.noNewPrivileges", func(s *specs.Spec) { s.Process.NoNewPrivileges = false; s.Annotations[annotation.Landlock] = "on" }},
		{annotation.LandlockBind, `"http" is no port`, annotate(annotation.Landlock, "on", annotation.LandlockBind, "80,http")},
		{annotation.LandlockConnect, `"65536" is no port`, annotate(annotation.Landlock, "on", annotation.LandlockConnect, "65536")},
		{annotation.Files, "needs run.brig.root=ram", annotate(annotation.Files, "{}")},
		{annotation.Files, "is not a JSON object", annotate(annotation.Root, "ram", annotation.Files, "[]")},
		{annotation.Files, "absolute path", annotate(annotation.Root, "ram", annotation.Files, `{"etc/passwd":""}`)},
	} {
		t.Run(c.field+" "+c.reason, func(t *testing.T) {
			t.Parallel()
			_, err := Compile(bundle(c.change), testFacts())
			var u *UnsupportedError
			if !errors.As(err, &u) || u.Field != c.field || !strings.Contains(u.Reason, c.reason) || !strings.HasPrefix(err.Error(), "config.json: "+c.field+": ") {
				t.Errorf("%v, want %s: … %s", err, c.field, c.reason)
			}
		})
	}
	facts := testFacts()
	facts.Privileged = false
	_, err := Compile(bundle(func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/no", Type: "c"}} }), facts)
	if err == nil || !strings.Contains(err.Error(), "/dev/no does not exist on the host") {
		t.Errorf("a device that an unprivileged user cannot make: %v", err)
	}
	if _, err := Compile(bundle(nil), testFacts()); err != nil {
		t.Errorf("the spec that all of these are made of: %v", err)
	}
}

// TestOtherErrors are refused by the packages that know the words.
func TestOtherErrors(t *testing.T) {
	t.Parallel()
	_, err := Compile(bundle(func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{Permitted: []string{"CAP_CHWON"}}
	}), testFacts())
	var unknown *caps.UnknownError
	if !errors.As(err, &unknown) || !strings.HasPrefix(err.Error(), "config.json: process.capabilities.permitted: ") {
		t.Error(err)
	}
	_, err = Compile(bundle(func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "ALLOW"} }), testFacts())
	if err == nil || !strings.HasPrefix(err.Error(), "config.json: linux.seccomp: ") {
		t.Error(err)
	}
	_, err = Compile(bundle(func(s *specs.Spec) { s.Process.ApparmorProfile = "&stack" }), testFacts())
	var name *mac.NameError
	if !errors.As(err, &name) {
		t.Error(err)
	}
	facts := testFacts()
	facts.Privileged = false
	_, err = Compile(bundle(devices("eth1", "")), facts)
	if err == nil || !strings.Contains(err.Error(), "not supported for rootless containers") {
		t.Error(err)
	}
	_, err = Compile(bundle(addMount(specs.Mount{Destination: "/data", Type: "bind", Source: "/srv/data", Options: []string{"idmap"}})), facts)
	if err == nil || !strings.Contains(err.Error(), "idmapped mounts need root") {
		t.Error(err)
	}
}

// TestMissingLayers: a layer that is asked for and cannot be given is an error that names it and the way to accept that;
// accepted, it stands in the plan.
func TestMissingLayers(t *testing.T) {
	t.Parallel()
	landlocked := annotate(annotation.Landlock, "on", annotation.LandlockBind, "80", annotation.LandlockConnect, "*")
	strict := annotate(annotation.Landlock, "strict")
	volume := specs.Mount{Destination: "/data", Type: "bind", Source: "/srv/data", Options: []string{"rbind", "ro"}} // which leaves the mounts below it
	for _, c := range []struct {
		layer  string
		change func(*specs.Spec)
		facts  func(*Facts)
	}{
		{"landlock", landlocked, func(f *Facts) { f.LandlockABI = 0 }},
		{"landlock-tcp", func(s *specs.Spec) { landlocked(s); without(s, specs.NetworkNamespace) }, func(f *Facts) { f.LandlockABI = 3 }},
		{"landlock-scope", func(s *specs.Spec) { landlocked(s); without(s, specs.PIDNamespace) }, func(f *Facts) { f.LandlockABI = 5 }},
		{"landlock-truncate", strict, func(f *Facts) { f.LandlockABI = 2 }},
		{"landlock-truncate", func(s *specs.Spec) { strict(s); s.Root.Readonly = true; addMount(volume)(s) }, func(f *Facts) { f.LandlockABI = 2 }},
		{"apparmor", func(s *specs.Spec) { s.Process.ApparmorProfile = "brig" }, nil},
		{"selinux", func(s *specs.Spec) { s.Linux.MountLabel = "system_u:object_r:container_file_t:s0:c1,c2" }, nil},
		{"selinux", func(s *specs.Spec) { s.Process.SelinuxLabel = "system_u:system_r:container_t:s0" }, nil},
	} {
		t.Run(c.layer, func(t *testing.T) {
			t.Parallel()
			facts := testFacts()
			if c.facts != nil {
				c.facts(facts)
			}
			also := 0
			accept := func(spec *specs.Spec, allowed string) {
				spec.Annotations[annotation.AllowMissing] = allowed
				if c.layer == "landlock-tcp" { // a kernel without has no scopes, either
					spec.Annotations[annotation.AllowMissing] += ",landlock-scope"
					also = 1
				}
			}
			for _, allowed := range []string{"", "seccomp", "x" + c.layer, c.layer + "x"} {
				spec := bundle(c.change)
				accept(spec, allowed)
				_, err := Compile(spec, facts)
				var m *MissingLayerError
				if !errors.As(err, &m) || m.Layer != c.layer || m.Reason == "" || !strings.HasSuffix(err.Error(), "--allow-missing="+c.layer) {
					t.Errorf("with %q allowed: %v", allowed, err)
				}
			}
			for _, allowed := range []string{c.layer, "seccomp, " + c.layer, c.layer + ",gvisor"} {
				spec := bundle(c.change)
				accept(spec, allowed)
				p, err := Compile(spec, facts)
				if err != nil || len(p.Missing) != 1+also || p.Missing[0].Layer != c.layer || p.Missing[0].Reason == "" {
					t.Fatalf("with %q allowed: %+v, %v", allowed, p, err)
				}
				program := text(t, p)
				if strings.Contains(program, "landlock_restrict_self") != (c.layer != "landlock" && spec.Annotations[annotation.Landlock] != "") {
					t.Error("the program has, or lacks, a ruleset")
				}
			}
		})
	}
	// Where nothing can be written but a tmpfs of the sandbox's own there is nothing to truncate, nor where anything may be written.
	for _, change := range []func(*specs.Spec){
		func(s *specs.Spec) { strict(s); s.Root.Readonly = true },
		func(s *specs.Spec) {
			strict(s)
			s.Root.Readonly = true
			addMount(specs.Mount{Destination: "/data", Type: "bind", Source: "/srv/data", Options: []string{"rbind", "rro"}})(s)
		},
		func(s *specs.Spec) { // as the host's programs are shown where /usr has them all
			strict(s)
			s.Root.Readonly = true
			addMount(specs.Mount{Destination: "/lib64", Type: "bind", Source: "/lib64", Options: []string{"bind", "copy-symlink"}})(s)
		},
		landlocked,
	} {
		facts := testFacts()
		facts.LandlockABI = 2
		if _, err := Compile(bundle(change), facts); err != nil {
			t.Error(err)
		}
	}
	// With a network of its own nobody can be reached, and old rulesets do.
	facts := testFacts()
	facts.LandlockABI = 3
	if p, err := Compile(bundle(landlocked), facts); err != nil || p.LandlockABI != 3 {
		t.Error(err)
	}
}

// honoured are the fields of a spec that a plan turns into instructions, or that another package reads.
var honoured = map[string][]string{
	"Spec": {"Version", "Process", "Root", "Hostname", "Domainname", "Mounts", "Annotations", "Linux"},
	"Process": {"Terminal", "ConsoleSize", "User", "Args", "Env", "Cwd", "Capabilities", "Rlimits", "NoNewPrivileges", "ApparmorProfile", "OOMScoreAdj", "SelinuxLabel",
		"Scheduler", "IOPriority", "ExecCPUAffinity"},
	"User":        {"UID", "GID", "Umask", "AdditionalGids"},
	"Root":        {"Path", "Readonly"},
	"Mount":       {"Destination", "Type", "Source", "Options", "UIDMappings", "GIDMappings"},
	"LinuxDevice": {"Path", "Type", "Major", "Minor", "FileMode", "UID", "GID"},
	"Linux": {"UIDMappings", "GIDMappings", "Sysctl", "Resources", "CgroupsPath", "Namespaces", "Devices", "Seccomp", "RootfsPropagation", "MaskedPaths", "ReadonlyPaths",
		"Personality", "TimeOffsets", "MemoryPolicy", "NetDevices", "MountLabel", "IntelRdt"},
	"LinuxNamespace":    {"Type", "Path"},
	"POSIXRlimit":       {"Type", "Soft", "Hard"},
	"LinuxCapabilities": {"Bounding", "Effective", "Inheritable", "Permitted", "Ambient"},
	"LinuxPersonality":  {"Domain", "Flags"},
	"Scheduler":         {"Policy", "Nice", "Priority", "Flags", "Runtime", "Deadline", "Period"},
	"LinuxIOPriority":   {"Class", "Priority"},
	"CPUAffinity":       {"Initial", "Final"},
	"LinuxMemoryPolicy": {"Mode", "Nodes", "Flags"},
	"LinuxNetDevice":    {"Name"},
	"LinuxTimeOffset":   {"Secs", "Nanosecs"},
	"LinuxSeccomp":      {"DefaultAction", "DefaultErrnoRet", "Architectures", "Flags", "Syscalls", "ListenerPath", "ListenerMetadata"}, // package seccomp; a listener is refused
}

// refused are those that TestRefusals has.
var refused = map[string][]string{
	"Spec":    {"Hooks", "Solaris", "Windows", "VM", "ZOS", "FreeBSD"},
	"Process": {"CommandLine"},
	"User":    {"Username"},
	"Linux":   {},
}

// TestNoFieldIsPassedOver: a field that a newer runtime-spec has, or one that nobody thought of, must be honoured or
// refused; this test fails until somebody decides.
func TestNoFieldIsPassedOver(t *testing.T) {
	t.Parallel()
	for _, typ := range []reflect.Type{
		reflect.TypeFor[specs.Spec](), reflect.TypeFor[specs.Process](), reflect.TypeFor[specs.User](), reflect.TypeFor[specs.Root](), reflect.TypeFor[specs.Mount](),
		reflect.TypeFor[specs.Linux](), reflect.TypeFor[specs.LinuxDevice](), reflect.TypeFor[specs.LinuxNamespace](), reflect.TypeFor[specs.POSIXRlimit](),
		reflect.TypeFor[specs.LinuxCapabilities](), reflect.TypeFor[specs.LinuxPersonality](), reflect.TypeFor[specs.LinuxSeccomp](),
		reflect.TypeFor[specs.Scheduler](), reflect.TypeFor[specs.LinuxIOPriority](), reflect.TypeFor[specs.CPUAffinity](), reflect.TypeFor[specs.LinuxMemoryPolicy](),
		reflect.TypeFor[specs.LinuxTimeOffset](), reflect.TypeFor[specs.LinuxNetDevice](),
	} {
		known := slices.Concat(honoured[typ.Name()], refused[typ.Name()])
		var fields []string
		for i := range typ.NumField() {
			fields = append(fields, typ.Field(i).Name)
		}
		slices.Sort(known)
		slices.Sort(fields)
		if !slices.Equal(known, fields) {
			t.Errorf("%s has the fields\n%q\nhonoured or refused are\n%q", typ.Name(), fields, known)
		}
	}
}

// TestFilterIsThePlans: what the parent reports as the filter is what the program loads.
func TestFilterIsThePlans(t *testing.T) {
	t.Parallel()
	profile, err := seccomp.Profile(seccomp.Default, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(bundle(func(s *specs.Spec) { s.Linux.Seccomp = profile }), testFacts())
	if err != nil {
		t.Fatal(err)
	}
	want, err := seccomp.Compile(profile, seccomp.Options{})
	if err != nil || p.Filter == nil || !reflect.DeepEqual(*p.Filter, want) {
		t.Errorf("filter %v, %v", p.Filter, err)
	}
	if p, err = Compile(bundle(nil), testFacts()); err != nil || p.Filter != nil || strings.Contains(text(t, p), "seccomp(") {
		t.Errorf("a filter without a profile: %v, %v", p.Filter, err)
	}
}

// TestJoinedMountNamespace: root's parent has opened every source before; another user's child would look them up in there.
func TestJoinedMountNamespace(t *testing.T) {
	t.Parallel()
	spec, facts := bundle(func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/proc/1/ns/mnt" }), testFacts()
	if _, err := Compile(spec, facts); err != nil {
		t.Error(err)
	}
	facts.Privileged = false
	var u *UnsupportedError
	if _, err := Compile(spec, facts); !errors.As(err, &u) || u.Field != "linux.namespaces" || !strings.Contains(u.Reason, "needs root") {
		t.Errorf("without root: %v", err)
	}
}

// TestUnixSocketsOfTheHost: where Landlock has no scopes, a filter keeps a program in the host's network from its abstract sockets,
// unless somebody accepts them.
func TestUnixSocketsOfTheHost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		abi     int
		own     bool
		allowed string
		shut    bool
		missing int
	}{{5, false, "", true, 0}, {5, false, "landlock-scope", false, 1}, {5, true, "", false, 0}, {6, false, "", false, 0}} {
		spec := bundle(annotate(annotation.Landlock, "on", annotation.LandlockBind, "*", annotation.LandlockConnect, "*", annotation.AllowMissing, c.allowed))
		if !c.own {
			without(spec, specs.NetworkNamespace)
		}
		for _, compile := range []func(*specs.Spec, *Facts) (*Plan, error){Compile, CompileExec} {
			facts := testFacts()
			facts.LandlockABI = c.abi
			p, err := compile(spec, facts)
			if err != nil {
				t.Fatal(err)
			}
			if p.NoUnixSockets != c.shut || strings.Contains(text(t, p), "seccomp(") != c.shut || len(p.Missing) != c.missing {
				t.Errorf("%+v: shut: %v, missing: %v\n%s", c, p.NoUnixSockets, p.Missing, text(t, p))
			}
		}
	}
}
