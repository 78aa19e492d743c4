package main

import (
	"fmt"
	"sync"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/ring0"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
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
	return nil
}
