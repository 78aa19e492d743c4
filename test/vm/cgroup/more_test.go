//go:build vm

package cgroup

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bundles are the drivers that take a bundle.
func bundles() (list []driver) {
	for _, d := range drivers() {
		if !d.policy {
			list = append(list, d)
		}
	}
	return list
}

// call runs a verb of the runtime that the driver is of.
func (d driver) call(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "out") // a container inherits it, and would hold a pipe open
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c := d.verb(args...)
	var errs bytes.Buffer
	c.Stdout, c.Stderr = out, &errs
	if args[0] == "create" {
		c.Stderr = out
	}
	failed := c.Run()
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	if failed != nil {
		return string(text), fmt.Errorf("%v: %w: %s", args, failed, errs.String())
	}
	return string(text), nil
}

func (d driver) verb(args ...string) *exec.Cmd {
	switch {
	case d.policy:
		return exec.Command(bench.brig, append([]string{"--root", filepath.Join(bench.dir, "state")}, args...)...)
	case d.name == bySystemd.name:
		return exec.Command(bench.oci, append([]string{"--root", filepath.Join(bench.dir, "oci"), "--systemd-cgroup"}, args...)...)
	}
	return exec.Command(bench.oci, append([]string{"--root", filepath.Join(bench.dir, "oci")}, args...)...)
}

// TestSwap has the guest swap to its disk.
func TestSwap(t *testing.T) {
	for _, command := range []string{"mkswap", "swapon"} {
		if out, err := exec.Command(command, bench.disk).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("swapoff", bench.disk).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	for _, d := range drivers() {
		for _, c := range []struct {
			together int64 // memory and swap, MiB
			max      string
			killed   bool
		}{{32, "0", true}, {48, "16777216", true}, {192, "167772160", false}, {-1, "max", false}} {
			t.Run(fmt.Sprint(d.name, "/", c.together), func(t *testing.T) {
				a := ask{flags: []string{"-m", "32m", "--memory-swap", "-1"}, set: func(r *specs.LinuxResources) {
					both := c.together
					if both > 0 {
						both <<= 20
					}
					r.Memory = &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: &both}
				}}
				if c.together > 0 {
					a.flags[3] = fmt.Sprint(c.together, "m")
				}
				b := d.probe(t, a, "eat", "64")
				if got := b.file("memory.swap.max"); got != c.max {
					t.Errorf("memory.swap.max is %s, want %s", got, c.max)
				}
				if r := b.finish(); killed(r) != c.killed {
					t.Errorf("code %d, %q, %s", r.code, r.said, r.errs)
				}
			})
		}
	}
	testenv.Layer(t, "cgroup memory.swap.max", testenv.Enforced, "64 MiB with 32 of memory are had with enough swap, and not with 16 MiB or none")
}

// TestWeight has two sandboxes fight for one processor.
func TestWeight(t *testing.T) {
	for _, d := range bundles() {
		for _, c := range []struct {
			shares    uint64
			weight    string
			least, to float64
		}{{128, "21", 2.5, 12}, {1024, "100", 0.6, 1.7}} { // the second is the control
			t.Run(fmt.Sprint(d.name, "/", c.shares), func(t *testing.T) {
				pinned := func(shares uint64) ask {
					return ask{set: func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Cpus: "1", Shares: &shares} }}
				}
				heavy, light := d.probe(t, pinned(1024), "spin", "4000"), d.probe(t, pinned(c.shares), "spin", "4000")
				if got := light.file("cpu.weight"); got != c.weight {
					t.Errorf("cpu.weight is %s, want %s", got, c.weight)
				}
				heavy.release()
				light.release()
				h, l := heavy.end(), light.end()
				if ratio := float64(h.number("ran")) / float64(l.number("ran")); ratio < c.least || ratio > c.to {
					t.Errorf("%q to %q is %.1f to 1, want from %.1f to %.1f", h.said, l.said, ratio, c.least, c.to)
				}
			})
		}
	}
	testenv.Layer(t, "cgroup cpu.weight", testenv.Enforced, "of two programs on one processor one of weight 100 has several times the time of one of 21, and as much as one of 100")
}

