//go:build faults

// Package fault kills Brig at every point of its life, and proves that the next command finds and clears what is left.
package fault

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"
)

var brig, oci string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "brig-fault-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	brig, oci = filepath.Join(dir, "brig-faults"), filepath.Join(dir, "brig-oci-faults")
	for name, program := range map[string]string{brig: "brig/cmd/brig", oci: "brig/cmd/brig-oci"} {
		if err := testenv.Build(name, "-tags", "faults", program); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := testenv.BuildIsolation(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if testenv.Isolation() != "native" { // an engine tells brig-oci by the name that it calls it by
		named := filepath.Join(dir, "brig-"+testenv.Isolation()+"-handler")
		if err := os.Symlink(oci, named); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		oci = named
	}
	// Most of the time of a test that may run beside others is waiting.
	if err := flag.Set("test.parallel", "24"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// machine is a store of its own and what the kernel and the shared id pool have of its sandboxes.
type machine struct {
	t      *testing.T
	root   string
	marker string // stands in the arguments of every program that is run
}

func newMachine(t *testing.T) *machine {
	testenv.Check(t, testenv.Root)
	return &machine{t: t, root: t.TempDir(), marker: fmt.Sprintf("marker-%d-%d", os.Getpid(), time.Now().UnixNano())}
}

func (m *machine) command(fault string, args ...string) *exec.Cmd {
	argv := []string{args[0], "--root", m.root}
	if args[0] == "run" {
		argv = append(argv, testenv.IsolationFlags()...)
	}
	cmd := exec.Command(brig, append(argv, args[1:]...)...)
	cmd.Env = append(os.Environ(), "BRIG_FAULT="+fault)
	return cmd
}

// brig runs a command to its end, which may be the kill.
func (m *machine) brig(fault string, args ...string) (out string, killed bool) {
	m.t.Helper()
	cmd := m.command(fault, args...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	cmd.WaitDelay = 10 * time.Second // pipes that a left-over process would hold open
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		m.t.Fatal(err)
	}
	return b.String(), strings.Contains(cmd.ProcessState.String(), "killed")
}

// left is all that there is of the sandboxes of the store.
func (m *machine) left() []string {
	var left []string
	ids := map[string]bool{}
	for _, dir := range []string{"sandboxes", "names"} {
		entries, err := os.ReadDir(filepath.Join(m.root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.t.Fatal(err)
		}
		for _, e := range entries {
			left = append(left, dir+"/"+e.Name())
		}
	}
	links, _ := filepath.Glob("/run/brig/ids/*")
	for _, l := range links {
		if owner, err := os.Readlink(l); err == nil && strings.HasPrefix(owner, m.root) {
			left = append(left, l+" of "+owner)
			ids[filepath.Base(owner)] = true
		}
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		data, err := os.ReadFile(file)
		if err == nil && bytes.Contains(data, []byte(m.marker)) && !strings.Contains(file, "/"+strconv.Itoa(os.Getpid())+"/") {
			left = append(left, file+": "+string(bytes.ReplaceAll(data, []byte{0}, []byte{' '})))
		}
	}
	return append(left, kernels()...)
}

// kernels are the processes of gVisor's kernel that this test has built: the kernel's own, its stubs and file servers. What the guest runs
// shows in no command line of the host's.
func kernels() (list []string) {
	programs, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range programs {
		if exe, err := os.Readlink(link); err == nil && strings.HasPrefix(exe, filepath.Dir(brig)+"/brig-gvisor") {
			list = append(list, filepath.Dir(link)+" of "+filepath.Base(exe))
		}
	}
	return list
}

// clean demands that nothing is there after one harmless command.
func (m *machine) clean(when string) {
	m.t.Helper()
	folders, err := os.ReadDir(filepath.Join(m.root, "sandboxes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
	if out, _ := m.brig("", "ps", "-a"); strings.Contains(out, "brig:") {
		m.t.Errorf("%s: ps: %s", when, out)
	}
	left := m.left()
	for _, f := range folders {
		for _, pattern := range []string{"/sys/fs/cgroup/*/brig/", "/sys/fs/cgroup/brig/"} {
			groups, _ := filepath.Glob(pattern + f.Name())
			left = append(left, groups...)
		}
	}
	if left != nil {
		m.t.Errorf("%s: left after the next command:\n  %s", when, strings.Join(left, "\n  "))
	}
}

// walk runs scenario with the kill at the first point, the second, … until the command survives.
func walk(t *testing.T, scenario func(t *testing.T, fault string) (killed bool)) {
	const most = 60 // more points than there are: the walk must come to its end
	points := 0
	for n := 1; ; n++ {
		if n > most {
			t.Fatalf("the command was still killed at point %d", most)
		}
		if !scenario(t, strconv.Itoa(n)) {
			break
		}
		points++
	}
	if points < 1 {
		t.Errorf("the walk met %d points: is brig built with its faults?", points)
	}
	t.Logf("%d points", points)
}

// These do not run beside each other: what is left is looked for machine-wide.

func TestRunInTheForeground(t *testing.T) {
	m := newMachine(t)
	walk(t, func(t *testing.T, fault string) bool {
		out, killed := m.brig(fault, "run", "--name", "walk", "--memory", "64m", "--", "sh", "-c", "sleep 100 & sleep 100 & sleep 0.06; # "+m.marker)
		m.clean("killed at point " + fault)
		if strings.Contains(out, "brig: ") {
			t.Errorf("point %s: %s", fault, out)
		}
		return killed
	})
}

func TestRunWithATerminalAndInit(t *testing.T) {
	m := newMachine(t)
	walk(t, func(t *testing.T, fault string) bool {
		out, killed := m.brig(fault, append(terminalAndInit(), "sh", "-c", "setsid sleep 100 & sleep 0.06; # "+m.marker)...)
		m.clean("killed at point " + fault)
		if strings.Contains(out, "brig: ") {
			t.Errorf("point %s: %s", fault, out)
		}
		return killed
	})
}

// terminalAndInit begins a command. A gVisor guest has no init of Brig's.
func terminalAndInit() []string {
	if testenv.Isolation() == "gvisor" {
		return []string{"run", "-t", "--"}
	}
	return []string{"run", "-t", "--init", "--"}
}

// The monitor is killed, and `run -d` where it clears up after one.
func TestDetached(t *testing.T) {
	m := newMachine(t)
	walk(t, func(t *testing.T, fault string) bool {
		out, killed := m.brig(fault, "run", "-d", "--name", "walk", "--", "sh", "-c", "sleep 100 & sleep 0.06; # "+m.marker)
		if killed || strings.Contains(out, "brig: ") { // before the program ran, and run says so, or is killed on the way
			m.clean("killed at point " + fault)
			return true
		}
		m.brig("", "wait", "walk")
		state, _ := m.brig("", "ps", "-a", "--format", "json")
		if procs := m.processes(); procs != nil {
			t.Errorf("point %s: processes outlive their monitor: %q", fault, procs)
		}
		m.brig("", "rm", "walk")
		m.clean("killed at point " + fault)
		return strings.Contains(state, `"lost"`)
	})
}

// The monitor is killed when its program runs, before it could say so, and `run -d` where it clears up after it: nobody has heard of the
// sandbox, and so nothing of it stays in the list.
func TestDetachedTwice(t *testing.T) {
	for _, point := range []string{"removal recorded", "cgroup folder removed", "name removed", "files removed", "lock removed"} {
		m := newMachine(t)
		out, killed := m.brig("state written,"+point, "run", "-d", "--name", "walk", "--", "sh", "-c", "sleep 100; # "+m.marker)
		if !killed {
			t.Errorf("%s: it was not killed there: %s", point, out)
		}
		m.clean("killed at " + point)
	}
}

func (m *machine) processes() (list []string) {
	for _, l := range m.left() {
		if strings.HasPrefix(l, "/proc/") {
			list = append(list, l)
		}
	}
	return list
}

func TestExec(t *testing.T) {
	m := newMachine(t)
	if out, _ := m.brig("", "run", "-d", "--name", "host", "--", "sleep", "1000"); strings.Contains(out, "brig:") {
		t.Fatal(out)
	}
	walk(t, func(t *testing.T, fault string) bool {
		_, killed := m.brig(fault, "exec", "host", "sh", "-c", "sleep 0.06; # "+m.marker)
		runs := func() bool {
			out, _ := m.brig("", "exec", "host", "sh", "-c", "ps -eo args | grep -v ps; # ")
			return strings.Contains(out, m.marker)
		}
		if testenv.Isolation() == "gvisor" { // a guest's processes have no parent on the host: the supervisor kills this one, when it has heard
			m.until("the program ends with its exec", func() bool { return !runs() })
		} else if runs() {
			t.Errorf("point %s: the program outlives its exec", fault)
		}
		return killed
	})
	m.brig("", "rm", "-f", "host")
	m.clean("at the end")
}

func TestRemove(t *testing.T) {
	m := newMachine(t)
	walk(t, func(t *testing.T, fault string) bool {
		if out, _ := m.brig("", "run", "-d", "--name", "walk", "--", "true", m.marker); strings.Contains(out, "brig:") {
			t.Fatalf("point %s: %s", fault, out)
		}
		m.brig("", "wait", "walk")
		_, killed := m.brig(fault, "rm", "walk")
		m.clean("killed at point " + fault)
		return killed
	})
}
