package cgroup

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// settingsV2 compiles resources into writes for version 2. Limits that only version 1 has are refused, but for
// those that runc has always passed over (swappiness, kernel memory), whose absence confines nobody less.
func settingsV2(r *specs.LinuxResources) ([]setting, error) {
	var s settings
	if r == nil {
		return nil, nil
	}
	if r.Memory != nil {
		s.memoryV2(r.Memory)
	}
	if r.CPU != nil {
		s.cpuV2(r.CPU)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		s.add(prefix+"pids.limit", "pids", pidsMax(*r.Pids.Limit), "pids.max")
	}
	if r.BlockIO != nil {
		s.ioV2(r.BlockIO)
	}
	s.hugepages(r.HugepageLimits, "max")
	if n := r.Network; n != nil && (n.ClassID != nil || len(n.Priorities) > 0) {
		s.fail(prefix+"network", "", "cgroup version 2 has no network classes; use nftables' socket cgroupv2 match")
	}
	s.rdma(r.Rdma)
	s.unified(r.Unified)
	return s.list, s.err
}

func bytesV2(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

func (s *settings) memoryV2(m *specs.LinuxMemory) {
	s.checkMemory(m)
	if m.Swap != nil && *m.Swap > 0 && (m.Limit == nil || *m.Limit == 0) { // version 1 counts both together and needs no difference
		s.fail(prefix+"memory.swap", *m.Swap, "is memory and swap together, so it needs memory.limit")
	}
	if m.Limit != nil && *m.Limit != 0 {
		s.add(prefix+"memory.limit", "memory", bytesV2(*m.Limit), "memory.max")
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		s.add(prefix+"memory.reservation", "memory", bytesV2(*m.Reservation), "memory.low")
	}
	if m.Swap != nil && *m.Swap != 0 {
		swap := *m.Swap // of memory and swap together
		if swap > 0 && m.Limit != nil && *m.Limit > 0 {
			swap -= *m.Limit
		}
		s.add(prefix+"memory.swap", "memory", bytesV2(swap), "memory.swap.max")
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		s.fail(prefix+"memory.disableOOMKiller", "true", "cgroup version 2 cannot do that")
	}
}

func (s *settings) cpuV2(c *specs.LinuxCPU) {
	if c.Shares != nil && *c.Shares != 0 {
		s.add(prefix+"cpu.shares", "cpu", strconv.FormatUint(cpuWeight(*c.Shares), 10), "cpu.weight")
	}
	if c.Quota != nil && *c.Quota != 0 || c.Period != nil && *c.Period != 0 {
		value := "max"
		if c.Quota != nil && *c.Quota > 0 {
			value = strconv.FormatInt(*c.Quota, 10)
		}
		if c.Period != nil && *c.Period != 0 {
			value += " " + strconv.FormatUint(*c.Period, 10)
		}
		s.add(prefix+"cpu.quota", "cpu", value, "cpu.max")
	}
	if c.Burst != nil { // zero takes it back
		s.add(prefix+"cpu.burst", "cpu", strconv.FormatUint(*c.Burst, 10), "cpu.max.burst")
	}
	if c.Idle != nil {
		s.add(prefix+"cpu.idle", "cpu", strconv.FormatInt(*c.Idle, 10), "cpu.idle")
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 || c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		s.fail(prefix+"cpu.realtimeRuntime", "", "cgroup version 2 has no realtime budget")
	}
	s.cpuset(c)
}

func (s *settings) ioV2(b *specs.LinuxBlockIO) {
	if b.Weight != nil && *b.Weight != 0 {
		s.weightV2("weight", "", *b.Weight)
	}
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		s.fail(prefix+"blockIO.leafWeight", uint64(*b.LeafWeight), "cgroup version 2 has no weight for leaves")
	}
	for _, d := range b.WeightDevice {
		if d.LeafWeight != nil && *d.LeafWeight != 0 {
			s.fail(prefix+"blockIO.weightDevice", uint64(*d.LeafWeight), "cgroup version 2 has no weight for leaves")
		}
		if d.Weight != nil {
			s.weightV2("weightDevice", device(d.Major, d.Minor)+" ", *d.Weight)
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			rate := "max" // the spec's zero lifts the limit, as version 1 does
			if d.Rate != 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			s.add(prefix+"blockIO."+t.field, "io", device(d.Major, d.Minor)+" "+t.v2+"="+rate, "io.max")
		}
	}
}

// weightV2 adds a weight: the BFQ scheduler keeps the spec's range of 10 to 1000, io.weight (io.cost) has 1 to 10000.
func (s *settings) weightV2(field, device string, w uint16) {
	s.weight(field, w)
	s.add(prefix+"blockIO."+field, "io", device+strconv.Itoa(int(w)), "io.bfq.weight", "io.weight")
	if device == "" {
		device = "default "
	}
	s.list[len(s.list)-1].other = device + strconv.Itoa(1+(int(w)-10)*9999/990)
}

// unified passes the spec's raw version 2 settings on. cgroup.* files would move processes or hand the group away.
func (s *settings) unified(files map[string]string) {
	for _, name := range sortedKeys(files) {
		controller, _, ok := strings.Cut(name, ".")
		switch {
		case !ok || strings.ContainsAny(name, "/\x00"):
			s.fail(prefix+"unified", name, "the specified key has not the form CONTROLLER.VALUE `"+name+"`") // crun's words
		case controller == "cgroup":
			s.fail(prefix+"unified", name, "files of cgroup itself are the runtime's, not the spec's")
		default:
			for line := range strings.Lines(files[name]) {
				s.add(prefix+"unified."+name, controller, strings.TrimSuffix(line, "\n"), name)
			}
		}
	}
}
