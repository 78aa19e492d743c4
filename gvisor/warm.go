package main

import (
	"encoding/json"
	"fmt"
	"sync"

	"brig/internal/isolation/gvisor/job"

	"github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/ring0"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	guestseccomp "gvisor.dev/gvisor/runsc/specutils/seccomp"
	"gvisor.dev/gvisor/runsc/starttime"
)

// platformName: systrap traps system calls by a seccomp filter and signals, and needs nothing of the host.
const platformName = "systrap"

// prepare is what every kernel begins with.
var prepare = sync.OnceFunc(func() {
	starttime.Get() // looks into /proc the first time, which the filter forbids a later checkpoint
	cpuid.Initialize()
	ring0.InitDefault()
})

// warm does what gVisor would do with a job at hand, and only once in a process: it makes its tables, and the process that those of
// the guest are forked from.
func warm() error {
	prepare()
	seccheck.Initialize()
	constructor, err := platform.Lookup(platformName)
	if err != nil {
		return err
	}
	if _, err := constructor.New(platform.Options{}); err != nil {
		return fmt.Errorf("prepare gVisor's platform %s: %w", platformName, err)
	}
	return rehearse()
}

// rehearse has done once what the beginning of a job does in Go alone: what is then made for the first time, as the tables of package
// json, is there.
func rehearse() error {
	j := &job.Job{Spec: &specs.Spec{Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: 1}, {Index: 1, Op: specs.OpMaskedEqual, Value: 1}}},
			{Names: []string{"read", "write", "close", "mmap", "execve"}, Action: specs.ActAllow},
		},
	}}}}
	text, err := json.Marshal(j)
	if err == nil {
		err = json.Unmarshal(text, j)
	}
	if err == nil {
		_, err = configuration(j)
	}
	if err == nil {
		_, err = guestseccomp.BuildProgram(job.Refusals(j.Spec.Linux.Seccomp, calls()))
	}
	if err != nil {
		return fmt.Errorf("rehearse a job: %w", err)
	}
	return nil
}
