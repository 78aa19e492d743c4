package oci

import (
	"brig/internal/cgroup"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// limits are those of a container that its pod's cgroup can keep.
type limits struct {
	Memory int64  `json:"memory,omitempty"`
	Quota  int64  `json:"quota,omitempty"` // of CPU time, in each Period
	Period uint64 `json:"period,omitempty"`
}

// take has what resources say; what they do not say stays.
func (l *limits) take(r *specs.LinuxResources) {
	if r == nil {
		return
	}
	if m := r.Memory; m != nil && m.Limit != nil {
		l.Memory = *m.Limit
	}
	if c := r.CPU; c != nil && c.Quota != nil {
		l.Quota = *c.Quota
	}
	if c := r.CPU; c != nil && c.Period != nil {
		l.Period = *c.Period
	}
}

// What a pod needs beside what its containers may use: gVisor's kernel, and a file server and two processes for each container.
// docs/gvisor.md has the measurements.
const (
	kernelRoom = 64 << 20
	memberRoom = 32 << 20
)

// period is the kernel's (cgroups-v1, cpu.cfs_period_us).
const period = 100_000

// pool gives a pod the limits of its containers, added up: one kernel serves them all, and the host cannot tell whose memory and time it
// is. A container without a limit leaves the pod without, and what is around that holds.
func (a *app) pool(pod *container) error {
	g := pod.group()
	if g == nil {
		return nil
	}
	members, err := a.members(pod.id)
	if err != nil {
		return err
	}
	if len(members) == 0 {
		return nil // what it had last is enough for its own process
	}
	return setLimits(g, members)
}

func setLimits(g *cgroup.Cgroup, members []*container) error {
	memory, quota := int64(kernelRoom), int64(0)
	for _, m := range members {
		switch l := m.Limits; {
		case l == nil || l.Memory <= 0:
			memory = -1
		case memory >= 0:
			memory += l.Memory + memberRoom
		}
		switch l := m.Limits; {
		case l == nil || l.Quota <= 0:
			quota = -1
		case quota >= 0:
			p := int64(period)
			if l.Period > 0 {
				p = int64(l.Period) //nolint:gosec // at most a second
			}
			quota += l.Quota * period / p
		}
	}
	p := uint64(period)
	return g.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, CPU: &specs.LinuxCPU{Quota: &quota, Period: &p}})
}

// updateMember changes the limits of a container on a pod's kernel. Of what the pod's cgroup does not keep for it, only a weight is passed
// over, which engines always say.
func (a *app) updateMember(c *container, r *specs.LinuxResources) error {
	pod, err := a.open(c.Pod)
	if err != nil {
		return err
	}
	lock, err := c.lock(lockTimeout)
	if err != nil {
		return err
	}
	defer lock.Close()                     //nolint:errcheck // which unlocks
	if c, err = a.open(c.id); err != nil { // it may have changed before the lock was ours
		return err
	}
	c.held = lock
	if c.Limits == nil {
		c.Limits = &limits{}
	}
	c.Limits.take(r)
	if err := c.save(); err != nil {
		return err
	}
	return a.pool(pod)
}
