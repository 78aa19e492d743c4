package gvisor

import (
	"slices"
	"testing"

	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestGoferModes: the file server may give a file the bits of set-user-ID where the guest may, and only there.
func TestGoferModes(t *testing.T) {
	t.Parallel()
	open := specs.LinuxSyscall{Names: []string{"fchmod"}, Action: specs.ActAllow}
	other := open
	other.Args = []specs.LinuxSeccompArg{without(2, suidSgid)}
	plain := open
	plain.Args = []specs.LinuxSeccompArg{without(1, suidSgid)}
	profile := func(caps ...string) *specs.LinuxSeccomp {
		p, err := seccomp.Profile("default", caps)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, c := range map[string]struct {
		filter *specs.LinuxSeccomp
		may    bool
	}{
		"no filter":          {nil, true},
		"all is allowed":     {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, true},
		"fchmod is":          {&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{open}}, true},
		"also otherwise":     {&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{plain, open}}, true},
		"another argument":   {&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{other}}, true},
		"without those bits": {&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{plain}}, false},
		"no fchmod":          {&specs.LinuxSeccomp{DefaultAction: specs.ActKillProcess}, false},
		"the default policy": {profile(), false},
		"with CAP_FSETID":    {profile("CAP_FSETID"), true},
	} {
		rules := goferFilter(c.filter).Syscalls
		for _, call := range []string{"fchmod", "fchmodat", "mknodat", "openat"} {
			may := slices.ContainsFunc(rules, func(r specs.LinuxSyscall) bool { return len(r.Args) == 0 && slices.Contains(r.Names, call) })
			if may != c.may {
				t.Errorf("%s: %s may have any mode: %t", name, call, may)
			}
		}
	}
}
