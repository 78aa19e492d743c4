package oci

import "github.com/opencontainers/cgroups"

// The lines of `events` have runc's keys, which monitors read (runc's package types). Numbers are bytes, nanoseconds and times.

type stats struct {
	CPU     cpuStats                `json:"cpu"`
	CPUSet  cgroups.CPUSetStats     `json:"cpuset"`
	Memory  memoryStats             `json:"memory"`
	Pids    cgroups.PidsStats       `json:"pids"`
	Blkio   blkioStats              `json:"blkio"`
	Hugetlb map[string]hugetlbStats `json:"hugetlb"`
	RDT     struct{}                `json:"intel_rdt"`
	Network []struct{}              `json:"network_interfaces"` // the engine's business; null as runc has it
}

type cpuStats struct {
	Usage struct {
		Total        uint64   `json:"total,omitempty"`
		Percpu       []uint64 `json:"percpu,omitempty"`
		PercpuKernel []uint64 `json:"percpu_kernel,omitempty"`
		PercpuUser   []uint64 `json:"percpu_user,omitempty"`
		Kernel       uint64   `json:"kernel"`
		User         uint64   `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
	PSI *cgroups.PSIStats `json:"psi,omitempty"`
}

type memoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type memoryStats struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     memoryEntry       `json:"usage"`
	Swap      memoryEntry       `json:"swap"`
	Kernel    memoryEntry       `json:"kernel"`
	KernelTCP memoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
	PSI       *cgroups.PSIStats `json:"psi,omitempty"`
}

type hugetlbStats struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type blkioStats struct {
	ServiceBytes []cgroups.BlkioStatEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced     []cgroups.BlkioStatEntry `json:"ioServicedRecursive,omitempty"`
	Queued       []cgroups.BlkioStatEntry `json:"ioQueueRecursive,omitempty"`
	ServiceTime  []cgroups.BlkioStatEntry `json:"ioServiceTimeRecursive,omitempty"`
	WaitTime     []cgroups.BlkioStatEntry `json:"ioWaitTimeRecursive,omitempty"`
	Merged       []cgroups.BlkioStatEntry `json:"ioMergedRecursive,omitempty"`
	Time         []cgroups.BlkioStatEntry `json:"ioTimeRecursive,omitempty"`
	Sectors      []cgroups.BlkioStatEntry `json:"sectorsRecursive,omitempty"`
	PSI          *cgroups.PSIStats        `json:"psi,omitempty"`
}

func statsOf(s *cgroups.Stats) *stats {
	out := &stats{CPUSet: s.CPUSetStats, Pids: s.PidsStats, Hugetlb: map[string]hugetlbStats{}}
	c, u := &s.CpuStats, &out.CPU.Usage
	u.Total, u.Kernel, u.User = c.CpuUsage.TotalUsage, c.CpuUsage.UsageInKernelmode, c.CpuUsage.UsageInUsermode
	u.Percpu, u.PercpuKernel, u.PercpuUser = c.CpuUsage.PercpuUsage, c.CpuUsage.PercpuUsageInKernelmode, c.CpuUsage.PercpuUsageInUsermode
	t := &out.CPU.Throttling
	t.Periods, t.ThrottledPeriods, t.ThrottledTime = c.ThrottlingData.Periods, c.ThrottlingData.ThrottledPeriods, c.ThrottlingData.ThrottledTime
	out.CPU.PSI = c.PSI
	m := &s.MemoryStats
	entry := func(d cgroups.MemoryData) memoryEntry { return memoryEntry{d.Limit, d.Usage, d.MaxUsage, d.Failcnt} }
	out.Memory = memoryStats{m.Cache, entry(m.Usage), entry(m.SwapUsage), entry(m.KernelUsage), entry(m.KernelTCPUsage), m.Stats, m.PSI}
	b := &s.BlkioStats
	out.Blkio = blkioStats{
		b.IoServiceBytesRecursive, b.IoServicedRecursive, b.IoQueuedRecursive, b.IoServiceTimeRecursive,
		b.IoWaitTimeRecursive, b.IoMergedRecursive, b.IoTimeRecursive, b.SectorsRecursive, b.PSI,
	}
	for size, h := range s.HugetlbStats {
		out.Hugetlb[size] = hugetlbStats{h.Usage, h.MaxUsage, h.Failcnt}
	}
	return out
}
