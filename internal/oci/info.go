package oci

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"brig/internal/caps"
	"brig/internal/cgroup"
	"brig/internal/mounts"
	"brig/internal/plan"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// features tells engines what is built in (runtime-spec, "features.md").
func (a *app) features(*flag.FlagSet) func([]string) error {
	modes, flags := plan.MemoryPolicies()
	return func([]string) error {
		yes, no := true, false
		var arches []string
		for _, arch := range seccomp.Architectures() {
			arches = append(arches, string(arch))
		}
		f := features.Features{
			OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
			Hooks:        []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
			MountOptions: mounts.Known(),
			Linux: &features.Linux{
				Namespaces:   []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"},
				Capabilities: capabilityNames(),
				Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &yes},
				Seccomp: &features.Seccomp{
					Enabled: &yes, Archs: arches,
					Actions: []string{
						"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY",
						"SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
					},
					Operators: []string{
						"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
					},
					KnownFlags:     []string{"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"},
					SupportedFlags: []string{"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"},
				},
				Apparmor: &features.Apparmor{Enabled: &yes}, Selinux: &features.Selinux{Enabled: &yes},
				MemoryPolicy:    &features.MemoryPolicy{Modes: modes, Flags: flags},
				IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
				NetDevices:      &features.NetDevices{Enabled: &yes},
				MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			},
			Annotations: map[string]string{"run.brig.version": Version},
		}
		return writeJSON(a.out, f)
	}
}

// spec writes a config.json to begin with, as runc's.
func (a *app) spec(f *flag.FlagSet) func([]string) error {
	var bundle string
	var rootless bool
	f.StringVar(&bundle, "bundle", ".", "folder of the bundle")
	f.StringVar(&bundle, "b", ".", "short for --bundle")
	f.BoolVar(&rootless, "rootless", false, "for an unprivileged user")
	return func([]string) error {
		name := filepath.Join(bundle, "config.json")
		if _, err := os.Stat(name); err == nil {
			return fmt.Errorf("file %s exists; remove it first", name)
		}
		text, err := json.MarshalIndent(defaultSpec(rootless), "", "\t")
		if err != nil {
			return err
		}
		return os.WriteFile(name, append(text, '\n'), 0o644) //nolint:gosec // a person's file
	}
}

func defaultSpec(rootless bool) *specs.Spec {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	s := &specs.Spec{
		Version: specs.Version, Hostname: "brig", Root: &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			Terminal: true, Args: []string{"sh"}, Cwd: "/", NoNewPrivileges: true,
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
				"/proc/sched_debug", "/sys/firmware", "/proc/scsi",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if rootless {
		euid, egid := uint32(os.Geteuid()), uint32(os.Getegid()) //nolint:gosec // ids
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: euid, Size: 1}}
		s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: egid, Size: 1}}
		s.Linux.Resources = nil
	}
	return s
}

func (a *app) events(f *flag.FlagSet) func([]string) error {
	var stats bool
	var interval time.Duration
	f.BoolVar(&stats, "stats", false, "print what is used once, and end")
	f.DurationVar(&interval, "interval", 5*time.Second, "how often")
	return func(args []string) error {
		id := args[0]
		c, err := a.open(id)
		if err != nil {
			return err
		}
		g := c.group()
		if g == nil {
			return fmt.Errorf("container %s has no cgroup", id)
		}
		if c.status() == stopped {
			return fmt.Errorf("container with id %s is not running", id)
		}
		for {
			s, err := g.Stats()
			if err != nil {
				return err
			}
			if err := json.NewEncoder(a.out).Encode(event{"stats", id, runcStats(s)}); err != nil {
				return err
			}
			if stats {
				return nil
			}
			time.Sleep(interval)
			if c.status() == stopped {
				return nil
			}
		}
	}
}

// event is one line of `events`, in runc's form.
type event struct {
	Type string         `json:"type"`
	ID   string         `json:"id"`
	Data map[string]any `json:"data,omitempty"`
}

// runcStats says in runc's words what was used; memory in bytes, CPU in nanoseconds.
func runcStats(s *cgroup.Stats) map[string]any {
	memory := map[string]any{"usage": s.Memory.Current, "max": s.Memory.Peak, "failcnt": s.Memory.LimitHits}
	if s.Memory.Limit != nil {
		memory["limit"] = *s.Memory.Limit
	}
	pids := map[string]any{"current": s.Pids.Current}
	if s.Pids.Limit != nil {
		pids["limit"] = *s.Pids.Limit
	}
	return map[string]any{
		"cpu": map[string]any{
			"usage":      map[string]any{"total": s.CPU.UsageUsec * 1000, "user": s.CPU.UserUsec * 1000, "kernel": s.CPU.SystemUsec * 1000},
			"throttling": map[string]any{"periods": s.CPU.Periods, "throttledPeriods": s.CPU.ThrottledPeriods, "throttledTime": s.CPU.ThrottledUsec * 1000},
		},
		"memory": map[string]any{"usage": memory},
		"pids":   pids,
	}
}

func capabilityNames() []string {
	var list []string
	for c := caps.Cap(0); c <= caps.Max; c++ {
		list = append(list, c.String())
	}
	return list
}
