package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"brig/internal/resident"

	"golang.org/x/sys/unix"
)

// idleSandbox is the memory of all processes of an idle sandbox on gVisor's kernel.
type idleSandbox struct {
	Key       string `json:"key"`
	Name      string `json:"name"`
	Processes int    `json:"processes"`
	PSS       int64  `json:"pssBytes"` // their sum, while there is no other sandbox
	Own       int64  `json:"ownBytes"` // of it, what is of no file
	OfFour    int64  `json:"pssOfFourBytes"`
}

// way is a way to have an idle sandbox.
type way struct {
	key, name         string
	start, stop, tell func(sandbox string) []string // tell prints JSON that has the process
}

// gvisorIdle measures idle sandboxes, those of one way after those of the other, while there is no other of Brig's: they would share
// memory.
func (t *tools) gvisorIdle(ctx context.Context, r *report, bar *progress) error {
	if t.paths["brig-gvisor"] == "" {
		return nil
	}
	bundle, err := t.bundle("idle-gvisor", "/bin/sleep", "1000000")
	if err != nil {
		return err
	}
	for _, w := range t.idleWays(bundle) {
		if err := ctx.Err(); err != nil {
			return err
		}
		bar.say("memory on gVisor's kernel: " + w.name)
		one, err := t.idle(w, 1)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		four, err := t.idle(w, 4)
		if err != nil {
			return fmt.Errorf("four times %s: %w", w.name, err)
		}
		one.Key, one.Name, one.OfFour = w.key, w.name, four.PSS/4
		r.Idle = append(r.Idle, one)
	}
	return nil
}

func (t *tools) idleWays(bundle string) []way {
	brig := func(verb string, args ...string) []string {
		return append([]string{t.paths["brig"], verb, "--root", t.path("state-brig")}, args...)
	}
	ways := []way{{
		key: "brig-gvisor", name: "brig run -d --rootfs, with its monitor",
		start: func(s string) []string {
			return brig("run", "--isolation", "gvisor", "-d", "--rm", "--name", s, "--rootfs", t.root, "--", "/bin/sleep", "1000000")
		},
		stop: func(s string) []string { return brig("rm", "--force", s) },
		tell: func(string) []string { return brig("ps", "--format", "json") },
	}}
	byBundle := func(key, name string, runtime []string) {
		ways = append(ways, way{
			key: key, name: name,
			start: func(s string) []string { return with(runtime, "run", "--detach", "--bundle", bundle, s) },
			stop:  func(s string) []string { return with(runtime, "delete", "--force", s) },
			tell:  func(s string) []string { return with(runtime, "state", s) },
		})
	}
	byBundle("brig-oci-gvisor", "brig-oci run --detach", []string{t.path("brig-gvisor-handler"), "--root", t.path("state-brig-oci")})
	byBundle("runsc", "runsc run --detach", t.runsc())
	return ways
}

// idle has n sandboxes at once, and gives the memory of all.
func (t *tools) idle(w way, n int) (sum *idleSandbox, err error) {
	var first []int // of each, its first process and its monitor
	for i := range n {
		name := fmt.Sprintf("still%d", i)
		if _, err := output(t.main, t.stage, w.start(name)); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, t.command(t.main, w.stop(name))()) }()
		pids, err := t.processes(name, w.tell(name))
		if err != nil {
			return nil, err
		}
		first = append(first, pids...)
	}
	time.Sleep(2 * resident.Settled) // for them to be idle: what has ended, and garbage that is being collected
	return weigh(family(t.dir, first...))
}

// processes gives the first process of the sandbox, and its monitor where it has one, which the output of tell names.
func (t *tools) processes(name string, tell []string) ([]int, error) {
	text, err := output(t.main, t.stage, tell)
	if err != nil {
		return nil, err
	}
	type process struct {
		Name         string
		PID, Monitor int
	}
	var one process
	if list := []process{}; json.Unmarshal([]byte(text), &list) == nil {
		i := slices.IndexFunc(list, func(p process) bool { return p.Name == name }) // there may be others
		if i < 0 {
			return nil, fmt.Errorf("%s: the sandbox is not there: %s", strings.Join(tell, " "), text)
		}
		one = list[i]
	} else if err := json.Unmarshal([]byte(text), &one); err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(tell, " "), err)
	}
	return []int{one.PID, one.Monitor}, nil
}

// weigh adds processes up.
func weigh(pids map[int]bool) (*idleSandbox, error) {
	sum := &idleSandbox{}
	for pid := range pids {
		m, err := memoryOf(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		sum.Processes++
		sum.PSS += m.pss
		sum.Own += m.own
	}
	return sum, nil
}

// family are processes, all that descend from them, all that share a pid namespace with one of them that is not this program's, and
// those below dir by their command line that are gVisor's own (a file server of runsc's is nobody's child).
func family(dir string, pids ...int) map[int]bool {
	family, spaces := map[int]bool{}, map[string]bool{}
	own, _ := os.Readlink("/proc/self/ns/pid")
	add := func(pid int) {
		family[pid] = true
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err == nil && ns != own {
			spaces[ns] = true
		}
	}
	for _, pid := range pids {
		if pid > 0 {
			add(pid)
		}
	}
	files, _ := filepath.Glob("/proc/[0-9]*")
	for grown := true; grown; {
		grown = false
		for _, file := range files {
			pid, err := strconv.Atoi(filepath.Base(file))
			if err != nil || family[pid] {
				continue
			}
			parent, _ := strconv.Atoi(field(file+"/status", "PPid"))
			ns, _ := os.Readlink(file + "/ns/pid")
			words, _ := os.ReadFile(file + "/cmdline")
			if family[parent] || spaces[ns] || strings.HasPrefix(string(words), "runsc-") && strings.Contains(string(words), dir) {
				add(pid)
				grown = true
			}
		}
	}
	return family
}

// share is the memory of a process with its fair part of what it shares, and what of it is of no file, in bytes.
type share struct{ pss, own int64 }

// memoryOf reads it (proc(5), smaps_rollup).
func memoryOf(pid int) (share, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return share{}, err
	}
	all := map[string]int64{}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "kB" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return share{}, fmt.Errorf("process %d: %w", pid, err)
			}
			all[f[0]] = kib << 10
		}
	}
	pss, ok := all["Pss:"]
	if !ok {
		return share{}, fmt.Errorf("process %d: no Pss in smaps_rollup", pid)
	}
	return share{pss, all["Pss_Anon:"] + all["Pss_Shmem:"]}, nil
}

const idleTitle = "Memory of an idle sandbox on gVisor's kernel"

func (r *report) idleGrid() grid {
	g := grid{title: idleTitle, header: []string{"", "processes", "PSS of all", "of no file", "PSS each, of four"}}
	mib := func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
	for _, i := range r.Idle {
		g.rows = append(g.rows, []string{i.Name, fmt.Sprint(i.Processes), mib(i.PSS), mib(i.Own), mib(i.OfFour)})
	}
	return g
}
