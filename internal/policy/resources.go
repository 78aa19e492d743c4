package policy

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// resources always has a limit on memory and on processes: without them one program could take the host down.
func (w *writer) resources() error {
	l := w.p.Limits
	if l == nil {
		l = &Limits{}
	}
	r := w.spec.Linux.Resources
	if err := w.memory(l, r); err != nil {
		return err
	}
	if l.Pids != "" {
		n, err := parsePids(l.Pids)
		if err != nil {
			return bad("limits.pids", "%v", err)
		}
		r.Pids = &specs.LinuxPids{Limit: &n}
	}
	if l.CPUs != "" || l.CPUSet != "" {
		r.CPU = &specs.LinuxCPU{Cpus: l.CPUSet}
	}
	if l.CPUs != "" {
		quota, period, err := ParseCPUs(l.CPUs)
		if err != nil {
			return bad("limits.cpus", "%v", err)
		}
		r.CPU.Quota, r.CPU.Period = &quota, &period
	}
	adj := max(w.h.OOMScoreAdj, defaultOOMScoreAdj)
	w.spec.Process.OOMScoreAdj = &adj
	return w.blockIO(l, r)
}

// defaultOOMScoreAdj makes the kernel choose a sandbox before a service of the host's when the machine runs out of
// memory (proc_pid_oom_score_adj(5): −1000 to 1000).
const defaultOOMScoreAdj = 500

func (w *writer) memory(l *Limits, r *specs.LinuxResources) error {
	limit := int64(w.h.MemTotal / 2) //nolint:gosec // of a real machine
	if l.Memory != "" {
		var err error
		if limit, err = ParseSize(l.Memory); err != nil {
			return bad("limits.memory", "%v", err)
		}
	}
	swap := limit // memory and swap together: no swap
	switch l.MemorySwap {
	case "":
	case "-1":
		swap = -1
	default:
		var err error
		if swap, err = ParseSize(l.MemorySwap); err != nil {
			return bad("limits.memorySwap", "%v", err)
		}
	}
	r.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &swap}
	return nil
}

func (w *writer) blockIO(l *Limits, r *specs.LinuxResources) error {
	var b specs.LinuxBlockIO
	if l.BlkioWeight != "" {
		n, err := ParseCount(l.BlkioWeight, 10, 1000)
		if err != nil {
			return bad("limits.blkioWeight", "%v", err)
		}
		weight := uint16(n) //nolint:gosec // at most 1000
		b.Weight, r.BlockIO = &weight, &b
	}
	for i, rate := range l.rates() {
		for _, text := range *rate.list {
			name, n, err := ParseThrottle(text, rate.size)
			if err != nil {
				return bad(rate.key, "%v", err)
			}
			kind, major, minor, err := w.h.Device(name)
			if err != nil || kind != "b" {
				return bad(rate.key, "%s is no block device of this host", name)
			}
			d := specs.LinuxThrottleDevice{Rate: n}
			d.Major, d.Minor = int64(major), int64(minor)
			list := []*[]specs.LinuxThrottleDevice{
				&b.ThrottleReadBpsDevice, &b.ThrottleWriteBpsDevice, &b.ThrottleReadIOPSDevice, &b.ThrottleWriteIOPSDevice,
			}[i]
			*list = append(*list, d)
			r.BlockIO = &b
		}
	}
	return nil
}

// devices denies every device in the cgroup, and allows the few that a sandbox has and those that the policy adds. In
// a user namespace no node can be made anyway; this is the second lock.
func (w *writer) devices() error {
	rule := func(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		d := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Access: access}
		if minor >= 0 {
			d.Minor = &minor
		}
		return d
	}
	rules := []specs.LinuxDeviceCgroup{{Access: "rwm"}}
	access := "rw"
	if w.hostUsers() {
		access = "rwm" // without a user namespace the launch makes its nodes by mknod
	}
	for _, d := range [][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}} {
		rules = append(rules, rule("c", d[0], d[1], access))
	}
	rules = append(rules, rule("c", 136, -1, "rw")) // the slaves of pseudo-terminals
	seen := map[string]Device{}
	for i, text := range w.p.Devices {
		d, err := ParseDevice(text)
		if err != nil {
			return bad(fmt.Sprintf("devices[%d]", i), "%v", err)
		}
		if before, ok := seen[d.Target]; ok && before == d {
			continue // in the file and on the command line
		} else if ok || w.mounted(d.Target) {
			return bad(fmt.Sprintf("devices[%d]", i), "%s is mounted over already; give the device another place inside", d.Target)
		}
		seen[d.Target] = d
		kind, major, minor, err := w.h.Device(d.Source)
		if err != nil {
			return bad(fmt.Sprintf("devices[%d]", i), "%v", err)
		}
		if d.Target != d.Source {
			w.add("bind", d.Source, d.Target, "bind", "nosuid", "noexec")
		} else {
			w.spec.Linux.Devices = append(w.spec.Linux.Devices, specs.LinuxDevice{Path: d.Target, Type: kind, Major: int64(major), Minor: int64(minor)})
		}
		rules = append(rules, rule(kind, int64(major), int64(minor), d.Access))
	}
	w.spec.Linux.Resources.Devices = rules
	return nil
}

// mounted tells whether the spec has a mount at a path already.
func (w *writer) mounted(target string) bool {
	return slices.ContainsFunc(w.spec.Mounts, func(m specs.Mount) bool { return m.Destination == target })
}

// Changes gives the limits that are set in l, for `brig update` of a running sandbox; what is not set stays as it is.
func (l *Limits) Changes(h *Host) (*specs.LinuxResources, error) {
	if err := (&Policy{Limits: l}).Validate(); err != nil {
		return nil, err
	}
	w := &writer{p: &Policy{Limits: l}, h: h, spec: &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}}
	if err := w.resources(); err != nil {
		return nil, err
	}
	r := w.spec.Linux.Resources
	if l.Memory == "" {
		r.Memory = nil
	}
	if l.Memory == "" && l.MemorySwap != "" {
		return nil, bad("limits.memorySwap", "give the memory limit, too: this one is of both together")
	}
	return r, nil
}
