package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The tests here set a field of the spec and read back from the kernel what came of it.

// script has the container run a shell script.
func (e *engine) script(text string) {
	e.spec.Process.Args = []string{"sh", "-c", text}
	e.write()
}

// tool makes a further applet of busybox available inside.
func (e *engine) tool(names ...string) {
	e.t.Helper()
	for _, name := range names {
		if err := os.Symlink("busybox", filepath.Join(e.bundle, "rootfs/bin", name)); err != nil && !errors.Is(err, fs.ErrExist) {
			e.t.Fatal(err)
		}
	}
}

// namespace adds a namespace to the spec.
func (e *engine) namespace(kind specs.LinuxNamespaceType) {
	e.spec.Linux.Namespaces = append(e.spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
}

// stat reads a field of the process's own /proc/self/stat (proc_pid_stat(5)).
func statField(n int) string {
	return fmt.Sprintf("sed 's/.*) //' /proc/$$/stat | cut -d' ' -f%d", n-2)
}

func TestScheduler(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		s    specs.Scheduler
		want string // policy, realtime priority and nice, of stat
	}{
		{"batch", specs.Scheduler{Policy: specs.SchedBatch, Nice: 7}, "3 0 7"},
		{"idle", specs.Scheduler{Policy: specs.SchedIdle}, "5 0 0"},
		{"other", specs.Scheduler{Policy: specs.SchedOther, Nice: -3}, "0 0 -3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t)
			e.tool("sed", "cut")
			e.spec.Process.Scheduler = &c.s
			e.script("echo $(" + statField(41) + ") $(" + statField(40) + ") $(" + statField(19) + ")")
			if differs(t) {
				c.want = "0 0 0"
			}
			e.want(0, c.want+"\n", "run", "--bundle", e.bundle, "sched-"+c.name)
		})
	}
	// With a deadline a process may not fork, but for one that starts anew in the child.
	e := newEngine(t)
	e.tool("sed", "cut")
	e.spec.Process.Scheduler = &specs.Scheduler{
		Policy: specs.SchedDeadline, Runtime: 10_000_000, Deadline: 100_000_000, Period: 100_000_000, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork},
	}
	e.script("echo $(" + statField(41) + "); cat /proc/$$/sched")
	if differs(t) {
		e.want(1, "0\n", "run", "--bundle", e.bundle, "deadline")
	} else {
		e.want(0, "6\n", "run", "--bundle", e.bundle, "deadline")
	}
	e.spec.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_FAIR"}
	e.write()
	e.want(1, "process.scheduler: invalid scheduler policy: SCHED_FAIR", "run", "--bundle", e.bundle, "deadline")
}

// TestExecInheritsTheScheduler: exec takes it from config.json, or from the process it is given.
func TestExecInheritsTheScheduler(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("sed", "cut")
	e.spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch}
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.want(0, "", "create", "--bundle", e.bundle, "batch")
	t.Cleanup(func() { e.call("delete", "--force", "batch") })
	e.want(0, "3\n", "exec", "batch", "sh", "-c", statField(41))
}

func TestMemoryPolicy(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("head", "cut")
	e.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
	e.script("head -n1 /proc/self/numa_maps | cut -d' ' -f2")
	policy := "bind=static:0\n"
	if differs(t) {
		policy = "/proc/self/numa_maps: No such file"
	}
	e.want(0, policy, "run", "--bundle", e.bundle, "numa")
	e.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind}
	e.write()
	e.want(1, "take memory by the policy MPOL_BIND", "run", "--bundle", e.bundle, "numa")
}

func TestIOPriority(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("ionice")
	e.spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
	e.script("ionice -p $$")
	priority := "best-effort: prio 6\n"
	if differs(t) {
		priority = "none: prio 0\n"
	}
	e.want(0, priority, "run", "--bundle", e.bundle, "io")
}

// TestExecCPUAffinity: the initial CPUs hold until the process is in its cgroup, the final ones from then on; the first
// process of a container is not touched.
func TestExecCPUAffinity(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("grep")
	e.spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "1"}
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.want(0, "", "create", "--bundle", e.bundle, "affine")
	t.Cleanup(func() { e.call("delete", "--force", "affine") })
	e.want(0, "Cpus_allowed_list:\t1\n", "exec", "affine", "grep", "Cpus_allowed_list", "/proc/self/status")
	out := e.want(0, "", "exec", "affine", "grep", "Cpus_allowed_list", "/proc/1/status")
	if out == "Cpus_allowed_list:\t1\n" || out == "Cpus_allowed_list:\t0\n" {
		t.Errorf("the first process has %q", out)
	}
	process := filepath.Join(t.TempDir(), "process.json")
	text := `{"args":["grep","Cpus_allowed_list","/proc/self/status"],"cwd":"/","env":["PATH=/bin"],"execCPUAffinity":{"final":"0,77777"}}`
	if err := os.WriteFile(process, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e.want(255, "process.execCPUAffinity: invalid CPU list", "exec", "--process", process, "affine")
}

