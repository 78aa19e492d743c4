//go:build vm

package cgroup

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func ptr[T any](v T) *T { return &v }

// limit is one line of a policy or a bundle, and how it is known to hold.
type limit struct {
	name   string
	flags  []string // with access empty, too: a policy has no word for it
	set    func(*specs.LinuxResources)
	access string            // to the disk
	files  map[string]string // what the group's files must say; DISK is the device's numbers
	probe  []string
	// stopped says whether the probe was held. It must be with the limit, and must not be without.
	stopped func(result) bool
	// how is what happens to the probe, for the table of layers.
	how string
	// waits: the probe takes time and no processor, so that others may run beside it.
	waits bool
}

func killed(r result) bool { return r.code == 137 }

// limits are ordered: what needs the disk as a disk comes before what swaps to it.
var limits = []limit{
	{
		name: "memory.max", flags: []string{"-m", "32m"},
		set: func(r *specs.LinuxResources) {
			r.Memory = &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))}
		},
		files: map[string]string{"memory.max": "33554432", "memory.swap.max": "0", "memory.oom.group": "1"},
		probe: []string{"eat", "96"}, stopped: killed,
		how: "a program that takes 96 MiB of 32 is ended",
	}, {
		name: "memory.oom.group", flags: []string{"-m", "32m"},
		set: func(r *specs.LinuxResources) {
			r.Memory = &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))}
		},
		files: map[string]string{"memory.oom.group": "1"},
		probe: []string{"eatchild", "96"}, stopped: killed,
		how: "a child that takes too much ends its parent, too",
	}, {
		name:  "memory.high",
		set:   func(r *specs.LinuxResources) { r.Unified = map[string]string{"memory.high": "16777216"} },
		files: map[string]string{"memory.high": "16777216", "memory.max": "max"},
		probe: []string{"eatslowly", "96", "2"}, stopped: func(r result) bool { return r.number("ate") < 96 },
		how: "a program that takes 96 MiB with a high mark of 16 is slowed down", waits: true,
	}, {
		name: "cpu.max", flags: []string{"--cpus", "0.2"},
		set: func(r *specs.LinuxResources) {
			r.CPU = &specs.LinuxCPU{Quota: ptr(int64(20000)), Period: ptr(uint64(100000))}
		},
		files: map[string]string{"cpu.max": "20000 100000"},
		probe: []string{"spin", "2000"}, stopped: func(r result) bool { return r.number("ran") < 900 },
		how: "a program that spins has a fifth of a processor",
	}, {
		name: "pids.max", flags: []string{"--pids-limit", "24"},
		set:   func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: ptr(int64(24))} },
		files: map[string]string{"pids.max": "24"},
		probe: []string{"fork", "60"}, stopped: func(r result) bool { return r.number("forked") < 24 },
		how: "the 24th process is not made",
	}, {
		name: "cpuset.cpus", flags: []string{"--cpuset-cpus", "1"},
		set:   func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Cpus: "1", Mems: "0"} },
		files: map[string]string{"cpuset.cpus": "1", "cpuset.cpus.effective": "1"},
		probe: []string{"cpus"}, stopped: func(r result) bool { return r.said == "cpus 1" },
		how: "the program has one processor of two",
	}, {
		name: "devices", access: "r",
		probe: []string{"open", "/dev/disk"}, stopped: func(r result) bool { return r.said == "refused" },
		how: "a disk allowed for reading is not opened for writing (eBPF)",
	}, {
		name: "io.max read bytes", flags: []string{"--device-read-bps", "DISKFILE:1mb"},
		set:   blockIO(func(b *specs.LinuxBlockIO) { b.ThrottleReadBpsDevice = throttled(1 << 20) }),
		files: map[string]string{"io.max": "DISK rbps=1048576 wbps=max riops=max wiops=max"},
		probe: []string{"read", "/dev/disk", "40", "64"}, stopped: slow,
		how: "2.5 MiB at 1 MiB a second take more than 1.5 s", waits: true,
	}, {
		name: "io.max write bytes", flags: []string{"--device-write-bps", "DISKFILE:1mb"},
		set:   blockIO(func(b *specs.LinuxBlockIO) { b.ThrottleWriteBpsDevice = throttled(1 << 20) }),
		files: map[string]string{"io.max": "DISK rbps=max wbps=1048576 riops=max wiops=max"},
		probe: []string{"write", "/dev/disk", "40", "64"}, stopped: slow,
		how: "2.5 MiB at 1 MiB a second take more than 1.5 s", waits: true,
	}, {
		name: "io.max reads", flags: []string{"--device-read-iops", "DISKFILE:20"},
		set:   blockIO(func(b *specs.LinuxBlockIO) { b.ThrottleReadIOPSDevice = throttled(20) }),
		files: map[string]string{"io.max": "DISK rbps=max wbps=max riops=20 wiops=max"},
		probe: []string{"read", "/dev/disk", "50", "4"}, stopped: slow,
		how: "50 reads at 20 a second take more than 1.5 s", waits: true,
	}, {
		name: "io.max writes", flags: []string{"--device-write-iops", "DISKFILE:20"},
		set:   blockIO(func(b *specs.LinuxBlockIO) { b.ThrottleWriteIOPSDevice = throttled(20) }),
		files: map[string]string{"io.max": "DISK rbps=max wbps=max riops=max wiops=20"},
		probe: []string{"write", "/dev/disk", "50", "4"}, stopped: slow,
		how: "50 writes at 20 a second take more than 1.5 s", waits: true,
	}, {
		name: "hugetlb",
		set: func(r *specs.LinuxResources) {
			r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 2 << 20}}
		},
		files: map[string]string{"hugetlb.2MB.max": "2097152", "hugetlb.2MB.rsvd.max": "2097152"},
		probe: []string{"huge", "2"}, stopped: func(r result) bool { return r.said == "refused" },
		how: "the second huge page is not had",
	},
}

