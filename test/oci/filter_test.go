package oci

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestFilterDeniesTheRuntime: a profile is for the program, so it may deny what the runtime itself needs, as a profile of a time
// before close_range(2) does. Without no_new_privs the filter goes in while there is CAP_SYS_ADMIN, of which nothing is left.
func TestFilterDeniesTheRuntime(t *testing.T) {
	t.Parallel()
	for _, nnp := range []bool{false, true} {
		e := newEngine(t)
		e.spec.Process.NoNewPrivileges = nnp
		e.spec.Process.User = specs.User{UID: 7, GID: 8}
		e.spec.Process.Args = []string{"cat", "/proc/self/status"}
		kept := []string{"CAP_KILL"}
		e.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: kept, Permitted: kept}
		e.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names:  []string{"accept4", "close_range", "dup3", "prctl", "recvmsg", "sendmsg", "setgroups", "setresgid", "setresuid", "umask"},
			Action: specs.ActErrno,
		}}}
		e.write()
		out := e.want(0, "Seccomp:\t2", "run", "--bundle", e.bundle, "filtered")
		for _, line := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000020", "Uid:\t7\t7"} {
			if !strings.Contains(out, line) {
				t.Errorf("no_new_privs %v: no line %q in:\n%s", nnp, line, out)
			}
		}
	}
}