// TestDiskWeight: a weight that nothing obeys is refused, and it is obeyed once io.cost is on for the disk.
func TestDiskWeight(t *testing.T) {
	numbers := fmt.Sprintf("%d:%d", bench.major, bench.minor)
	turn := func(on string) {
		// A model of a slow disk: under software emulation the processor is what runs out otherwise.
		for file, text := range map[string]string{
			"io.cost.model": " ctrl=user model=linear rbps=4000000 rseqiops=200 rrandiops=200 wbps=4000000 wseqiops=200 wrandiops=200",
			"io.cost.qos":   " enable=" + on + " ctrl=user rpct=0 wpct=0 min=100 max=100",
		} {
			if err := os.WriteFile("/sys/fs/cgroup/"+file, []byte(numbers+text), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	turn("0")
	for _, c := range []*exec.Cmd{
		brigRun.start(t, "weighed", ask{flags: []string{"--blkio-weight", "20"}}, []string{"/probe", "weighed", "cpus"}),
		brigOCI.start(t, "weighed", ask{set: weighed(20)}, []string{"/probe", "weighed", "cpus"}),
	} {
		if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), "has no io.bfq.weight or io.weight") {
			t.Errorf("%v: %s", err, out)
		}
	}
	turn("1")
	t.Cleanup(func() { turn("0") })
	for _, c := range []struct {
		weight uint16
		file   string
		least  float64
		to     float64
	}{{20, "default 102", 2, 200}, {1000, "default 10000", 0.5, 2}} { // the second is the control
		// Of one kind: only groups of one parent are weighed against each other.
		heavy := brigRun.probe(t, ask{flags: []string{"--blkio-weight", "1000"}}, "readfor", "/dev/disk", "4000")
		light := brigRun.probe(t, ask{flags: []string{"--blkio-weight", fmt.Sprint(c.weight)}}, "readfor", "/dev/disk", "4000")
		if got := light.file("io.weight"); got != c.file {
			t.Errorf("io.weight says %q, want %q", got, c.file)
		}
		heavy.release()
		light.release()
		h, l := heavy.end(), light.end()
		if ratio := float64(h.number("read")) / float64(l.number("read")); ratio < c.least || ratio > c.to {
			t.Errorf("%q to %q is %.1f to 1, want from %.1f to %.1f", h.said, l.said, ratio, c.least, c.to)
		}
	}
	testenv.Layer(t, "cgroup io.weight", testenv.Enforced, "of two programs that read from one disk one of weight 10000 reads several times as much as one of 102, and as much as one of 10000; refused where io.cost is off")
}

// TestBFQWeight: so it is once the disk has the scheduler bfq, whose module alone makes the file.
func TestBFQWeight(t *testing.T) {
	scheduler := filepath.Join("/sys/block", filepath.Base(bench.disk), "queue/scheduler")
	choose := func(name string) {
		if err := os.WriteFile(scheduler, []byte(name), 0); err != nil {
			t.Fatalf("the scheduler %s for the disk: %v", name, err)
		}
	}
	choose("none")
	for _, c := range []*exec.Cmd{
		brigRun.start(t, "weighed", ask{flags: []string{"--blkio-weight", "100"}}, []string{"/probe", "weighed", "cpus"}),
		brigOCI.start(t, "weighed", ask{set: weighed(100)}, []string{"/probe", "weighed", "cpus"}),
	} {
		if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), "has no io.bfq.weight or io.weight") {
			t.Errorf("%v: %s", err, out)
		}
	}
	choose("bfq")
	t.Cleanup(func() { choose("none") })
	// Under software emulation the processor runs out before the disk does: one request at a time, and none for being new.
	for file, value := range map[string]string{"strict_guarantees": "1", "low_latency": "0"} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(scheduler), "iosched", file), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		weight    uint16
		least, to float64
	}{{50, 2, 200}, {1000, 0.5, 2}} { // the second is the control
		heavy := brigRun.probe(t, ask{flags: []string{"--blkio-weight", "1000"}}, "readfor", "/dev/disk", "4000")
		light := brigRun.probe(t, ask{flags: []string{"--blkio-weight", fmt.Sprint(c.weight)}}, "readfor", "/dev/disk", "4000")
		if got := light.file("io.bfq.weight"); got != fmt.Sprint("default ", c.weight) && got != fmt.Sprint(c.weight) {
			t.Errorf("io.bfq.weight says %q, want %d", got, c.weight)
		}
		heavy.release()
		light.release()
		h, l := heavy.end(), light.end()
		t.Logf("weights 1000 and %d: %q and %q", c.weight, h.said, l.said)
		if ratio := float64(h.number("read")) / float64(l.number("read")); ratio < c.least || ratio > c.to {
			t.Errorf("%q to %q is %.1f to 1, want from %.1f to %.1f", h.said, l.said, ratio, c.least, c.to)
		}
	}
	testenv.Layer(t, "cgroup io.bfq.weight", testenv.Enforced, "of two programs that read from one disk one of weight 1000 reads several times as much as one of 50, and as much as one of 1000; refused where no disk has bfq")
}

