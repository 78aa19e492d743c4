package oci

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brig/internal/host"

	"github.com/opencontainers/runtime-spec/specs-go"
)

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
			return fmt.Errorf("File %s exists. Remove it first", name) //nolint:staticcheck // runc's words
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
				{Type: specs.MountNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
				"/proc/sched_debug", "/sys/firmware", "/proc/scsi",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if tree, err := host.Cgroups(); rootless || err == nil && tree.V2() {
		// Without a namespace of theirs an unprivileged user's could not mount cgroups. In version 1 a container sees its group's own path, as runc's do: programs in it look there for its limits.
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if rootless {
		unprivileged(s)
	}
	return s
}

// unprivileged makes it one that a user without rights can run: with a user namespace of the one id that needs no helper. Unlike
// runc's it keeps a network of its own, and with it a fresh /sys.
func unprivileged(s *specs.Spec) {
	euid, egid := uint32(os.Geteuid()), uint32(os.Getegid()) //nolint:gosec // ids
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: euid, Size: 1}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: egid, Size: 1}}
	s.Linux.Resources = nil
	for i := range s.Mounts {
		m := &s.Mounts[i]
		m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "gid=") }) // it is not mapped
	}
}
