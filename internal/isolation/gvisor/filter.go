package gvisor

import (
	"slices"

	"brig/internal/isolation/gvisor/job"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// kernelFilter is the host's filter of the kernel process and its stubs; goferFilter that of the file server. gVisor loads its own over
// each, with the arguments looked at; what these add is mostly that nothing else goes through before that, or if that were ever missing.
func kernelFilter() *specs.LinuxSeccomp {
	return only(slices.Concat(job.KernelStart, job.KernelRun),
		// To read: what it writes it was given open.
		specs.LinuxSyscall{Names: []string{"openat"}, Args: []specs.LinuxSeccompArg{without(2, unix.O_ACCMODE|unix.O_CREAT|unix.O_TRUNC|tmpfile)}},
		specs.LinuxSyscall{Names: []string{"fchmod"}, Args: []specs.LinuxSeccompArg{without(1, suidSgid)}},
	)
}

// goferFilter is that of the file server for a guest with a filter. A guest that may not make set-user-ID files has its kernel process ask the
// server for none: in a volume they would be the volume's owner's, and on the host for everybody to execute. (Folders may have the bit of the
// group, which one gets from the folder it is made in. The mode that openat2 has behind a pointer is only the server's own to ask for.)
func goferFilter(guest *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	conditions := []specs.LinuxSyscall{{Names: []string{"socketpair"}, Args: []specs.LinuxSeccompArg{is(0, unix.AF_UNIX)}}}
	if !setsIDs(guest) {
		conditions = append(conditions,
			specs.LinuxSyscall{Names: []string{"fchmod"}, Args: []specs.LinuxSeccompArg{without(1, suidSgid)}},
			specs.LinuxSyscall{Names: []string{"fchmodat"}, Args: []specs.LinuxSeccompArg{without(2, suidSgid)}},
			specs.LinuxSyscall{Names: []string{"mknodat"}, Args: []specs.LinuxSeccompArg{without(2, suidSgid)}},
			specs.LinuxSyscall{Names: []string{"openat"}, Args: []specs.LinuxSeccompArg{without(3, suidSgid)}},
			specs.LinuxSyscall{Names: []string{"openat"}, Args: []specs.LinuxSeccompArg{without(2, unix.O_CREAT|tmpfile)}},
		)
	}
	return only(slices.Concat(job.GoferStart, job.GoferRun), conditions...)
}

// suidSgid are the bits by which who executes a file gets its owner's and its group's id.
const suidSgid = unix.S_ISUID | unix.S_ISGID

// setsIDs tells whether a filter lets a program give a file those bits. One that does not has a condition for it (package seccomp's profiles).
func setsIDs(f *specs.LinuxSeccomp) bool {
	if f == nil || f.DefaultAction == specs.ActAllow || f.DefaultAction == specs.ActLog {
		return true
	}
	refuses := func(a specs.LinuxSeccompArg) bool {
		return a.Index == 1 && a.Op == specs.OpMaskedEqual && a.Value&suidSgid == suidSgid && a.ValueTwo&suidSgid == 0
	}
	return slices.ContainsFunc(f.Syscalls, func(c specs.LinuxSyscall) bool {
		return c.Action != specs.ActErrno && slices.Contains(c.Names, "fchmod") && !slices.ContainsFunc(c.Args, refuses)
	})
}

const (
	tmpfile    = 0o20000000 // __O_TMPFILE, O_TMPFILE without O_DIRECTORY
	namespaced = 0x7e020000 // CLONE_NEW*
	low32      = 0xffffffff // an int's half of the register is all that the kernel looks at
)

// is holds when an int argument has the value, without when none of the bits are set.
func is(index uint, value uint64) specs.LinuxSeccompArg {
	return specs.LinuxSeccompArg{Index: index, Op: specs.OpMaskedEqual, Value: low32, ValueTwo: value}
}

func without(index uint, bits uint64) specs.LinuxSeccompArg {
	return specs.LinuxSeccompArg{Index: index, Op: specs.OpMaskedEqual, Value: bits}
}

// only lets the calls of the list through, those that it says more of by their arguments. A call that it refuses gets an errno and does not
// kill: what a stub's own filter says, which traps each call of the guest's, has to stand above it (seccomp(2) on several filters).
func only(names []string, conditions ...specs.LinuxSyscall) *specs.LinuxSeccomp {
	eperm, einval := uint(unix.EPERM), uint(unix.EINVAL)
	conditions = append(conditions,
		// Processes and threads, and no namespaces.
		specs.LinuxSyscall{Names: []string{"clone"}, Args: []specs.LinuxSeccompArg{without(0, namespaced)}},
		// The program that Brig opened, and no path.
		specs.LinuxSyscall{Names: []string{"execveat"}, Args: []specs.LinuxSeccompArg{is(4, unix.AT_EMPTY_PATH)}},
		// All, but to outlive who started it: see the refusal below.
		specs.LinuxSyscall{Names: []string{"prctl"}, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpGreaterEqual}}},
	)
	rules := []specs.LinuxSyscall{
		{Names: slices.Sorted(slices.Values(names)), Action: specs.ActAllow},
		{Names: []string{"prctl"}, Action: specs.ActErrno, ErrnoRet: &einval, Args: []specs.LinuxSeccompArg{
			is(0, unix.PR_SET_PDEATHSIG), {Index: 1, Op: specs.OpNotEqual, Value: uint64(unix.SIGKILL)},
		}},
	}
	for _, c := range conditions {
		rules[0].Names = slices.DeleteFunc(rules[0].Names, func(name string) bool { return name == c.Names[0] })
		c.Action = specs.ActAllow
		rules = append(rules, c)
	}
	return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &eperm, Architectures: []specs.Arch{seccomp.Native()}, Syscalls: rules}
}
