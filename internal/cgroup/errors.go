package cgroup

import (
	"fmt"

	"brig/internal/host"
)

// ErrNotDelegated is host.ErrNotDelegated: an unprivileged caller owns no cgroup subtree in which it could make one.
// The caller may refuse, or go on without limits and say so.
var ErrNotDelegated = host.ErrNotDelegated

// MissingError says that a limit was asked for and this machine has nothing to enforce it with.
type MissingError struct {
	Limit      string // the field of the OCI spec: "linux.resources.memory.swap"
	Controller string // "memory"
	File       string // the control file that is absent; empty when the whole controller is
	Remedy     string
}

// Error has crun's words, which its suite looks for.
func (e *MissingError) Error() string {
	what := "the requested cgroup controller `" + e.Controller + "` is not available"
	if e.File != "" {
		what = "the cgroup controller " + e.Controller + " has no " + e.File + ": no such file or directory"
	}
	return fmt.Sprintf("limit %s: %s: %s", e.Limit, what, e.Remedy)
}

// ValueError says that a limit's value makes no sense.
type ValueError struct {
	Limit string
	Value string
	Why   string
}

func (e *ValueError) Error() string { return fmt.Sprintf("limit %s = %s: %s", e.Limit, e.Value, e.Why) }