func weighed(weight uint16) func(*specs.LinuxResources) {
	return blockIO(func(b *specs.LinuxBlockIO) { b.Weight = &weight })
}

// TestOOMGroupIsTheBundles: one that says so keeps its other processes, and `events` tells of the one that ended.
func TestOOMGroupIsTheBundles(t *testing.T) {
	for _, d := range bundles() {
		t.Run(d.name, func(t *testing.T) {
			b := d.probe(t, ask{set: func(r *specs.LinuxResources) {
				r.Memory = &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(32 << 20))}
				r.Unified = map[string]string{"memory.oom.group": "0"}
			}}, "eatwait", "96")
			if got := b.file("memory.oom.group"); got != "0" {
				t.Errorf("memory.oom.group is %s", got)
			}
			watch := d.verb("events", "--interval", "100ms", b.id)
			out, err := watch.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := watch.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = watch.Process.Kill(); _ = watch.Wait() }()
			lines := bufio.NewScanner(out)
			lines.Buffer(nil, 1<<20)
			if !lines.Scan() { // it watches now
				t.Fatal("events says nothing")
			}
			b.release()
			told := false
			for deadline := time.Now().Add(time.Minute); !told && time.Now().Before(deadline) && lines.Scan(); { // a line each interval
				told = strings.Contains(lines.Text(), `"type":"oom"`)
			}
			if !told {
				t.Error("events did not tell of the OOM")
			}
			if r := b.finish(); r.code != 0 || !strings.HasPrefix(r.said, "survived") || !strings.Contains(r.said, "killed") {
				t.Errorf("code %d, %q", r.code, r.said)
			}
		})
	}
}

