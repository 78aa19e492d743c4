//go:build faults

package fault

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// TestEachProcess kills one process of a gVisor sandbox after the other. Without its kernel or its file server it ends, and says how. A
// stub holds one process of the guest, which ends with it, or is kept for later, and nobody misses it: then the sandbox goes on.
func TestEachProcess(t *testing.T) {
	if testenv.Isolation() != "gvisor" {
		return // a native sandbox has no process but the program's
	}
	m := newMachine(t)
	t.Cleanup(func() { m.brig("", "rm", "-f", "walk") })
	for n := 0; ; n++ {
		out, _ := m.brig("", "run", "-d", "--name", "walk", "--", "sh", "-c", "echo up; while :; do :; done; # "+m.marker)
		if strings.Contains(out, "brig:") {
			t.Fatal(out)
		}
		m.until("the program runs", func() bool { out, _ := m.brig("", "logs", "walk"); return strings.Contains(out, "up") })
		all := kernels()
		if n >= len(all) {
			m.brig("", "rm", "-f", "walk")
			break
		}
		m.killed(all[n])
		m.brig("", "rm", "-f", "walk")
		m.clean("killed " + all[n])
	}
}

// killed kills a process of the sandbox "walk".
func (m *machine) killed(process string) {
	m.t.Helper()
	dir, _, _ := strings.Cut(process, " ")
	pid, err := strconv.Atoi(filepath.Base(dir))
	kernel := m.state().PID
	ends := pid == kernel || pid == server(m.t, kernel)
	if err == nil {
		err = unix.Kill(pid, unix.SIGKILL)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	state := func() string { out, _ := m.brig("", "ps", "-a", "--format", "json"); return out }
	m.until("the sandbox ends, or goes on without "+process, func() bool {
		if s := state(); strings.Contains(s, `"exited"`) || strings.Contains(s, `"stopped"`) {
			if !strings.Contains(s, "137") || kernels() != nil {
				m.t.Errorf("%s was killed: %s; left: %q", process, s, kernels())
			}
			return true
		}
		out, _ := m.brig("", "exec", "walk", "echo", "alive")
		return !ends && strings.Contains(out, "alive")
	})
}

func (m *machine) until(what string, is func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("not in time: %s", what)
		}
	}
}

// TestBrigIsKilledWhileItRuns: what holds for each point of a start holds for a sandbox that has long been running.
func TestBrigIsKilledWhileItRuns(t *testing.T) {
	m := newMachine(t)
	cmd := m.command("", "run", "--name", "walk", "--", "sh", "-c", "echo up; sleep 1000; # "+m.marker)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3)
	if _, err := out.Read(b); err != nil || !bytes.Equal(b, []byte("up\n")) {
		t.Errorf("it said %q: %v", b, err)
	}
	groups := cgroupsOf(m)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	m.clean("killed while its sandbox ran")
	for _, g := range groups {
		if _, err := os.Stat(g); err == nil {
			t.Errorf("%s is left", g)
		}
	}
}

// cgroupsOf gives the control groups of the sandboxes of the store.
func cgroupsOf(m *machine) (groups []string) {
	folders, _ := os.ReadDir(filepath.Join(m.root, "sandboxes"))
	for _, f := range folders {
		for _, pattern := range []string{"/sys/fs/cgroup/*/brig/", "/sys/fs/cgroup/brig/"} {
			list, _ := filepath.Glob(pattern + f.Name())
			groups = append(groups, list...)
		}
	}
	return groups
}
