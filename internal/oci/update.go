package oci

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"brig/internal/operator"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func (a *app) update(f *flag.FlagSet) func([]string) error {
	var resources string
	var memory, swap, reservation, quota, pids int64
	var period, shares uint64
	var weight int
	var cpus, mems string
	f.StringVar(&resources, "resources", "", "file of resources in JSON; - for standard input")
	f.StringVar(&resources, "r", "", "short for --resources")
	f.Int64Var(&memory, "memory", 0, "memory in bytes")
	f.Int64Var(&swap, "memory-swap", 0, "memory and swap in bytes; -1 for no limit")
	f.Int64Var(&reservation, "memory-reservation", 0, "soft limit on memory in bytes")
	f.Int64Var(&quota, "cpu-quota", 0, "microseconds of each period")
	f.Uint64Var(&period, "cpu-period", 0, "period in microseconds")
	f.Uint64Var(&shares, "cpu-share", 0, "share of the processors")
	f.StringVar(&cpus, "cpuset-cpus", "", "processors")
	f.StringVar(&mems, "cpuset-mems", "", "memory nodes")
	f.Int64Var(&pids, "pids-limit", 0, "processes; -1 for no limit")
	f.IntVar(&weight, "blkio-weight", 0, "share of disk time")
	return func(args []string) error {
		id := args[0]
		c, err := a.open(id)
		if err != nil {
			return err
		}
		r := &specs.LinuxResources{}
		if resources != "" {
			if r, err = a.readResources(resources); err != nil {
				return err
			}
		} else {
			if memory != 0 || swap != 0 || reservation != 0 {
				r.Memory = &specs.LinuxMemory{Limit: set(memory), Swap: set(swap), Reservation: set(reservation)}
			}
			if quota != 0 || period != 0 || shares != 0 || cpus != "" || mems != "" {
				r.CPU = &specs.LinuxCPU{Quota: set(quota), Period: set(period), Shares: set(shares), Cpus: cpus, Mems: mems}
			}
			if pids != 0 {
				r.Pids = &specs.LinuxPids{Limit: &pids}
			}
			if weight != 0 {
				w := uint16(weight) //nolint:gosec // the kernel judges it
				r.BlockIO = &specs.LinuxBlockIO{Weight: &w}
			}
		}
		r.Devices = nil // runc's update changes none
		g := c.group()
		if g == nil {
			return fmt.Errorf("container %s has no cgroup", id)
		}
		policy, err := operator.Load()
		if err != nil {
			return err
		}
		policy.TightenResources(r, false)
		return g.Update(r)
	}
}

func set[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func (a *app) readResources(name string) (*specs.LinuxResources, error) {
	var text bytes.Buffer
	var err error
	if name == "-" {
		_, err = text.ReadFrom(a.in)
	} else {
		var data []byte
		data, err = os.ReadFile(name)
		text.Write(data)
	}
	var r specs.LinuxResources
	if err == nil {
		err = json.Unmarshal(text.Bytes(), &r)
	}
	if err != nil {
		return nil, fmt.Errorf("--resources %s: %w", name, err)
	}
	return &r, nil
}
