package job

import (
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
func Filter(s *specs.LinuxSeccomp, a specs.Arch) (*specs.LinuxSeccomp, error) {
	if s == nil {
		return nil, nil
	}
	f, err := seccomp.InOrder(s, a)
	if err != nil {
		return nil, err
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
