package cgroup

import (
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// settingsV1 compiles resources into writes for version 1, in the order in which a fresh group takes them.
func settingsV1(r *specs.LinuxResources) ([]setting, error) {
	var s settings
	if r == nil {
		return nil, nil
	}
	if r.Memory != nil {
		s.memoryV1(r.Memory)
	}
	if r.CPU != nil {
		s.cpuV1(r.CPU)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		s.add(prefix+"pids.limit", "pids", pidsMax(*r.Pids.Limit), "pids.max")
	}
	if r.BlockIO != nil {
		s.blkioV1(r.BlockIO)
	}
	s.hugepages(r.HugepageLimits, "limit_in_bytes")
	if n := r.Network; n != nil {
		if n.ClassID != nil {
			s.add(prefix+"network.classID", "net_cls", strconv.FormatUint(uint64(*n.ClassID), 10), "net_cls.classid")
		}
		for _, p := range n.Priorities {
			s.add(prefix+"network.priorities", "net_prio", p.Name+" "+strconv.FormatUint(uint64(p.Priority), 10), "net_prio.ifpriomap")
		}
	}
	s.rdma(r.Rdma)
	for _, k := range sortedKeys(r.Unified) {
		s.fail(prefix+"unified", k, "invalid configuration: cannot use unified on cgroup v1, which this machine uses; boot it with systemd.unified_cgroup_hierarchy=1")
	}
	return s.list, s.err
}

// memoryV1 passes over memory.kernel as runc does: the kernel gave that limit up with Linux 5.16.
func (s *settings) memoryV1(m *specs.LinuxMemory) {
	s.checkMemory(m)
	bytes := func(field string, v *int64, file string) {
		if v != nil && *v != 0 {
			s.add(prefix+"memory."+field, "memory", strconv.FormatInt(*v, 10), file)
		}
	}
	bytes("limit", m.Limit, "memory.limit_in_bytes")
	bytes("swap", m.Swap, "memory.memsw.limit_in_bytes")
	bytes("reservation", m.Reservation, "memory.soft_limit_in_bytes")
	bytes("kernelTCP", m.KernelTCP, "memory.kmem.tcp.limit_in_bytes")
	if m.Swappiness != nil {
		if *m.Swappiness > 100 {
			s.fail(prefix+"memory.swappiness", *m.Swappiness, "must be from 0 to 100")
		}
		s.add(prefix+"memory.swappiness", "memory", strconv.FormatUint(*m.Swappiness, 10), "memory.swappiness")
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		s.add(prefix+"memory.disableOOMKiller", "memory", "1", "memory.oom_control")
	}
}

func (s *settings) cpuV1(c *specs.LinuxCPU) {
	number := func(field string, v *uint64, file string) {
		if v != nil && *v != 0 {
			s.add(prefix+"cpu."+field, "cpu", strconv.FormatUint(*v, 10), file)
		}
	}
	number("shares", c.Shares, "cpu.shares")
	number("period", c.Period, "cpu.cfs_period_us")
	if c.Quota != nil && *c.Quota != 0 {
		s.add(prefix+"cpu.quota", "cpu", strconv.FormatInt(*c.Quota, 10), "cpu.cfs_quota_us")
	}
	if c.Burst != nil { // zero takes it back
		s.add(prefix+"cpu.burst", "cpu", strconv.FormatUint(*c.Burst, 10), "cpu.cfs_burst_us")
	}
	number("realtimePeriod", c.RealtimePeriod, "cpu.rt_period_us")
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		s.add(prefix+"cpu.realtimeRuntime", "cpu", strconv.FormatInt(*c.RealtimeRuntime, 10), "cpu.rt_runtime_us")
	}
	if c.Idle != nil {
		s.add(prefix+"cpu.idle", "cpu", strconv.FormatInt(*c.Idle, 10), "cpu.idle")
	}
	s.cpuset(c)
}

// cpuset is the same in both versions. Version 1 refuses tasks in a group without cpus or mems, so Create copies
// what is unset from the parent.
func (s *settings) cpuset(c *specs.LinuxCPU) {
	if c.Cpus != "" {
		s.checkList(prefix+"cpu.cpus", c.Cpus)
		s.add(prefix+"cpu.cpus", "cpuset", c.Cpus, "cpuset.cpus")
	}
	if c.Mems != "" {
		s.checkList(prefix+"cpu.mems", c.Mems)
		s.add(prefix+"cpu.mems", "cpuset", c.Mems, "cpuset.mems")
	}
}

func (s *settings) blkioV1(b *specs.LinuxBlockIO) {
	weight := func(field string, v *uint16, files ...string) {
		if v != nil && *v != 0 {
			s.weight(field, *v)
			s.add(prefix+"blockIO."+field, "blkio", strconv.Itoa(int(*v)), files...)
		}
	}
	weight("weight", b.Weight, "blkio.weight", "blkio.bfq.weight")
	weight("leafWeight", b.LeafWeight, "blkio.leaf_weight")
	for _, d := range b.WeightDevice {
		if d.Weight != nil {
			s.weight("weightDevice", *d.Weight)
			s.add(prefix+"blockIO.weightDevice", "blkio", device(d.Major, d.Minor)+" "+strconv.Itoa(int(*d.Weight)), "blkio.weight_device", "blkio.bfq.weight_device")
		}
		if d.LeafWeight != nil {
			s.add(prefix+"blockIO.weightDevice", "blkio", device(d.Major, d.Minor)+" "+strconv.Itoa(int(*d.LeafWeight)), "blkio.leaf_weight_device")
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			s.add(prefix+"blockIO."+t.field, "blkio", device(d.Major, d.Minor)+" "+strconv.FormatUint(d.Rate, 10), "blkio.throttle."+t.v1)
		}
	}
}

func (s *settings) weight(field string, v uint16) {
	if v < 10 || v > 1000 {
		s.fail(prefix+"blockIO."+field, uint64(v), "must be from 10 to 1000")
	}
}

func (s *settings) rdma(limits map[string]specs.LinuxRdma) {
	for _, dev := range sortedKeys(limits) {
		value := dev
		if limits[dev].HcaHandles == nil && limits[dev].HcaObjects == nil {
			s.fail(prefix+"rdma", dev, "needs hcaHandles or hcaObjects")
		}
		if n := limits[dev].HcaHandles; n != nil {
			value += " hca_handle=" + strconv.FormatUint(uint64(*n), 10)
		}
		if n := limits[dev].HcaObjects; n != nil {
			value += " hca_object=" + strconv.FormatUint(uint64(*n), 10)
		}
		s.add(prefix+"rdma", "rdma", value, "rdma.max")
	}
}
