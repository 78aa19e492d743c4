package main

import (
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/seccomp"
	_ "gvisor.dev/gvisor/runsc/specutils/seccomp" // has the variable

	"golang.org/x/sys/unix"
)

// traceAction is what gVisor makes of SCMP_ACT_TRACE in a guest's filter.
//
//go:linkname traceAction gvisor.dev/gvisor/runsc/specutils/seccomp.traceAction
var traceAction seccomp.Action

// Brig's filters have that word for ENOSYS (job.ActAbsent), for which gVisor has none. TestGuestFilter holds that it is taken so.
func init() { traceAction = seccomp.ReturnError.Code(uint16(unix.ENOSYS)) }
