package host

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/internal/caps"
	"brig/internal/idmap"
	"brig/internal/mac"
)

// Facts is all that Doctor's report is drawn from: plain data, so that a report about any machine can be made anywhere.
type Facts struct {
	EUID    int
	Arch    string
	Kernel  Version
	Caps    caps.Set // the caller's effective ones
	LastCap caps.Cap
	// Landlock is the ABI, LandlockWhy the reason for none.
	Landlock    int
	LandlockWhy string
	Seccomp     []string // actions
	Cgroups     *CgroupTree
	CgroupsErr  error
	Delegated   error // why an unprivileged caller has no cgroup; nil when it has, or is root
	SwapCounted bool  // cgroups count swap
	SwapOn      bool
	MAC         mac.Host
	// NoParser says that AppArmor is on and apparmor_parser is not installed.
	NoParser bool
	Features map[string]Finding // by Feature.Name
	// IDMapped says for the file systems under some folders whether they can be idmapped.
	IDMapped map[string]Finding
	// Settings are sysctls (without /proc/sys/) and files under /sys that the notes judge; absent ones are missing.
	Settings map[string]string
	// Vulnerable are the names under /sys/devices/system/cpu/vulnerabilities that say so, with their text.
	Vulnerable map[string]string
}

// noted are the settings that hardening notes look at.
var noted = []string{
	"kernel/core_pattern", "kernel/dmesg_restrict", "kernel/kptr_restrict", "kernel/unprivileged_bpf_disabled",
	"kernel/yama/ptrace_scope", "kernel/perf_event_paranoid", "kernel/kexec_load_disabled", "kernel/randomize_va_space",
	"kernel/io_uring_disabled", "kernel/modules_disabled", "vm/unprivileged_userfaultfd", "net/core/bpf_jit_harden",
	"fs/protected_symlinks", "fs/protected_hardlinks", "fs/suid_dumpable", "user/max_user_namespaces",
	"kernel/pid_max", "dev/tty/legacy_tiocsti",
}

// Collect asks the machine. It may take some milliseconds; it starts one process and keeps nothing.
func Collect() Facts {
	f := Facts{
		EUID: os.Geteuid(), Arch: runtime.GOARCH, MAC: mac.ReadHost(),
		Features: map[string]Finding{}, IDMapped: map[string]Finding{}, Settings: map[string]string{}, Vulnerable: map[string]string{},
	}
	f.NoParser = f.MAC.AppArmor && mac.Parser() == ""
	f.Kernel, _ = Kernel()
	f.Caps, _ = EffectiveCaps()
	f.LastCap, _ = caps.Last()
	abi, why := LandlockABI()
	f.Landlock, f.LandlockWhy = abi, why.Detail
	f.Seccomp, _ = SeccompActions()
	f.Cgroups, f.CgroupsErr = Cgroups()
	if f.Cgroups != nil && f.EUID != 0 {
		_, f.Delegated = f.Cgroups.Delegated()
	}
	f.SwapOn = SwapOn()
	f.SwapCounted = swapCounted(f.Cgroups)
	for _, feature := range Features() {
		f.Features[feature.Name] = feature.Check()
	}
	f.collectIDMapped()
	for _, name := range noted {
		if v, ok := sysctl(name); ok {
			f.Settings[name] = v
		}
	}
	if v, ok := line("/sys/devices/system/cpu/smt/active"); ok {
		f.Settings["smt"] = v
	}
	f.collectVulnerabilities()
	return f
}

func (f *Facts) collectIDMapped() {
	if f.EUID != 0 || f.Features[MountSetattr.Name].Outcome != Yes {
		return
	}
	m := idmap.Range{First: idmap.First, Size: idmap.Size}.Mappings()
	ns, err := idmap.UserNamespace(m, m)
	if err != nil {
		return
	}
	defer ns.Close()
	for _, dir := range []string{"/", "/tmp", "/var/lib", "/dev/shm", "/home"} {
		f.IDMapped[dir] = IDMappedMounts(dir, ns)
	}
}

func (f *Facts) collectVulnerabilities() {
	files, _ := filepath.Glob("/sys/devices/system/cpu/vulnerabilities/*")
	for _, path := range files {
		if v, ok := line(path); ok && strings.HasPrefix(v, "Vulnerable") {
			f.Vulnerable[filepath.Base(path)] = v
		}
	}
}

// EffectiveCaps are the capabilities of the calling process.
func EffectiveCaps() (caps.Set, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, err
	}
	return caps.Set(data[0].Effective) | caps.Set(data[1].Effective)<<32, nil
}

// SwapOn says whether the machine has any swap. An unreadable /proc/swaps counts as yes.
func SwapOn() bool {
	text, err := os.ReadFile("/proc/swaps")
	return err != nil || strings.Count(string(text), "\n") > 1
}

func swapCounted(t *CgroupTree) bool {
	if t == nil || !t.Available("memory") {
		return false
	}
	if dir := t.Legacy["memory"]; dir != "" {
		return unix.Access(filepath.Join(dir, "memory.memsw.limit_in_bytes"), unix.F_OK) == nil
	}
	// The root group has no such file; any child that has memory turned on has.
	children, _ := filepath.Glob(filepath.Join(t.Unified, "*", "memory.swap.max"))
	return len(children) > 0
}

// has says whether a feature was found.
func (f *Facts) has(feature *Feature) bool { return f.Features[feature.Name].Outcome == Yes }

func (f *Facts) action(name string) bool { return slices.Contains(f.Seccomp, name) }
