package gvisor

import (
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The limit on processes is the guest's: its kernel counts them, a user at a time (RLIMIT_NPROC, getrlimit(2)), and a fork beyond it fails
// as it does natively. Who may exceed it there, with CAP_SYS_ADMIN or CAP_SYS_RESOURCE, or with many users, meets the cgroup, which holds
// the processes of the host's that the guest is made of, and ends the kernel: Go's runtime does not do without a thread.

const (
	// ownThreads are what the kernel process, the file server and systrap's first processes may have for themselves: measured 70 on a
	// busy machine of two processors.
	ownThreads = 256
	// mostPids is the largest limit of the kernel's (PID_MAX_LIMIT, pids.max in cgroup-v2.rst).
	mostPids = 4 << 20
)

// Resources are those of the control group around the kernel process. Each process of the guest is one of the host's there, with a thread
// for its system calls and others to run on, as many as there are processors (systrap's maxChildThreads); and the kernel process may
// have a thread that waits for it.
func Resources(r *specs.LinuxResources) *specs.LinuxResources {
	limit := processes(r)
	if limit == 0 {
		return r
	}
	n := min(limit, mostPids)*int64(3+runtime.NumCPU()) + ownThreads
	n = min(n, mostPids)
	out := *r
	out.Pids = &specs.LinuxPids{Limit: &n}
	return &out
}

// CheckUpdate refuses a change of what the guest's kernel took when its program started.
func CheckUpdate(old, changed *specs.LinuxResources) error {
	if changed == nil || changed.Pids == nil || processes(changed) == processes(old) {
		return nil
	}
	return &UnsupportedError{"limits.pids", "the guest's kernel holds that limit, and took it when the program started"}
}

// processes is the limit on processes, 0 for none.
func processes(r *specs.LinuxResources) int64 {
	if r == nil || r.Pids == nil || r.Pids.Limit == nil {
		return 0
	}
	return max(*r.Pids.Limit, 0)
}

// limitProcesses has the guest's kernel hold its limit.
func limitProcesses(guest *specs.Spec, r *specs.LinuxResources) {
	n := uint64(processes(r)) //nolint:gosec // not negative
	if n == 0 {
		return
	}
	limit := specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: n, Hard: n}
	list := slices.Clone(guest.Process.Rlimits)
	if i := slices.IndexFunc(list, func(l specs.POSIXRlimit) bool { return l.Type == limit.Type }); i >= 0 {
		list[i].Hard, list[i].Soft = min(list[i].Hard, n), min(list[i].Soft, n)
	} else {
		list = append(list, limit)
	}
	guest.Process.Rlimits = list
}