// TestUpdate changes limits of a running sandbox; what is not named stays.
func TestUpdate(t *testing.T) {
	for _, d := range bundles() {
		t.Run(d.name, func(t *testing.T) {
			b := d.probe(t, ask{set: func(r *specs.LinuxResources) {
				r.CPU = &specs.LinuxCPU{Quota: ptr(int64(20000)), Period: ptr(uint64(100000))}
				r.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20))}
			}}, "eat", "96")
			for _, step := range []struct{ flags, file, want string }{
				{"--cpu-period 50000", "cpu.max", "20000 50000"},
				{"--cpu-quota 10000", "cpu.max", "10000 50000"},
				{"--cpu-burst 5000", "cpu.max.burst", "5000"},
				{"--cpu-quota 4000 --cpu-burst 1000", "cpu.max", "4000 50000"},
				{"--cpu-burst 0", "cpu.max.burst", "0"},
				{"--cpu-quota -1", "cpu.max", "max 50000"},
				{"--cpu-share 512", "cpu.weight", "59"},
				{"--cpuset-cpus 1", "cpuset.cpus.effective", "1"},
				{"--pids-limit 33", "pids.max", "33"},
				{"--memory-swap 96M", "memory.swap.max", "33554432"},
				{"--memory 32M --memory-swap 32M", "memory.max", "33554432"},
				{"--memory-reservation 1M", "memory.low", "1048576"},
			} {
				if _, err := d.call(t, append(append([]string{"update"}, strings.Fields(step.flags)...), b.id)...); err != nil {
					t.Errorf("%s: %v", step.flags, err)
				}
				if got := b.file(step.file); got != step.want {
					t.Errorf("after %s %s says %q, want %q", step.flags, step.file, got, step.want)
				}
			}
			if got := b.file("memory.swap.max"); got != "0" {
				t.Errorf("memory.swap.max is %s", got)
			}
			if r := b.finish(); !killed(r) {
				t.Errorf("code %d, %q", r.code, r.said)
			}
		})
	}
	t.Run(brigRun.name, func(t *testing.T) {
		b := brigRun.probe(t, ask{flags: []string{"-m", "256m"}}, "eat", "96")
		if _, err := brigRun.call(t, "update", "-m", "32m", "--cpus", "0.5", "--pids-limit", "33", b.id); err != nil {
			t.Error(err)
		}
		for file, want := range map[string]string{"memory.max": "33554432", "memory.swap.max": "0", "cpu.max": "50000 100000", "pids.max": "33"} {
			if got := b.file(file); got != want {
				t.Errorf("%s says %q, want %q", file, got, want)
			}
		}
		if r := b.finish(); !killed(r) {
			t.Errorf("code %d, %q", r.code, r.said)
		}
	})
}

// TestPause stops a program that spins. The control is the program of cpu.max without the limit.
func TestPause(t *testing.T) {
	for _, d := range drivers() {
		t.Run(d.name, func(t *testing.T) {
			b := d.probe(t, ask{}, "spin", "2500")
			b.release()
			start := time.Now()
			if _, err := d.call(t, "pause", b.id); err != nil {
				t.Fatal(err)
			}
			if b.key("cgroup.events", "frozen") != 1 {
				t.Errorf("cgroup.events says %q", b.file("cgroup.events"))
			}
			<-time.After(time.Until(start.Add(2500 * time.Millisecond))) // what is measured is the program's share of this
			if _, err := d.call(t, "resume", b.id); err != nil {
				t.Fatal(err)
			}
			if r := b.end(); r.code != 0 || r.number("ran") > 1500 {
				t.Errorf("code %d, %q", r.code, r.said)
			}
		})
	}
	testenv.Layer(t, "cgroup.freeze", testenv.Enforced, "a paused program does not run on")
}

// TestPressure: a program that waits for a processor, for memory or for a disk shows in stats, and one that does not, does not.
func TestPressure(t *testing.T) {
	for _, name := range []string{"cpu.max", "memory.high", "io.max reads"} {
		for _, l := range limits {
			for _, d := range drivers() {
				if l.name != name || d.policy && l.flags == nil {
					continue
				}
				t.Run(d.name+"/"+name, func(t *testing.T) {
					t.Parallel()
					kind, _, _ := strings.Cut(name, ".")
					probe := l.probe
					if kind == "memory" {
						probe = []string{"eatslowly", "96", "20"}
					}
					b := d.probe(t, l.ask(), probe...)
					started := d.stalled(t, b.id, kind) // setting it up takes a processor, too
					before := d.stalled(t, b.id, kind)
					if before-started > 20_000 {
						t.Errorf("control: a program that waits for nothing has stalled for %d microseconds", before-started)
					}
					b.release()
					for end := time.Now().Add(patience); d.stalled(t, b.id, kind)-before < 300_000; {
						if time.Now().After(end) {
							t.Fatal("no pressure is told")
						}
					}
					if events := b.key("memory.events", "high"); kind == "memory" && events <= 0 {
						t.Errorf("memory.events has %d for high", events)
					}
					_ = b.end()
				})
			}
		}
	}
}

