package gvisor

import (
	"fmt"
	"slices"

	"brig/internal/annotation"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// UnsupportedError is a demand of a policy's that gVisor's kernel cannot meet.
type UnsupportedError struct {
	// Key is where a policy says it, or the field of a bundle.
	Key, Reason string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: isolation gvisor cannot do it: %s", e.Key, e.Reason)
}

// Check refuses what gVisor's kernel would pass over in silence.
func Check(spec *specs.Spec) error {
	a, linux := spec.Annotations, spec.Linux
	switch {
	case a[annotation.Init] == "true":
		return &UnsupportedError{"init", "Brig's init is a process of the host's kernel; the guest's first process is the program"}
	case a[annotation.NoNewPrograms] == "true":
		return &UnsupportedError{"noNewPrograms", "the one execve is the guest kernel's, and Brig cannot ask after it there"}
	case a[annotation.LandlockBind] != "*" && a[annotation.Landlock] != "" || a[annotation.LandlockConnect] != "*" && a[annotation.Landlock] != "":
		return &UnsupportedError{"landlock", "the guest's sockets are its own kernel's, and Landlock cannot tell their ports"}
	case len(linux.Sysctl) > 0:
		return &UnsupportedError{"sysctls", "they are the host kernel's, which the guest does not see"}
	case len(linux.Devices) > 0:
		return &UnsupportedError{"devices", "the guest's kernel has no driver for them"}
	case len(linux.TimeOffsets) > 0:
		return &UnsupportedError{"time offsets", "the guest's clocks are those of its kernel"}
	case linux.Seccomp != nil && asks(linux.Seccomp):
		return &UnsupportedError{"seccomp", "no agent can be asked (SCMP_ACT_NOTIFY): the calls are the guest's, not the host's"}
	}
	if _, own := plan.Namespace(spec, specs.NetworkNamespace); !own {
		return &UnsupportedError{"network", "host: the guest would have the host's sockets, and gVisor's stack nothing to hold"}
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace} {
		if _, own := plan.Namespace(spec, kind); !own {
			return &UnsupportedError{"namespaces." + string(kind), "the guest has a kernel of its own, and cannot share the host's"}
		}
	}
	if _, own := plan.Namespace(spec, specs.UserNamespace); !own {
		return &UnsupportedError{"namespaces.user", "host: the kernel process would be root of the host"}
	}
	if spec.Hooks != nil {
		return &UnsupportedError{"hooks", "they would act on the kernel process, not on the guest"}
	}
	return nil
}

// asks tells whether a filter asks an agent.
func asks(s *specs.LinuxSeccomp) bool {
	return s.DefaultAction == specs.ActNotify || slices.ContainsFunc(s.Syscalls, func(c specs.LinuxSyscall) bool { return c.Action == specs.ActNotify })
}
