package host

import (
	"fmt"
	"slices"
	"strings"

	"brig/internal/caps"
)

// rule judges one setting. Names of sysctls are without /proc/sys/.
type rule struct {
	setting string
	bad     func(value string) bool
	meaning string
	remedy  string
}

func is(values ...string) func(string) bool {
	return func(v string) bool { return slices.Contains(values, v) }
}

func below(n int64) func(string) bool {
	return func(v string) bool {
		var got int64
		_, err := fmt.Sscan(v, &got)
		return err == nil && got < n
	}
}

// rules are what Documentation/admin-guide/sysctl and the Kernel Self Protection Project advise, as far as a sandbox
// is concerned. A setting that the kernel does not have is no finding.
var rules = []rule{
	{"kernel/core_pattern", func(v string) bool { return strings.HasPrefix(v, "|") },
		"a crash inside a sandbox starts this program on the host as root, and feeds it memory that the sandbox wrote (CVE-2025-4598, CVE-2025-5054 were of this kind); a core limit of 0 does not prevent it, one of 1 byte does (do_coredump in fs/coredump.c)",
		"sysctl kernel.core_pattern=core"},
	{"kernel/kptr_restrict", is("0"), "kernel addresses can be read from /proc", "sysctl kernel.kptr_restrict=1"},
	{"kernel/dmesg_restrict", is("0"), "everyone on the host reads the kernel's log; inside, syslog(2) is filtered", "sysctl kernel.dmesg_restrict=1"},
	{"kernel/unprivileged_bpf_disabled", is("0"), "everyone on the host loads BPF programs; inside, bpf(2) is filtered", "sysctl kernel.unprivileged_bpf_disabled=2"},
	{"kernel/yama/ptrace_scope", is("0"), "processes of one user trace each other on the host", "sysctl kernel.yama.ptrace_scope=1"},
	{"kernel/perf_event_paranoid", below(2), "everyone on the host measures the kernel; inside, perf_event_open(2) is filtered", "sysctl kernel.perf_event_paranoid=2"},
	{"kernel/randomize_va_space", is("0", "1"), "addresses of programs are easier to guess", "sysctl kernel.randomize_va_space=2"},
	{"kernel/io_uring_disabled", is("0"), "everyone on the host uses io_uring; inside it is filtered", "sysctl kernel.io_uring_disabled=1"},
	{"vm/unprivileged_userfaultfd", is("1"), "everyone on the host can hold kernel page faults; inside, userfaultfd(2) is filtered", "sysctl vm.unprivileged_userfaultfd=0"},
	{"net/core/bpf_jit_harden", is("0"), "compiled BPF code holds constants that users choose", "sysctl net.core.bpf_jit_harden=2"},
	{"fs/protected_symlinks", is("0"), "links in /tmp can trap programs of the host", "sysctl fs.protected_symlinks=1"},
	{"fs/protected_hardlinks", is("0"), "hard links to others' files can trap programs of the host", "sysctl fs.protected_hardlinks=1"},
	{"fs/suid_dumpable", is("1"), "setuid programs of the host leave core files that users read", "sysctl fs.suid_dumpable=0"},
	{"dev/tty/legacy_tiocsti", is("1"), "a program that shares a terminal can type into it; a sandbox has its own", "sysctl dev.tty.legacy_tiocsti=0"},
	{"smt", is("1"), "sandboxes on two threads of one core may learn of each other by timing", "boot with nosmt where strangers share the machine, or give each its cores by --cpuset-cpus"},
}

// notes applies the rules, and adds what is no setting.
func (f *Facts) notes() []Note {
	notes := []Note{}
	for _, r := range rules {
		if v, ok := f.Settings[r.setting]; ok && r.bad(v) {
			notes = append(notes, Note{r.setting, v, r.meaning, r.remedy})
		}
	}
	for _, name := range sortedKeys(f.Vulnerable) {
		notes = append(notes, Note{"cpu vulnerability " + name, f.Vulnerable[name],
			"a sandbox may read the memory of others through the processor", "update microcode and kernel, do not boot with mitigations=off; else give each its cores by --cpuset-cpus, or strangers a machine of their own"})
	}
	if f.EUID == 0 && f.LastCap > 0 {
		if missing := caps.All.Upto(f.LastCap) &^ f.Caps; missing != 0 {
			notes = append(notes, Note{"capabilities of Brig", "without " + strings.Join(missing.Names(), " "),
				"what these allow, Brig cannot do for a sandbox", "start Brig with them if a sandbox needs it"})
		}
	}
	return notes
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
