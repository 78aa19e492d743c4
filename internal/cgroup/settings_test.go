package cgroup

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/internal/host"
)

// everything asks for nearly all that both versions can limit.
func everything() *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 30)), Swap: ptr(int64(3 << 30)), Reservation: ptr(int64(1 << 20))},
		CPU: &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Burst: ptr(uint64(1000)),
			Cpus: "0-1", Mems: "0", Idle: ptr(int64(0))},
		Pids: &specs.LinuxPids{Limit: ptr(int64(0))},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(500)),
			ThrottleReadBpsDevice:   []specs.LinuxThrottleDevice{throttled(8, 0, 1048576)},
			ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{throttled(8, 16, 0)}},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4194304}},
		Rdma:           map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: ptr(uint32(3))}},
	}
}

func throttled(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = major, minor
	return d
}

func written(list []setting) string {
	var b strings.Builder
	for _, s := range list {
		fmt.Fprintf(&b, "%s=%s\n", strings.Join(s.files, "|"), s.value)
	}
	return b.String()
}

func TestSettingsOfBothVersions(t *testing.T) {
	t.Parallel()
	v1, err := settingsV1(everything())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := written(v1), `memory.limit_in_bytes=1073741824
memory.memsw.limit_in_bytes=3221225472
memory.soft_limit_in_bytes=1048576
cpu.shares=512
cpu.cfs_period_us=100000
cpu.cfs_quota_us=50000
cpu.cfs_burst_us=1000
cpu.idle=0
cpuset.cpus=0-1
cpuset.mems=0
pids.max=1
blkio.weight|blkio.bfq.weight=500
blkio.throttle.read_bps_device=8:0 1048576
blkio.throttle.write_iops_device=8:16 0
hugetlb.2MB.limit_in_bytes=4194304
hugetlb.2MB.rsvd.limit_in_bytes=4194304
rdma.max=mlx5_1 hca_handle=3
`; got != want {
		t.Errorf("version 1:\n%s\nwant:\n%s", got, want)
	}
	r := everything()
	r.Unified = map[string]string{"memory.high": "max", "io.latency": "8:0 target=1\n8:16 target=2\n"}
	v2, err := settingsV2(r)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := written(v2), `memory.max=1073741824
memory.low=1048576
memory.swap.max=2147483648
cpu.weight=59
cpu.max=50000 100000
cpu.max.burst=1000
cpu.idle=0
cpuset.cpus=0-1
cpuset.mems=0
pids.max=1
io.bfq.weight|io.weight=500
io.max=8:0 rbps=1048576
io.max=8:16 wiops=max
hugetlb.2MB.max=4194304
hugetlb.2MB.rsvd.max=4194304
rdma.max=mlx5_1 hca_handle=3
io.latency=8:0 target=1
io.latency=8:16 target=2
memory.high=max
`; got != want {
		t.Errorf("version 2:\n%s\nwant:\n%s", got, want)
	}
}

func TestUnlimitedAndZeroSwap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit, swap *int64
		v1, v2      string
	}{
		{ptr(int64(-1)), nil, "memory.limit_in_bytes=-1\n", "memory.max=max\n"},
		{ptr(int64(100)), ptr(int64(100)), "memory.limit_in_bytes=100\nmemory.memsw.limit_in_bytes=100\n", "memory.max=100\nmemory.swap.max=0\n"},
		{ptr(int64(100)), ptr(int64(-1)), "memory.limit_in_bytes=100\nmemory.memsw.limit_in_bytes=-1\n", "memory.max=100\nmemory.swap.max=max\n"},
		{ptr(int64(100)), ptr(int64(0)), "memory.limit_in_bytes=100\n", "memory.max=100\n"},
	} {
		r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: c.limit, Swap: c.swap}}
		v1, err1 := settingsV1(r)
		v2, err2 := settingsV2(r)
		if err1 != nil || err2 != nil || written(v1) != c.v1 || written(v2) != c.v2 {
			t.Errorf("%v %v: %q %q %v %v", *c.limit, c.swap, written(v1), written(v2), err1, err2)
		}
	}
}

