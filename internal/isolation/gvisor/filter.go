package gvisor

import (
	"slices"

	"brig/internal/isolation/gvisor/job"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// kernelFilter is the host's filter of the kernel process and its stubs; goferFilter that of the file server. gVisor loads its own over
// each, with the arguments looked at; what these add is that nothing else goes through before that, or if that were ever missing.
func kernelFilter() *specs.LinuxSeccomp { return only(job.KernelStart, job.KernelRun) }

func goferFilter() *specs.LinuxSeccomp { return only(job.GoferStart, job.GoferRun) }

// only lets these calls through. A call that it refuses gets an errno and does not kill: what a stub's own filter says, which traps
// each call of the guest's, has to stand above it (seccomp(2) on several filters).
func only(start, run []string) *specs.LinuxSeccomp {
	const (
		low32  = 0xffffffff // an int's half of the register is all that the kernel looks at
		newAny = 0x7e020000 // CLONE_NEW*
	)
	special := []string{"clone", "prctl", "execveat"}
	names := slices.DeleteFunc(slices.Concat(start, run), func(name string) bool { return slices.Contains(special, name) })
	slices.Sort(names)
	is := func(index uint, value uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Op: specs.OpMaskedEqual, Value: low32, ValueTwo: value}
	}
	allow := func(names []string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActAllow, Args: args}
	}
	eperm, einval := uint(unix.EPERM), uint(unix.EINVAL)
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, DefaultErrnoRet: &eperm, Architectures: []specs.Arch{seccomp.Native()},
		Syscalls: []specs.LinuxSyscall{
			allow(names),
			// Processes and threads, and no namespaces.
			allow([]string{"clone"}, specs.LinuxSeccompArg{Index: 0, Op: specs.OpMaskedEqual, Value: newAny, ValueTwo: 0}),
			// The program that Brig opened, and no path.
			allow([]string{"execveat"}, is(4, unix.AT_EMPTY_PATH)),
			// All, but to outlive who started it.
			allow([]string{"prctl"}, specs.LinuxSeccompArg{Index: 0, Op: specs.OpGreaterEqual, Value: 0}),
			{Names: []string{"prctl"}, Action: specs.ActErrno, ErrnoRet: &einval, Args: []specs.LinuxSeccompArg{
				is(0, unix.PR_SET_PDEATHSIG), {Index: 1, Op: specs.OpNotEqual, Value: uint64(unix.SIGKILL)},
			}},
		},
	}
}
