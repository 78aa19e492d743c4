package job

import (
	"slices"

	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ActAbsent is the action of a guest's filter by which a system call seems not to be there (ENOSYS): a C library goes back to clone from
// clone3 then, and only then. gVisor reads a filter with one errno only, EPERM (its runsc/specutils/seccomp); brig-gvisor gives
// SCMP_ACT_TRACE this meaning, which is what a filter's own has where nobody traces. No guest can trace itself past it.
const ActAbsent = specs.ActTrace

// Filter is the policy's filter as gVisor's kernel can have it for the guest, with the same calls refused. What it cannot say is
// how: another errno than ENOSYS is EPERM, a process is ended thread by thread, and nothing is logged.
//
// floor is one more filter that holds beside it. Either may be nil.
func Filter(s, floor *specs.LinuxSeccomp, a specs.Arch) (f *specs.LinuxSeccomp, err error) {
	for _, p := range []*specs.LinuxSeccomp{s, floor} {
		if p == nil {
			continue
		}
		ordered, err := seccomp.InOrder(p, a)
		if err == nil && f != nil {
			ordered, err = seccomp.Both(f, ordered)
		}
		if err != nil {
			return nil, err
		}
		f = ordered
	}
	if f == nil {
		return nil, nil
	}
	f.DefaultAction, f.DefaultErrnoRet = guestAction(f.DefaultAction, f.DefaultErrnoRet), nil
	for i := range f.Syscalls {
		c := &f.Syscalls[i]
		c.Action, c.ErrnoRet = guestAction(c.Action, c.ErrnoRet), nil
	}
	return f, nil
}

func guestAction(a specs.LinuxSeccompAction, errno *uint) specs.LinuxSeccompAction {
	switch a {
	case specs.ActKillProcess, specs.ActKillThread:
		return specs.ActKill
	case specs.ActLog:
		return specs.ActAllow
	case specs.ActTrace:
		return ActAbsent
	case specs.ActErrno:
		if errno != nil && *errno == uint(unix.ENOSYS) {
			return ActAbsent
		}
	}
	return a
}

// Refusals writes a guest's filter that refuses by default as one that lets through by default and names what it refuses, where that is
// shorter. gVisor compiles each name of a filter by itself, at each start, in time that grows with their square: the
// default profile, which lets 290 calls through, took 20 ms and more of a start. Whatever is refused then are calls by the
// names of the kernel's own table (Ready.Calls): it has no others to let through.
func Refusals(p *specs.LinuxSeccomp, calls []string) *specs.LinuxSeccomp {
	if p == nil || p.DefaultAction == specs.ActAllow || len(calls) == 0 {
		return p
	}
	out := *p
	out.DefaultAction, out.DefaultErrnoRet, out.Syscalls = specs.ActAllow, nil, nil
	said := map[string]bool{} // of which all is said
	var before, after int
	for _, e := range p.Syscalls {
		before += len(e.Names)
		e.Names = slices.DeleteFunc(slices.Clone(e.Names), func(name string) bool { return said[name] })
		if len(e.Args) == 0 {
			for _, name := range e.Names {
				said[name] = true
			}
			if e.Action == specs.ActAllow {
				continue
			}
		}
		after += len(e.Names)
		out.Syscalls = append(out.Syscalls, e)
	}
	rest := specs.LinuxSyscall{Action: p.DefaultAction, ErrnoRet: p.DefaultErrnoRet}
	for _, name := range calls {
		if !said[name] {
			rest.Names = append(rest.Names, name)
		}
	}
	if after+len(rest.Names) >= before {
		return p
	}
	out.Syscalls = append(out.Syscalls, rest)
	return &out
}
