package seccomp

import (
	"cmp"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Action is a filter's verdict as the kernel reads it: SECCOMP_RET_* in the upper half, data (an errno, a tracer's
// message) in the lower.
type Action uint32

// Verdicts (include/uapi/linux/seccomp.h).
const (
	KillProcess Action = 0x80000000
	KillThread  Action = 0x00000000
	Trap        Action = 0x00030000
	Errno       Action = 0x00050000 // + errno
	Notify      Action = 0x7fc00000
	Trace       Action = 0x7ff00000 // + message
	Log         Action = 0x7ffc0000
	Allow       Action = 0x7fff0000
)

const (
	eperm    = 1
	enosys   = 38   // on every architecture but MIPS and PA-RISC; see enosysOf
	maxErrno = 4095 // the kernel's MAX_ERRNO; a filter's larger errno is lowered to it
)

// enosysOf gives ENOSYS as the architecture counts it.
func enosysOf(a *arch) uint32 {
	if a.column == colMIPS || a.column == colMIPS64 {
		return 89
	}
	return enosys
}

// Kind is the verdict without its data.
func (a Action) Kind() Action { return a & 0xffff0000 }

// Data is the errno of an Errno, the message of a Trace.
func (a Action) Data() uint16 { return uint16(a) }

// rank orders verdicts from the least permissive, as the kernel does when several filters answer: a signed
// comparison of the upper halves.
func (a Action) rank() int32 { return int32(a.Kind()) }

// compareActions orders verdicts from the least permissive; verdicts of one kind by their data, the larger first.
func compareActions(a, b Action) int {
	return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(b.Data(), a.Data()))
}

// permissive reports whether the call may go ahead after this verdict, at once or by a tracer's leave.
func (a Action) permissive() bool {
	switch a.Kind() {
	case Allow, Log, Trace:
		return true
	}
	return false
}

// String names the verdict: "allow", "errno 1", "kill process".
func (a Action) String() string {
	switch a.Kind() {
	case KillProcess:
		return "kill process"
	case KillThread:
		return "kill thread"
	case Trap:
		return "trap"
	case Errno:
		return fmt.Sprintf("errno %d", a.Data())
	case Notify:
		return "notify"
	case Trace:
		return fmt.Sprintf("trace %d", a.Data())
	case Log:
		return "log"
	case Allow:
		return "allow"
	}
	return fmt.Sprintf("action %#x", uint32(a))
}

// parseAction reads an action of the OCI spec with its errnoRet. The spec wants an error when errnoRet is given to an
// action that carries none.
func parseAction(name specs.LinuxSeccompAction, errnoRet *uint) (Action, error) {
	var a Action
	limit := uint(0)
	switch name {
	case specs.ActKill, specs.ActKillThread:
		a = KillThread
	case specs.ActKillProcess:
		a = KillProcess
	case specs.ActTrap:
		a = Trap
	case specs.ActErrno:
		a, limit = Errno, maxErrno
	case specs.ActTrace:
		a, limit = Trace, 0xffff
	case specs.ActAllow:
		a = Allow
	case specs.ActLog:
		a = Log
	case specs.ActNotify:
		a = Notify
	case "":
		return 0, fmt.Errorf("the action is missing")
	default:
		return 0, fmt.Errorf("unknown action %q", name)
	}
	switch {
	case errnoRet == nil && limit > 0:
		return a | eperm, nil
	case errnoRet == nil:
		return a, nil
	case limit == 0:
		return 0, fmt.Errorf("errnoRet is set, but %s returns no errno", name)
	case *errnoRet > limit:
		return 0, fmt.Errorf("errnoRet %d of %s is larger than %d", *errnoRet, name, limit)
	}
	return a | Action(*errnoRet), nil
}

var filterFlags = [...]struct {
	name specs.LinuxSeccompFlag
	bit  uint32
}{
	// A launch has one thread when the filter is loaded, so there is nobody to synchronise with.
	{"SECCOMP_FILTER_FLAG_TSYNC", 0},
	{specs.LinuxSeccompFlagLog, FlagLog},
	{specs.LinuxSeccompFlagSpecAllow, FlagSpecAllow},
	{specs.LinuxSeccompFlagWaitKillableRecv, FlagWaitKillableRecv},
}

func parseFlags(list []specs.LinuxSeccompFlag) (uint32, error) {
	var bits uint32
next:
	for _, name := range list {
		for _, f := range filterFlags {
			if f.name == name {
				bits |= f.bit
				continue next
			}
		}
		return 0, fmt.Errorf("seccomp: unknown flag %q", name)
	}
	return bits, nil
}
