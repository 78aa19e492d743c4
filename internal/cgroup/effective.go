package cgroup

import (
	"os"
	"path/filepath"
	"strings"
)

// Limits is what the kernel says is in force, for inspect. Nil or empty means no limit.
type Limits struct {
	Version string `json:"version"` // "v1", "v2" or "hybrid"
	// Paths are the group's folders, see Cgroup.Paths.
	Paths map[string]string `json:"paths"`
	// MemoryBytes is of memory alone, SwapBytes of swap alone. SwapCounted is false when the kernel keeps no count of it.
	MemoryBytes *uint64 `json:"memory_bytes,omitempty"`
	SwapBytes   *uint64 `json:"swap_bytes,omitempty"`
	SwapCounted bool    `json:"swap_counted"`
	// OOMGroup: out of memory ends all of the sandbox at once.
	OOMGroup bool    `json:"oom_group"`
	Pids     *uint64 `json:"pids,omitempty"`
	// CPUs is quota divided by period: 1.5 is one and a half processors.
	CPUs *float64 `json:"cpus,omitempty"`
	// CPUWeight is cpu.weight, or version 1's shares.
	CPUWeight uint64 `json:"cpu_weight,omitempty"`
	// CPUSet and MemSet are what the sandbox may really use.
	CPUSet string `json:"cpuset,omitempty"`
	MemSet string `json:"memset,omitempty"`
	// IO are the lines of io.max, or of version 1's throttle files with their names before them.
	IO []string `json:"io,omitempty"`
	// Devices are version 1's rules, what is allowed; on version 2 they are a BPF program that cannot be read back.
	Devices []string `json:"devices,omitempty"`
	Frozen  bool     `json:"frozen"`
}

// Effective reads the limits back.
func (c *Cgroup) Effective() (*Limits, error) {
	if dirs := c.folders(); len(dirs) > 0 {
		if _, err := os.Stat(dirs[0]); err != nil {
			return nil, err
		}
	}
	l := &Limits{Paths: c.Paths()}
	switch {
	case len(c.legacy) == 0:
		l.Version = "v2"
		c.effectiveV2(l)
	case c.unified != "":
		l.Version = "hybrid"
		c.effectiveV1(l)
	default:
		l.Version = "v1"
		c.effectiveV1(l)
	}
	if dir := c.dir("pids"); dir != "" {
		l.Pids = readLimit(dir, "pids.max")
	}
	l.Frozen, _ = c.Frozen()
	return l, nil
}

func (c *Cgroup) effectiveV2(l *Limits) {
	dir := c.unified
	l.MemoryBytes = readLimit(dir, "memory.max")
	l.SwapBytes = readLimit(dir, "memory.swap.max")
	l.SwapCounted = exists(filepath.Join(dir, "memory.swap.max"))
	l.OOMGroup = readNumber(dir, "memory.oom.group") == 1
	if f, _ := readFields(filepath.Join(dir, "cpu.max")); len(f) == 2 && f[0] != "max" {
		l.CPUs = ratio(parseNumber(f[0]), parseNumber(f[1]))
	}
	l.CPUWeight = readNumber(dir, "cpu.weight")
	l.CPUSet = readLine(dir, "cpuset.cpus.effective")
	l.MemSet = readLine(dir, "cpuset.mems.effective")
	l.IO = readLines(dir, "io.max")
}

func (c *Cgroup) effectiveV1(l *Limits) {
	if dir := c.dir("memory"); dir != "" {
		l.MemoryBytes = readLimit(dir, "memory.limit_in_bytes")
		both := readLimit(dir, "memory.memsw.limit_in_bytes")
		l.SwapCounted = exists(filepath.Join(dir, "memory.memsw.limit_in_bytes"))
		if both != nil && l.MemoryBytes != nil && *both >= *l.MemoryBytes {
			swap := *both - *l.MemoryBytes
			l.SwapBytes = &swap
		}
	}
	if dir := c.dir("cpu"); dir != "" {
		if quota := readLine(dir, "cpu.cfs_quota_us"); quota != "" && !strings.HasPrefix(quota, "-") {
			l.CPUs = ratio(parseNumber(quota), readNumber(dir, "cpu.cfs_period_us"))
		}
		l.CPUWeight = readNumber(dir, "cpu.shares")
	}
	if dir := c.dir("cpuset"); dir != "" {
		l.CPUSet = readLine(dir, "cpuset.effective_cpus")
		l.MemSet = readLine(dir, "cpuset.effective_mems")
	}
	if dir := c.dir("blkio"); dir != "" {
		for _, f := range []string{"read_bps_device", "write_bps_device", "read_iops_device", "write_iops_device"} {
			for _, line := range readLines(dir, "blkio.throttle."+f) {
				l.IO = append(l.IO, f+" "+line)
			}
		}
	}
	if dir := c.dir("devices"); dir != "" {
		l.Devices = readLines(dir, "devices.list")
	}
}

func ratio(quota, period uint64) *float64 {
	if period == 0 {
		return nil
	}
	r := float64(quota) / float64(period)
	return &r
}

func readLine(dir, file string) string {
	text, _ := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(text))
}

func readLines(dir, file string) []string {
	if text := readLine(dir, file); text != "" {
		return strings.Split(text, "\n")
	}
	return nil
}