// stalled is the time, in microseconds, that stats say some process has waited.
func (d driver) stalled(t *testing.T, id, kind string) uint64 {
	t.Helper()
	if d.policy {
		text, err := d.call(t, "stats", "--format", "json", id)
		var list []struct {
			Memory   struct{ Events map[string]uint64 }
			Pressure map[string]struct {
				Total uint64 `json:"some_total_usec"`
			}
		}
		if err == nil {
			err = json.Unmarshal([]byte(text), &list)
		}
		if err != nil || len(list) != 1 || list[0].Memory.Events == nil {
			t.Fatalf("%v: %s", err, text)
		}
		return list[0].Pressure[strings.ToUpper(kind)].Total
	}
	text, err := d.call(t, "events", "--stats", id)
	type part struct {
		PSI struct{ Some, Full struct{ Total uint64 } }
	}
	var e struct {
		Data struct{ CPU, Memory, Blkio part }
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &e)
	}
	if err != nil || !strings.Contains(text, `"psi":{"some":{"avg10":`) {
		t.Fatalf("%v: %s", err, text)
	}
	return map[string]part{"cpu": e.Data.CPU, "memory": e.Data.Memory, "io": e.Data.Blkio}[kind].PSI.Some.Total
}

// TestCpusetOfTheParent: the kernel would give the parent's processors in silence.
func TestCpusetOfTheParent(t *testing.T) {
	parent := "/sys/fs/cgroup/brig-vm/narrow"
	if err := os.MkdirAll(parent, 0o755); err != nil { //nolint:gosec // as cgroup folders are
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(parent) })
	for dir, text := range map[string]string{"/sys/fs/cgroup": "+cpuset", "/sys/fs/cgroup/brig-vm": "+cpuset"} {
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(parent+"/cpuset.cpus", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	for cpus, want := range map[string]string{"1": "a parent group allows 0 only", "0": "cpus 0"} {
		bundle := makeBundle(t, "/brig-vm/narrow/box"+cpus, []string{"/probe", "x", "cpus"}, ask{set: func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Cpus: cpus} }})
		c := brigOCI.verb("run", "--bundle", bundle, "narrow"+cpus)
		c.Stdin = strings.NewReader("\n")
		if out, err := c.CombinedOutput(); !strings.Contains(string(out), want) {
			t.Errorf("cpus %s: %v: %q lacks %q", cpus, err, out, want)
		}
	}
	testenv.Layer(t, "cgroup cpuset.cpus that a parent has not", testenv.Refused, "a parent group allows 0 only, and the kernel would take those instead")
}

// TestOwnGroupCannotBeLifted: with nsdelegate a container that has its group's files, writable, cannot write its limits.
func TestOwnGroupCannotBeLifted(t *testing.T) {
	const mount = "/sys/fs/cgroup"
	lifted := func(t *testing.T) string {
		a := ask{
			set: func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: ptr(int64(40))} },
			spec: func(s *specs.Spec) {
				for i := range s.Mounts {
					if s.Mounts[i].Type == "cgroup" {
						s.Mounts[i].Options = []string{"nosuid", "noexec", "nodev", "rw"}
					}
				}
			},
		}
		b := brigOCI.probe(t, a, "lift", "pids.max", "max")
		return b.finish().said
	}
	for flags, want := range map[string]string{"nsdelegate": "refused", "": "lifted"} {
		if err := unix.Mount("", mount, "", unix.MS_REMOUNT, flags); err != nil {
			t.Fatal(err)
		}
		if said := lifted(t); said != want {
			t.Errorf("mounted with %q: %s, want %s", flags, said, want)
		}
	}
	if err := unix.Mount("", mount, "", unix.MS_REMOUNT, "nsdelegate"); err != nil {
		t.Fatal(err)
	}
	testenv.Layer(t, "cgroup nsdelegate", testenv.Enforced, "a container that has its group's files, writable, cannot lift its own limit")
}
