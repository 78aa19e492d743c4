package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/host"
)

// TestExecInSubgroup: exec --cgroup goes below the container's own groups, one for each controller, and nowhere else.
func TestExecInSubgroup(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	tree, err := host.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.spec.Linux.CgroupsPath = "/brig-test-subgroup"
	e.write()
	e.want(0, "", "run", "--detach", "--bundle", e.bundle, "subgroup")
	t.Cleanup(func() { e.call("delete", "--force", "subgroup") })
	e.want(255, "bad sub cgroup path: ..", "exec", "--cgroup", "..", "subgroup", "true")
	e.want(255, "no such file or directory", "exec", "--cgroup", "nowhere", "subgroup", "true")
	e.want(255, `unknown controller`, "exec", "--cgroup", "whatever:/", "subgroup", "true")
	for line := range strings.Lines(e.want(0, "", "exec", "--cgroup", "/", "subgroup", "cat", "/proc/self/cgroup")) {
		if !strings.HasSuffix(strings.TrimSpace(line), ":/brig-test-subgroup") && !tree.V2() {
			t.Errorf("without a group inside, the process is in %s", line)
		}
	}
	if tree.V2() {
		return // its controllers are in one hierarchy
	}
	for _, c := range []string{"memory", "pids"} {
		if err := os.Mkdir(filepath.Join(tree.Legacy[c], "brig-test-subgroup", "in"+c), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out := e.want(0, ":memory:/brig-test-subgroup/inmemory", "exec", "--cgroup", "memory:inmemory", "--cgroup", "pids:inpids", "subgroup", "cat", "/proc/self/cgroup")
	if !strings.Contains(out, ":pids:/brig-test-subgroup/inpids") {
		t.Errorf("the process is in %s", out)
	}
	e.want(255, "named twice", "exec", "--cgroup", "memory:inmemory", "--cgroup", "memory:/", "subgroup", "true")
	e.want(255, "missing <controller>: prefix", "exec", "--cgroup", "memory:inmemory", "--cgroup", "inpids", "subgroup", "true")
}

// TestEndBeforeTheStart: a signal that asks for the end ends a created container, although its process is the first of its pid
// namespace.
func TestEndBeforeTheStart(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.write()
	for _, signal := range []string{"TERM", "INT", "HUP", "QUIT", "KILL"} {
		id := "early-" + signal
		e.want(0, "", "create", "--bundle", e.bundle, id)
		e.want(0, "", "kill", id, "USR1")
		e.want(0, "", "kill", id, signal)
		e.until(id, "stopped")
		e.want(0, "", "delete", id)
	}
}
