package cgroup

import (
	"math/big"
	"path/filepath"
	"slices"

	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// completeV2 adds to an update what version 1 has in a file of its own, and version 2 in one with something else: whoever
// changes the period alone keeps the quota, and a limit on swap alone is still one on memory and swap together.
func (c *Cgroup) completeV2(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	whole := *r
	if r.CPU != nil {
		cpu := *r.CPU
		c.completeShare(&cpu)
		whole.CPU = &cpu
	}
	if m := r.Memory; m != nil && m.Swap != nil && *m.Swap > 0 && (m.Limit == nil || *m.Limit == 0) {
		memory := *m
		if limit := readLimit(c.unified, "memory.max"); limit != nil {
			bytes := int64(*limit) //nolint:gosec // readLimit gives none that is larger
			memory.Limit = &bytes
		}
		whole.Memory = &memory
	}
	return &whole
}

// completeShare adds the other half of cpu.max. A missing period the kernel would keep, but systemd would not.
func (c *Cgroup) completeShare(cpu *specs.LinuxCPU) {
	quota, period := value(cpu.Quota), value(cpu.Period)
	now, err := readFields(filepath.Join(c.unified, "cpu.max"))
	if (quota == 0) == (period == 0) || err != nil || len(now) != 2 {
		return
	}
	if period == 0 {
		period = parseNumber(now[1])
		cpu.Period = &period
	} else if now[0] != "max" {
		quota = int64(parseNumber(now[0])) //nolint:gosec // of the kernel's
		cpu.Quota = &quota
	}
}

// cpusetInForce refuses what version 2 takes in silence: where a parent group has none of the processors, or memory nodes, that
// are asked for, the kernel gives the parent's instead (Documentation/admin-guide/cgroup-v2.rst, cpuset.cpus.effective).
func (c *Cgroup) cpusetInForce(list []setting) error {
	for _, s := range list {
		file := s.files[0]
		if file != "cpuset.cpus" && file != "cpuset.mems" {
			continue
		}
		if numbers(s.value) == nil || !exists(filepath.Join(c.unified, file)) {
			continue // raw, such as the empty one that lifts the limit; or its absence was told, and allowed
		}
		if effective := readLine(c.unified, file+".effective"); !within(effective, s.value) {
			return &ValueError{Limit: s.limit, Value: text(s.value), Why: "a parent group allows " + effective + " only, and the kernel would take those instead"}
		}
	}
	return nil
}

// within says whether every number of a list such as "0-3,7" is in another one.
func within(list, all string) bool {
	a, b := numbers(list), numbers(all)
	return a != nil && b != nil && new(big.Int).AndNot(a, b).Sign() == 0
}

func numbers(list string) *big.Int {
	bits, err := systemd.RangeToBits(list)
	if err != nil {
		return nil
	}
	slices.Reverse(bits) // systemd's order is the other way round
	return new(big.Int).SetBytes(bits)
}
