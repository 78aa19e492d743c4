package cgroup

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/internal/host"
	"brig/internal/testenv"
)

// start runs a shell script in the group, placed as a launch places its child, and returns after the script's first
// line of output.
func start(t *testing.T, c *Cgroup, script string) *exec.Cmd {
	t.Helper()
	into, tasks, err := c.Attach()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(append(tasks, into))
	cmd := exec.Command("/bin/sh", "-c", "for fd in $FDS; do echo 0 >&$fd; done; "+script)
	fds := ""
	for i, f := range tasks {
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		fds += fmt.Sprint(" ", 3+i)
	}
	cmd.Env = []string{"FDS=" + fds, "PATH=/usr/bin:/bin"}
	if into != nil {
		cmd.SysProcAttr = sysProcAttr(into)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout = w
	held, hold, err := os.Pipe() // a read of it waits: `read x` in a script stays until it is killed
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = held
	t.Cleanup(func() { _ = held.Close(); _ = hold.Close() })
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := r.Read(make([]byte, 16)); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return cmd
}

func TestOutOfMemoryIsCounted(t *testing.T) {
	t.Parallel()
	c := made(t, "oom", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 << 20)), Swap: ptr(int64(16 << 20))}})
	cmd := start(t, c, "echo ready; exec tail /dev/zero")
	err := cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Errorf("the hog ended with %v", err)
	}
	if n, err := c.OOMKills(); n == 0 || err != nil {
		t.Errorf("OOMKills = %d, %v", n, err)
	}
	s, err := c.Stats()
	if err != nil || s.Memory.OOMKills == 0 || s.Memory.Limit == nil || *s.Memory.Limit != 16<<20 || s.CPU.UsageUsec == 0 {
		t.Errorf("stats %+v, %v", s, err)
	}
}

func TestPidsLimitHoldsAForkBombAndKillEndsIt(t *testing.T) {
	t.Parallel()
	for name, tree := range trees(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			needRoot(t)
			c, err := Create(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(40))}},
				Options{Path: fmt.Sprintf("/brig-test/bomb-%s-%d", name, os.Getpid()), Tree: tree})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := c.Delete(context.Background()); err != nil {
					t.Error(err)
				}
			})
			// Each copy starts two more and waits; those that cannot fork go on trying.
			cmd := start(t, c, `trap '' TERM; echo ready; bomb() { while :; do bomb & bomb & wait; done; }; exec 2>/dev/null; bomb`)
			if err := c.Kill(context.Background()); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if err := c.Delete(context.Background()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// trees are the machine's, and on a hybrid machine the same without version 2, which is what older systems have.
func trees(t *testing.T) map[string]*host.CgroupTree {
	tree, err := host.Cgroups()
	if err != nil {
		testenv.Check(t, testenv.Need{Name: "cgroups", Missing: func() string { return err.Error() }})
	}
	all := map[string]*host.CgroupTree{tree.Mode(): tree}
	if tree.Mode() == "hybrid" {
		all["v1"] = &host.CgroupTree{Legacy: tree.Legacy}
	}
	return all
}

func TestFreezeOnEveryKindOfTree(t *testing.T) {
	t.Parallel()
	for name, tree := range trees(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			needRoot(t)
			c, err := Create(nil, Options{Path: fmt.Sprintf("/brig-test/freeze-%s-%d", name, os.Getpid()), Tree: tree})
			if err != nil {
				t.Fatal(err)
			}
			ctx := context.Background()
			cmd := start(t, c, "echo ready; while :; do :; done")
			if err := c.Freeze(ctx); err != nil {
				t.Fatal(err)
			}
			if l, err := c.Effective(); err != nil || !l.Frozen {
				t.Errorf("Effective: %+v, %v", l, err)
			}
			before, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
			if frozen, err := c.Frozen(); !frozen || err != nil {
				t.Errorf("Frozen = %v, %v (%s)", frozen, err, before)
			}
			// A frozen group must die, too: a paused sandbox is removed by force.
			if err := c.Kill(ctx); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if err := c.Delete(ctx); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	c := made(t, "update", defaults())
	for _, mb := range []int64{1024, 64, 256} {
		r := &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: ptr(mb << 20), Swap: ptr(mb << 20)}, Pids: &specs.LinuxPids{Limit: ptr(mb)},
			Devices: []specs.LinuxDeviceCgroup{dev(false, "a", -1, -1, "rwm"), dev(true, "c", 1, 3, "rw")},
		}
		if err := c.Update(r); err != nil {
			t.Fatal(err)
		}
		l, err := c.Effective()
		if err != nil || *l.MemoryBytes != uint64(mb<<20) || *l.Pids != uint64(mb) || l.SwapCounted && *l.SwapBytes != 0 {
			t.Errorf("%d MiB: %+v, %v", mb, l, err)
		}
		if l.Version != "v2" && fmt.Sprint(l.Devices) != "[c 1:3 rw]" {
			t.Errorf("devices: %v", l.Devices)
		}
	}
	if c.dir("blkio") == "" {
		err := c.Update(&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(100))}})
		if err == nil || !strings.Contains(err.Error(), "blkio") {
			t.Errorf("a controller that the group was made without: %v", err)
		}
	}
}

func TestMemoryUpdateBelowUseIsRefusedWhenAsked(t *testing.T) {
	t.Parallel()
	c := made(t, "below", defaults())
	cmd := start(t, c, "echo ready; read x")
	defer func() { _ = c.Kill(context.Background()); _ = cmd.Wait() }()
	err := c.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(4096)), Swap: ptr(int64(4096)), CheckBeforeUpdate: ptr(true)}})
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Update = %v", err)
	}
}

func TestDeleteTakesInnerGroupsAndForgivesAbsence(t *testing.T) {
	t.Parallel()
	c := made(t, "inner", defaults())
	for _, dir := range c.folders() {
		for _, inner := range []string{"a", "a/b", "c"} {
			if err := os.Mkdir(filepath.Join(dir, inner), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		if err := c.Delete(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Stats(); !os.IsNotExist(err) {
		t.Errorf("Stats of a group that is gone: %v", err)
	}
	if pids, err := c.Pids(); len(pids) != 0 || err != nil {
		t.Errorf("Pids of a group that is gone: %v, %v", pids, err)
	}
	if err := c.Kill(context.Background()); err != nil {
		t.Errorf("Kill of a group that is gone: %v", err)
	}
}

func TestDeleteGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	c := made(t, "busy", nil)
	cmd := start(t, c, "echo ready; read x")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Delete(ctx); err == nil || !strings.Contains(err.Error(), "processes are left") {
		t.Errorf("Delete = %v", err)
	}
	if err := c.Kill(context.Background()); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

func TestAFailedCreateLeavesNothing(t *testing.T) {
	t.Parallel()
	needRoot(t)
	path := fmt.Sprintf("/brig-test/fails-%d", os.Getpid())
	_, err := Create(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "100000"}}, Options{Path: path})
	if err == nil || !strings.Contains(err.Error(), "cpu.cpus") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Create = %v", err)
	}
	found, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	if len(found) > 0 || exists("/sys/fs/cgroup"+path) {
		t.Errorf("left: %v", found)
	}
}

func TestCpusetOnVersion1LetsProcessesIn(t *testing.T) {
	t.Parallel()
	c := made(t, "cpuset", &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}})
	cmd := start(t, c, "echo ready; read x")
	defer func() { _ = c.Kill(context.Background()); _ = cmd.Wait() }()
	l, err := c.Effective()
	if err != nil || l.CPUSet != "0" || l.MemSet == "" {
		t.Errorf("%+v, %v", l, err)
	}
}
