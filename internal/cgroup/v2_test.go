package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"brig/internal/host"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fake is a version 2 group of plain files.
func fake(t *testing.T, files map[string]string) *Cgroup {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Cgroup{unified: dir}
}

func TestUpdateKeepsWhatSharesAFile(t *testing.T) {
	t.Parallel()
	c := fake(t, map[string]string{"cpu.max": "20000 100000\n", "memory.max": "1000\n"})
	for _, step := range []struct {
		r    *specs.LinuxResources
		want string
	}{
		{&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr(uint64(50000))}}, "cpu.max=20000 50000\n"},
		{&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(-1)), Period: ptr(uint64(50000))}}, "cpu.max=max 50000\n"},
		{&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(3000))}}, "cpu.max=3000 100000\n"},
		{&specs.LinuxResources{CPU: &specs.LinuxCPU{Burst: ptr(uint64(0))}}, "cpu.max.burst=0\n"},
		{&specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(int64(1500))}}, "memory.max=1000\nmemory.swap.max=500\n"},
		{&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1200)), Swap: ptr(int64(1500))}}, "memory.max=1200\nmemory.swap.max=300\n"},
	} {
		list, err := settingsV2(c.completeV2(step.r))
		if got := written(list); err != nil || got != step.want {
			t.Errorf("%q, %v; want %q", got, err, step.want)
		}
	}
}

func TestCpusetThatTheParentLacksIsRefused(t *testing.T) {
	t.Parallel()
	c := fake(t, map[string]string{"cpuset.cpus": "", "cpuset.cpus.effective": "0\n", "cpuset.mems": "", "cpuset.mems.effective": "0\n"})
	for asked, ok := range map[string]bool{"0": true, "0-1": true, "1": false, "1-3,7": false, "": true} {
		err := c.cpusetInForce([]setting{{controller: "cpuset", files: []string{"cpuset.cpus"}, value: asked, limit: "linux.resources.cpu.cpus"}})
		var bad *ValueError
		if (err == nil) != ok || err != nil && !errors.As(err, &bad) {
			t.Errorf("%q: %v", asked, err)
		}
	}
}

func TestListsOfNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		list, all string
		want      bool
	}{{"0-3", "0-3", true}, {"8-9", "0-15", true}, {"0-15", "8-9", false}, {"16", "0,16", true}, {"x", "0", false}} {
		if got := within(c.list, c.all); got != c.want {
			t.Errorf("%q within %q: %v", c.list, c.all, got)
		}
	}
}

// A relative path is beside the caller's own group, never in it and never the mount itself.
func TestRelativePathOnVersion2(t *testing.T) {
	t.Parallel()
	own, err := host.OwnCgroups()
	if err != nil {
		t.Fatal(err)
	}
	want := filepath.Join("/u", filepath.Dir(filepath.Clean("/"+own[""])), "a/b")
	if got, err := joinV2("/u", "a/b"); err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if got, err := joinV2("/u", "/a"); err != nil || got != "/u/a" {
		t.Errorf("%q, %v", got, err)
	}
	for _, inner := range []string{"", "/"} {
		if got, err := joinV2("/u", inner); err == nil {
			t.Errorf("%q became %s", inner, got)
		}
	}
}

func TestMemoryEventsAndPressure(t *testing.T) {
	t.Parallel()
	const stalled = "some avg10=1.50 avg60=0.20 avg300=0.01 total=42\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n"
	c := fake(t, map[string]string{
		"memory.events": "low 0\nhigh 3\nmax 4\noom 2\noom_kill 5\noom_group_kill 1\n", "memory.pressure": stalled, "cpu.pressure": stalled, "io.pressure": stalled,
	})
	s, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Memory; m.LimitHits != 4 || m.OOMKills != 5 || m.Events["high"] != 3 || m.Events["oom_group_kill"] != 1 {
		t.Errorf("%+v", m)
	}
	if p := s.Pressure; p == nil || p.Memory.SomeAvg10 != 1.5 || p.IO.FullTotal != 7 || p.CPU.SomeTotal != 42 {
		t.Errorf("%+v", p)
	}
	if (&Cgroup{unified: t.TempDir()}).pressures() != nil {
		t.Error("pressure of a kernel without it")
	}
}