// TestTimeOffsets: the clocks inside differ from the host's, for the first process and for further ones, with and without a
// user namespace.
func TestTimeOffsets(t *testing.T) {
	t.Parallel()
	const day = 86400
	for _, users := range []bool{false, true} {
		t.Run(fmt.Sprintf("user namespace %v", users), func(t *testing.T) {
			t.Parallel()
			e, id := newEngine(t), fmt.Sprintf("late-%v", users)
			e.namespace(specs.TimeNamespace)
			if users {
				e.namespace(specs.UserNamespace)
				maps := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
				e.spec.Linux.UIDMappings, e.spec.Linux.GIDMappings = maps, maps
				e.open()
			}
			e.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 100 * day}, "monotonic": {Secs: -1, Nanosecs: 500}}
			e.spec.Process.Args = []string{"sleep", "1000"}
			e.write()
			e.want(0, "", "create", "--bundle", e.bundle, id)
			t.Cleanup(func() { e.call("delete", "--force", id) })
			e.want(0, "", "start", id)
			host, err := os.ReadFile("/proc/uptime")
			if err != nil {
				t.Fatal(err)
			}
			out := e.want(0, "", "exec", id, "cat", "/proc/uptime")
			if d := seconds(t, out) - seconds(t, string(host)); d < 100*day || d > 100*day+60 {
				t.Errorf("the uptime inside is %v seconds ahead, want 100 days", d)
			}
			out = e.want(0, "", "exec", id, "cat", "/proc/1/timens_offsets")
			if f := strings.Fields(out); len(f) != 6 || f[1] != "-1" || f[2] != "500" || f[4] != strconv.Itoa(100*day) {
				t.Errorf("offsets %q", out)
			}
		})
	}
}

// open lets users other than root reach the bundle.
func (e *engine) open() {
	e.t.Helper()
	for dir := e.bundle; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			e.t.Fatal(err)
		}
	}
}

func seconds(t *testing.T, uptime string) float64 {
	t.Helper()
	f := strings.Fields(uptime)
	if len(f) == 0 {
		t.Fatalf("no uptime in %q", uptime)
	}
	s, err := strconv.ParseFloat(f[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCPUAffinityIsTheContainersOwn: that of the process which calls the runtime does not go on inside.
func TestCPUAffinityIsTheContainersOwn(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("grep")
	e.script("grep Cpus_allowed_list /proc/self/status")
	if differs(t) {
		e.want(1, "", "run", "--bundle", e.bundle, "free")
		return
	}
	out, err := exec.Command("taskset", "-c", "0", runtime, "--root", e.root, "run", "--bundle", e.bundle, "free").CombinedOutput()
	if own := e.want(0, "", "run", "--bundle", e.bundle, "free"); err != nil || string(out) != own || strings.HasSuffix(own, "\t0\n") {
		t.Errorf("started on CPU 0 it runs on %q (%v), else on %q", out, err, own)
	}
}

// TestWhatThisHostLacks: a field that the host has nothing for is refused by its name and leaves nothing; a label for the
// files is refused by runc, too, there by the kernel's EINVAL.
func TestWhatThisHostLacks(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.script("true")
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		e.spec.Linux.MountLabel = "system_u:object_r:container_file_t:s0:c1,c2"
		e.write()
		e.want(1, "this kernel runs without SELinux", "run", "--bundle", e.bundle, "lacking")
		e.spec.Linux.MountLabel = ""
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !strings.Contains(string(mounts), " - resctrl ") {
		e.spec.Linux.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f"}
		e.write()
		e.want(1, "config.json: linux.intelRdt: intelRdt is specified in config, but Intel RDT is not supported or enabled", "run", "--bundle", e.bundle, "lacking")
	}
	controllers, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	e.spec.Linux.IntelRdt = nil
	objects, class := uint32(1), uint32(0x10001)
	for controller, r := range map[string]specs.LinuxResources{
		"hugetlb": {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1 << 21}}},
		"rdma":    {Rdma: map[string]specs.LinuxRdma{"mlx5_1": {HcaObjects: &objects}}},
		"net_cls": {Network: &specs.LinuxNetwork{ClassID: &class}},
	} {
		if strings.HasPrefix(string(controllers), "0::") || strings.Contains(string(controllers), controller) {
			continue // version 2 alone, or the controller is there
		}
		e.spec.Linux.Resources = &r
		e.write()
		e.want(1, controller, "run", "--bundle", e.bundle, "lacking")
	}
	if out, _ := e.call("list", "-q"); out != "" {
		t.Errorf("left: %q", out)
	}
}

// TestUser: ids, groups and umask, of the first process and of a further one.
func TestUser(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("grep")
	mask, adj := uint32(0o027), 321
	e.spec.Process.User = specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{10, 4000}, Umask: &mask}
	e.spec.Process.OOMScoreAdj = &adj
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.want(0, "", "create", "--bundle", e.bundle, "user")
	t.Cleanup(func() { e.call("delete", "--force", "user") })
	e.want(0, "", "start", "user")
	const want = "Umask:\t0027\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t10 4000 \n321\n"
	for _, process := range []string{"1", "self"} {
		out := e.want(0, "", "exec", "user", "sh", "-c", "grep -E '^(Umask|Uid|Gid|Groups):' /proc/"+process+"/status; cat /proc/"+process+"/oom_score_adj")
		if out != want {
			t.Errorf("process %s has\n%swant\n%s", process, out, want)
		}
	}
}
