package gvisor

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// UnsupportedError is a demand of a policy's that gVisor's kernel cannot meet.
type UnsupportedError struct {
	// Key is where a policy says it, or the field of a bundle.
	Key, Reason string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: isolation gvisor cannot do it: %s", e.Key, e.Reason)
}

// checkLimits refuses to start a kernel below limits of this process's that it would end by.
func checkLimits() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &l); err != nil {
		return fmt.Errorf("getrlimit: %w", err)
	}
	if l.Cur != unix.RLIM_INFINITY {
		return fmt.Errorf("isolation gvisor: brig may write files of %d bytes at most (ulimit -f), and the memory of the guest is a file of its kernel's: give it no such limit", l.Cur)
	}
	return nil
}

// Check refuses what gVisor's kernel would pass over in silence.
func Check(spec *specs.Spec) error {
	a, linux := spec.Annotations, spec.Linux
	if _, _, err := plan.Guest(spec.Process); err != nil {
		return err
	}
	switch {
	case a[annotation.Init] == "true":
		return &UnsupportedError{"init", "Brig's init is a process of the host's kernel; the guest's first process is the program"}
	case a[annotation.NoNewPrograms] == "true":
		return &UnsupportedError{"noNewPrograms", "the one execve is the guest kernel's, and Brig cannot ask after it there"}
	case a[annotation.LandlockBind] != "*" && a[annotation.Landlock] != "" || a[annotation.LandlockConnect] != "*" && a[annotation.Landlock] != "":
		return &UnsupportedError{"landlock", "the guest's sockets are its own kernel's, and Landlock cannot tell their ports"}
	case a[annotation.KeepGroups] != "":
		return &UnsupportedError{"annotation " + annotation.KeepGroups, "the caller's groups are the host kernel's"}
	case linux.Personality != nil:
		return &UnsupportedError{"linux.personality", "the guest's kernel has one only"}
	case len(linux.NetDevices) > 0:
		return &UnsupportedError{"linux.netDevices", "the guest's network stack is its kernel's own"}
	case len(linux.TimeOffsets) > 0:
		return &UnsupportedError{"time offsets", "the guest's clocks are those of its kernel"}
	case linux.Seccomp != nil && asks(linux.Seccomp):
		return &UnsupportedError{"seccomp", "no agent can be asked (SCMP_ACT_NOTIFY): the calls are the guest's, not the host's"}
	}
	if err := errors.Join(checkUser(spec), checkSysctls(linux.Sysctl), checkDevices(linux.Devices), checkMounts(spec)); err != nil {
		return err
	}
	for i := range spec.Mounts {
		for option, reason := range linkOptions {
			if slices.Contains(spec.Mounts[i].Options, option) {
				return &UnsupportedError{fmt.Sprintf("mounts[%d]", i), option + ": " + reason}
			}
		}
	}
	if _, own := plan.Namespace(spec, specs.NetworkNamespace); !own {
		return &UnsupportedError{"network", "host: the guest would have the host's sockets, and gVisor's stack nothing to hold"}
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace} {
		if path, own := plan.Namespace(spec, kind); !own || path != "" {
			return &UnsupportedError{"namespaces." + string(kind), "the guest has a kernel of its own, and cannot share the host's"}
		}
	}
	if spec.Hooks != nil && len(spec.Hooks.StartContainer) > 0 {
		return &UnsupportedError{"hooks.startContainer", "they would be programs of the host's kernel, not of the guest"}
	}
	return nil
}

// linkOptions are the options of mounts that gVisor's kernel cannot follow, and why.
var linkOptions = map[string]string{
	"nosymfollow": "the guest's kernel follows links itself", "rnosymfollow": "the guest's kernel follows links itself",
	"src-nofollow": "the guest's kernel mounts no link", "dest-nofollow": "the guest's kernel mounts on no link",
}

// asks tells whether a filter asks an agent.
func asks(s *specs.LinuxSeccomp) bool {
	return s.DefaultAction == specs.ActNotify || slices.ContainsFunc(s.Syscalls, func(c specs.LinuxSyscall) bool { return c.Action == specs.ActNotify })
}

// opens are the sysctls that take a check away, and that engines set on their own: a guest whose kernel keeps to the check has less than
// was given.
var opens = []string{"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"}

// PassedOver are the demands of a spec that a guest does without, and that engines make on their own: it has less than was given, and the
// caller is told.
func PassedOver(spec *specs.Spec) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(spec.Linux.Sysctl)) {
		list = append(list, "sysctl "+name+" is the host kernel's: the guest keeps to its own kernel's check")
	}
	_, less, _ := plan.Guest(spec.Process) // the error is Check's
	return append(list, less...)
}

func checkSysctls(list map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(list)) {
		if !slices.Contains(opens, strings.ReplaceAll(name, "/", ".")) {
			return &UnsupportedError{"sysctls", name + " is the host kernel's, which the guest does not see"}
		}
	}
	return nil
}

// made are the devices that the guest's kernel makes by itself (its package runsc/boot, vfs.go), with their numbers (devices.txt of the
// kernel's documentation).
var made = map[string][2]int64{
	"/dev/null": {1, 3}, "/dev/zero": {1, 5}, "/dev/full": {1, 7}, "/dev/random": {1, 8}, "/dev/urandom": {1, 9}, "/dev/tty": {5, 0},
}

func checkDevices(list []specs.LinuxDevice) error {
	for i := range list {
		d := &list[i]
		if number, ok := made[d.Path]; !ok || d.Type != "c" && d.Type != "u" || number != [2]int64{d.Major, d.Minor} {
			return &UnsupportedError{"devices", "the guest's kernel has no driver for " + d.Path}
		}
	}
	return nil
}

// checkMounts refuses mounts of the guest's that were to show on the host: they are its kernel's alone; and devices of the host as files.
func checkMounts(spec *specs.Spec) error {
	const reason = "mounts of the guest's are its own kernel's, and never show on the host"
	for _, m := range spec.Mounts {
		if slices.Contains(m.Options, "shared") || slices.Contains(m.Options, "rshared") {
			return &UnsupportedError{"mounts", m.Destination + " is to be shared: " + reason}
		}
		if foreignDevice(&m) {
			return &UnsupportedError{"mounts", "the guest's kernel has no driver for " + m.Source}
		}
	}
	if p := spec.Linux.RootfsPropagation; p == "shared" || p == "rshared" {
		return &UnsupportedError{"linux.rootfsPropagation", reason}
	}
	return nil
}

// foreignDevice tells whether a bind mount shows a device of the host that the guest's kernel does not have itself.
func foreignDevice(m *specs.Mount) bool {
	if slices.Contains(own, m.Type) {
		return false
	}
	var st unix.Stat_t
	if err := unix.Stat(m.Source, &st); err != nil {
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return true
	case unix.S_IFCHR:
		number := [2]int64{int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))} //nolint:unconvert // on other architectures
		return !slices.Contains(slices.Collect(maps.Values(made)), number)
	}
	return false
}