func blockIO(set func(*specs.LinuxBlockIO)) func(*specs.LinuxResources) {
	return func(r *specs.LinuxResources) {
		r.BlockIO = &specs.LinuxBlockIO{}
		set(r.BlockIO)
	}
}

func throttled(rate uint64) []specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = bench.major, bench.minor
	return []specs.LinuxThrottleDevice{d}
}

// slow is far from what the disk can do, and below what the limit lets through.
func slow(r result) bool { return r.number("took") >= 1500 }

// TestLimits sets each limit in each way, reads it back, and has a program run into it.
func TestLimits(t *testing.T) {
	needHugePages(t)
	for _, l := range limits {
		t.Run(l.name, func(t *testing.T) {
			if l.waits {
				t.Parallel()
			}
			l.by(t, "cgroup "+l.name, drivers())
		})
	}
}

// by has each driver hold the limit, and tells of the layer when all have.
func (l limit) by(t *testing.T, layer string, list []driver) {
	var ways []string
	for _, d := range list {
		if d.policy && l.flags == nil && l.access == "" {
			continue
		}
		ways = append(ways, d.name)
		t.Run(d.name, func(t *testing.T) {
			if l.waits {
				t.Parallel()
			}
			l.hold(t, d)
		})
	}
	t.Cleanup(func() { testenv.Layer(t, layer, testenv.Enforced, l.how+"; set by "+strings.Join(ways, ", ")) })
}

func (l limit) hold(t *testing.T, d driver) {
	b := d.probe(t, l.ask(), l.probe...)
	for file, want := range l.files {
		want = strings.ReplaceAll(want, "DISK", fmt.Sprintf("%d:%d", bench.major, bench.minor))
		if got := b.file(file); got != want {
			t.Errorf("%s says %q, want %q", file, got, want)
		}
	}
	if r := b.finish(); !l.stopped(r) {
		t.Errorf("the limit does not hold: code %d, %q, %s", r.code, r.said, r.errs)
	}
	free := d.probe(t, ask{}, l.probe...)
	if r := free.finish(); l.stopped(r) || r.code != 0 {
		t.Errorf("control: without the limit the same program is stopped: code %d, %q, %s", r.code, r.said, r.errs)
	}
}

// ask has the limit.
func (l limit) ask() ask {
	flags := slices.Clone(l.flags)
	for i := range flags {
		flags[i] = strings.ReplaceAll(flags[i], "DISKFILE", bench.disk)
	}
	return ask{flags: flags, set: l.set, access: l.access}
}

// needHugePages sets some aside.
func needHugePages(t *testing.T) {
	t.Helper()
	const file = "/proc/sys/vm/nr_hugepages"
	if err := os.WriteFile(file, []byte("8"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(file, []byte("0"), 0) })
}
