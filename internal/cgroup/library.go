package cgroup

import (
	"fmt"
	"io/fs"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// libraryResources puts into the library's words what systemd has properties for: memory, CPU, processes, devices and
// raw version 2 settings. The rest goes into the control files directly.
// Preconditions: settingsV1 or settingsV2 has taken r.
func libraryResources(r *specs.LinuxResources) *cgroups.Resources {
	l := &cgroups.Resources{SkipDevices: true}
	if r == nil {
		return l
	}
	if len(r.Devices) > 0 {
		l.Devices, _ = libraryRules(r.Devices)
		l.SkipDevices = false
	}
	if m := r.Memory; m != nil {
		l.Memory, l.MemoryReservation, l.MemorySwap = value(m.Limit), value(m.Reservation), value(m.Swap)
		l.MemorySwappiness = m.Swappiness
		l.OomKillDisable = m.DisableOOMKiller != nil && *m.DisableOOMKiller
	}
	if c := r.CPU; c != nil {
		l.CpuShares, l.CpuQuota, l.CpuPeriod, l.CpuBurst = value(c.Shares), value(c.Quota), value(c.Period), c.Burst
		l.CpuRtRuntime, l.CpuRtPeriod = value(c.RealtimeRuntime), value(c.RealtimePeriod)
		l.CpusetCpus, l.CpusetMems, l.CPUIdle = c.Cpus, c.Mems, c.Idle
		if l.CpuShares != 0 {
			l.CpuWeight = cpuWeight(l.CpuShares)
		}
	}
	if r.Pids != nil {
		l.PidsLimit = r.Pids.Limit
	}
	l.Unified = r.Unified
	return l
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// Counters are all that the kernel counts, in the library's words: `events` prints them as runc does, which uses the same. A group
// that is gone gives an error for which errors.Is(err, fs.ErrNotExist) holds, and no zeros, which the library takes for numbers there.
func (c *Cgroup) Counters() (*cgroups.Stats, error) {
	paths := map[string]string{}
	for controller, dir := range c.legacy {
		paths[controller] = dir
	}
	if len(paths) == 0 {
		paths[""] = c.unified
	}
	m, err := manager.NewWithPaths(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, paths)
	if err != nil {
		return nil, fmt.Errorf("read the counters of a cgroup: %w", err)
	}
	s, err := m.GetStats()
	if err != nil {
		return nil, fmt.Errorf("read the counters of a cgroup: %w", err)
	}
	for _, dir := range c.folders() {
		if !exists(dir) {
			return nil, fmt.Errorf("read the counters of a cgroup: %w", &fs.PathError{Op: "stat", Path: dir, Err: unix.ENOENT})
		}
	}
	return s, nil
}
