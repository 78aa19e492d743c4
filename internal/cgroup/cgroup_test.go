package cgroup

import (
	"context"
	"fmt"
	"os"
	"testing"

	"brig/internal/host"
	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func needRoot(t testing.TB) {
	t.Helper()
	testenv.Check(t, testenv.Root)
}

func ptr[T any](v T) *T { return &v }

func defaults() *specs.LinuxResources {
	return &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"},
			{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3)), Access: "rw"},
			{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(5)), Access: "rw"}},
		Memory: &specs.LinuxMemory{Limit: ptr(int64(512 << 20)), Swap: ptr(int64(512 << 20))},
		CPU:    &specs.LinuxCPU{Quota: ptr(int64(150000)), Period: ptr(uint64(100000))},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(64))},
	}
}

// made gives a group that is removed when the test ends.
func made(t testing.TB, name string, r *specs.LinuxResources) *Cgroup {
	t.Helper()
	needRoot(t)
	c, err := Create(r, Options{Path: fmt.Sprintf("/brig-test/%s-%d", name, os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestLimitsAreInForce(t *testing.T) {
	t.Parallel()
	c := made(t, "limits", defaults())
	l, err := c.Effective()
	if err != nil {
		t.Fatal(err)
	}
	if l.MemoryBytes == nil || *l.MemoryBytes != 512<<20 || l.Pids == nil || *l.Pids != 64 || l.CPUs == nil || *l.CPUs != 1.5 {
		t.Errorf("in force: %+v", l)
	}
	if l.SwapCounted && (l.SwapBytes == nil || *l.SwapBytes != 0) {
		t.Errorf("swap in force: %v", l.SwapBytes)
	}
	if l.Version != "v2" && fmt.Sprint(l.Devices) != "[c 1:3 rw c 1:5 rw]" {
		t.Errorf("devices in force: %v", l.Devices)
	}
}

func TestAttachFreezeKillDelete(t *testing.T) {
	t.Parallel()
	c := made(t, "life", defaults())
	cmd := start(t, c, "echo ready; exec sleep 1000")
	for _, dir := range c.folders() {
		if procs, _ := readFields(dir + "/cgroup.procs"); len(procs) != 1 || procs[0] != fmt.Sprint(cmd.Process.Pid) {
			t.Errorf("%s has %v, want %d", dir, procs, cmd.Process.Pid)
		}
	}
	ctx := context.Background()
	again := Open(c.Paths())
	if err := again.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if frozen, err := again.Frozen(); !frozen || err != nil {
		t.Errorf("frozen: %v, %v", frozen, err)
	}
	if err := again.Thaw(ctx); err != nil {
		t.Fatal(err)
	}
	s, err := again.Stats()
	if err != nil || s.Pids.Current != 1 || s.Memory.Current == 0 {
		t.Errorf("stats %+v, %v", s, err)
	}
	if err := again.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	// Delete must wait for the process's end by itself; nobody has reaped it yet.
	go cmd.Wait()
	if err := again.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	for _, dir := range c.folders() {
		if exists(dir) {
			t.Errorf("%s is left", dir)
		}
	}
}

func BenchmarkCreateAttachDelete(b *testing.B) {
	needRoot(b)
	tree, err := host.Cgroups()
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		c, err := Create(defaults(), Options{Path: fmt.Sprintf("/brig-test/bench-%d-%d", os.Getpid(), i), Tree: tree})
		if err != nil {
			b.Fatal(err)
		}
		into, tasks, err := c.Attach()
		if err != nil {
			b.Fatal(err)
		}
		closeAll(append(tasks, into))
		if err := c.Delete(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

func TestMain(m *testing.M) {
	code := m.Run()
	if tree, err := host.Cgroups(); err == nil { // the shared parent, when no other run uses it
		for _, mount := range tree.Legacy {
			os.Remove(mount + "/brig-test")
		}
		os.Remove(tree.Unified + "/brig-test")
	}
	os.Exit(code)
}
