package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"brig/internal/isolation/gvisor"
	"brig/internal/operator"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// changes are the flags of update. Each holds the text that was given; an empty one changes nothing, and zero is a value.
type changes map[string]*string

func (a *app) update(f *flag.FlagSet) func([]string) error {
	given := changes{}
	for _, name := range []struct{ flag, says string }{
		{"memory", "memory in bytes, or with a unit such as 50M; -1 for no limit"},
		{"memory-swap", "memory and swap together; -1 for no limit"},
		{"memory-reservation", "soft limit on memory"},
		{"kernel-memory", "taken for runc's sake: kernels have no such limit any more"},
		{"kernel-memory-tcp", "taken for runc's sake: kernels have no such limit any more"},
		{"cpu-quota", "microseconds of each period; -1 for no limit"},
		{"cpu-period", "period in microseconds"},
		{"cpu-burst", "microseconds that may be saved up"},
		{"cpu-share", "share of the processors"},
		{"cpu-idle", "1 to run only when nothing else would"},
		{"cpu-rt-period", "period of real-time scheduling in microseconds"},
		{"cpu-rt-runtime", "microseconds of each such period"},
		{"cpuset-cpus", "processors"},
		{"cpuset-mems", "memory nodes"},
		{"pids-limit", "processes; -1 for no limit"},
		{"blkio-weight", "share of disk time, 10 to 1000"},
		{"l3-cache-schema", "schema of Intel RDT's cache allocation"},
		{"mem-bw-schema", "schema of Intel RDT's bandwidth allocation"},
	} {
		given[name.flag] = f.String(name.flag, "", name.says)
	}
	resources := f.String("resources", "", "file of resources in JSON; - for standard input, and the other flags are ignored")
	f.StringVar(resources, "r", "", "short for --resources")
	return func(args []string) error {
		c, err := a.open(args[0])
		if err != nil {
			return err
		}
		var r *specs.LinuxResources
		if *resources != "" {
			r, err = a.readResources(*resources)
		} else {
			r, err = given.resources()
		}
		if err != nil {
			return err
		}
		if err := given.checkIntelRDT(); err != nil {
			return err
		}
		if m := r.Memory; m != nil && (m.Kernel != nil || m.KernelTCP != nil) { //nolint:staticcheck // old callers have them
			a.warnf("Kernel memory settings are ignored and will be removed")
			m.Kernel, m.KernelTCP = nil, nil //nolint:staticcheck // as above
		}
		r.Devices = nil // runc's update changes none
		policy, err := operator.Load()
		if err != nil {
			return err
		}
		policy.TightenResources(r, false)
		if c.Pod != "" {
			return a.updateMember(c, r)
		}
		g := c.group()
		if g == nil {
			return fmt.Errorf("container %s has no cgroup", c.id)
		}
		if c.onGVisor() && r.Pids != nil {
			spec, err := c.spec()
			if err != nil {
				return err
			}
			if err := gvisor.CheckUpdate(spec.Linux.Resources, r); err != nil {
				return err
			}
			r.Pids = nil
		}
		return g.Update(r)
	}
}

// checkIntelRDT refuses what this machine lacks; runc's words.
func (c changes) checkIntelRDT() error {
	switch _, err := os.Stat("/sys/fs/resctrl/info"); {
	case *c["l3-cache-schema"] != "" && err != nil:
		return errors.New("Intel RDT/CAT: l3 cache schema is not enabled") //nolint:staticcheck // runc's words
	case *c["mem-bw-schema"] != "" && err != nil:
		return errors.New("Intel RDT/MBA: memory bandwidth schema is not enabled") //nolint:staticcheck // runc's words
	case *c["l3-cache-schema"]+*c["mem-bw-schema"] != "":
		return errors.New("updating a non-existent Intel RDT configuration is not supported") // no container has one yet
	}
	return nil
}

// resources reads the flags.
func (c changes) resources() (*specs.LinuxResources, error) {
	var m specs.LinuxMemory
	var p specs.LinuxCPU
	var pids specs.LinuxPids
	var b specs.LinuxBlockIO
	p.Cpus, p.Mems = *c["cpuset-cpus"], *c["cpuset-mems"]
	var err error
	for _, f := range []struct {
		flag string
		read func(text string) error
	}{
		{"memory", into(&m.Limit, size)}, {"memory-swap", into(&m.Swap, size)}, {"memory-reservation", into(&m.Reservation, size)},
		{"kernel-memory", into(&m.Kernel, size)}, {"kernel-memory-tcp", into(&m.KernelTCP, size)}, //nolint:staticcheck // to warn of them
		{"cpu-quota", into(&p.Quota, signed)}, {"cpu-rt-runtime", into(&p.RealtimeRuntime, signed)}, {"cpu-idle", into(&p.Idle, signed)},
		{"cpu-period", into(&p.Period, unsigned)}, {"cpu-burst", into(&p.Burst, unsigned)}, {"cpu-share", into(&p.Shares, unsigned)},
		{"cpu-rt-period", into(&p.RealtimePeriod, unsigned)},
		{"pids-limit", into(&pids.Limit, signed)}, {"blkio-weight", into(&b.Weight, weight)},
	} {
		if text := *c[f.flag]; text != "" && err == nil {
			if err = f.read(text); err != nil {
				err = fmt.Errorf("invalid value for %s: %w", f.flag, err)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	r := &specs.LinuxResources{}
	if m != (specs.LinuxMemory{}) {
		r.Memory = &m
	}
	if p != (specs.LinuxCPU{}) {
		r.CPU = &p
	}
	if pids.Limit != nil {
		r.Pids = &pids
	}
	if b.Weight != nil {
		r.BlockIO = &b
	}
	return r, nil
}

// into gives what reads a text into a field of the spec.
func into[T any](field **T, read func(string) (T, error)) func(string) error {
	return func(text string) error {
		v, err := read(text)
		*field = &v
		return err
	}
}

func signed(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, plainNumber(err)
}

func unsigned(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	return n, plainNumber(err)
}

func weight(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), plainNumber(err)
}

// size is a number of bytes, with the units that docker's flags have (KiB and its like without the "iB"), or -1.
func size(text string) (int64, error) {
	if text == "-1" {
		return -1, nil
	}
	number := strings.TrimRight(text, "bBiIkKmMgGtTpP")
	unit := strings.ToLower(strings.TrimSpace(text[len(number):]))
	shift := strings.IndexByte("bkmgtp", append([]byte(unit), 'b')[0])
	switch rest := strings.TrimPrefix(unit, unit[:min(1, len(unit))]); {
	case shift < 0 || rest != "" && rest != "b" && rest != "ib", unit == "bb" || unit == "bib":
		return 0, fmt.Errorf("invalid size: '%s'", text)
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || math.IsNaN(n) || n < 0 || n*float64(uint64(1)<<(10*shift)) > math.MaxInt64 {
		return 0, fmt.Errorf("invalid size: '%s'", text)
	}
	return int64(n * float64(uint64(1)<<(10*shift))), nil
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
		err = placed(text.Bytes(), json.Unmarshal(text.Bytes(), &r))
	}
	if err != nil {
		return nil, fmt.Errorf("--resources %s: %w", name, err)
	}
	return &r, nil
}