func TestSharesBecomeWeights(t *testing.T) {
	t.Parallel()
	for shares, want := range map[uint64]uint64{1: 1, 2: 1, 1024: 100, 262144: 10000, 999999: 10000, 512: 59} {
		if got := cpuWeight(shares); got != want {
			t.Errorf("cpuWeight(%d) = %d, want %d", shares, got, want)
		}
	}
}

func TestBadValues(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*specs.LinuxResources{
		"memory.limit":      {Memory: &specs.LinuxMemory{Limit: ptr(int64(-5))}},
		"memory.swap":       {Memory: &specs.LinuxMemory{Limit: ptr(int64(10)), Swap: ptr(int64(5))}},
		"memory.swap alone": {Memory: &specs.LinuxMemory{Swap: ptr(int64(5))}},
		"cpu.cpus":          {CPU: &specs.LinuxCPU{Cpus: "0\n1"}},
		"cpu.mems":          {CPU: &specs.LinuxCPU{Mems: "all"}},
		"blockIO.weight":    {BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(5))}},
		"hugepageLimits":    {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../../x"}}},
		"hugepage size":     {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "MB"}}},
	} {
		for version, compile := range map[string]func(*specs.LinuxResources) ([]setting, error){"v1": settingsV1, "v2": settingsV2} {
			_, err := compile(r)
			if name == "memory.swap alone" && version == "v1" {
				if err != nil { // the kernel knows the group's limit on memory
					t.Errorf("%s, %s: %v", name, version, err)
				}
				continue
			}
			var bad *ValueError
			if !errors.As(err, &bad) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s, %s: %v", name, version, err)
			}
		}
	}
	for _, key := range []string{"cgroup.procs", "../x", "memory", "a/b.c", "cgroup.freeze"} {
		if _, err := settingsV2(&specs.LinuxResources{Unified: map[string]string{key: "1"}}); err == nil {
			t.Errorf("unified %q was taken", key)
		}
	}
	for _, r := range []*specs.LinuxResources{
		{Memory: &specs.LinuxMemory{DisableOOMKiller: ptr(true)}},
		{CPU: &specs.LinuxCPU{RealtimeRuntime: ptr(int64(1))}},
		{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1))}},
	} {
		if _, err := settingsV2(r); err == nil {
			t.Errorf("%+v was taken by version 2", r)
		}
	}
	if _, err := settingsV1(&specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}}); err == nil {
		t.Error("version 2 settings were taken by version 1")
	}
}

// TestCrunsWords: its suite looks for these.
func TestCrunsWords(t *testing.T) {
	t.Parallel()
	_, err := settingsV2(&specs.LinuxResources{Unified: map[string]string{"NOT-A-VALID-KEY": "1"}})
	for _, c := range []struct {
		err  error
		want string
	}{
		{err, "the specified key has not the form CONTROLLER.VALUE `NOT-A-VALID-KEY`"},
		{&MissingError{Limit: "linux.resources.unified.foo.bar", Controller: "foo"}, "the requested cgroup controller `foo` is not available"},
		{&MissingError{Controller: "memory", File: "memory.DOESNTEXIST"}, "no memory.DOESNTEXIST: no such file or directory"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%v lacks %q", c.err, c.want)
		}
	}
}

func TestMissingControllerIsNamed(t *testing.T) {
	t.Parallel()
	tree := &host.CgroupTree{Unified: "/nonexistent", Controllers: []string{"memory"}}
	_, err := Create(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}}, Options{Path: "/x", Tree: tree})
	var missing *MissingError
	if !errors.As(err, &missing) || missing.Controller != "pids" || missing.Limit != "linux.resources.pids.limit" || missing.Remedy == "" {
		t.Errorf("%v", err)
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	tree := &host.CgroupTree{Unified: "/u"}
	for path, want := range map[string]string{"/a/../../b": "/b", "a/../../../b": "b", "/a//b/": "/a/b", "": "/brig/box"} {
		if path == "" {
			needRoot(t)
		}
		if got, err := innerPath(tree, Options{Path: path, ID: "box"}); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", path, got, err, want)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "a\n"} {
		if _, err := innerPath(tree, Options{ID: id}); err == nil {
			t.Errorf("id %q was taken", id)
		}
	}
	for _, path := range []string{"/", "/..", "."} {
		inner, err := innerPath(tree, Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := join("/u", "", inner); err == nil {
			t.Errorf("path %q became %s", path, got)
		}
	}
}
