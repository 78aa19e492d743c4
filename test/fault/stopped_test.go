//go:build faults

package fault

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// TestAProcessIsStopped has one process of a sandbox stopped (SIGSTOP), and ends the sandbox all the same: each command comes to its end, rm -f
// takes everything away, and where one has to be told it is told.
func TestAProcessIsStopped(t *testing.T) {
	type stop struct {
		process string
		pid     func(m *machine) int
	}
	stops := []stop{
		{"program", func(m *machine) int { return m.state().PID }},
		{"supervisor", func(m *machine) int { return m.state().Monitor }},
	}
	if testenv.Isolation() == "gvisor" {
		stops = append(stops, stop{"file server", func(m *machine) int { return server(t, m.state().PID) }})
	}
	for _, s := range stops {
		for _, verb := range [][]string{{"kill", "walk"}, {"stop", "-t", "1", "walk"}, {"rm", "-f", "walk"}} {
			when := strings.Join(verb, " ") + ", the " + s.process + " is stopped"
			m := newMachine(t)
			if out, _ := m.brig("", "run", "-d", "--name", "walk", "--", "sh", "-c", "sleep 1000; # "+m.marker); strings.Contains(out, "brig:") {
				t.Fatal(out)
			}
			t.Cleanup(func() { m.brig("", "rm", "-f", "walk") }) // where the test fails on the way
			pid := s.pid(m)
			stopProcess(t, pid)
			out := m.soon(when, verb...)
			if told := strings.Contains(out, "its supervisor, process "+strconv.Itoa(pid)+", is stopped"); told != (s.process == "supervisor" && verb[0] == "stop") {
				t.Errorf("%s: %s", when, out)
			}
			m.soon(when+", and then", "rm", "-f", "walk")
			m.clean(when)
		}
	}
}

// stopProcess stops a process, and waits until no thread of it goes on.
func stopProcess(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	(&machine{t: t}).until("all threads are stopped", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		return len(threads) > 0 && !slices.ContainsFunc(threads, func(name string) bool {
			text, err := os.ReadFile(name)
			return err == nil && !strings.Contains(string(text), ") T ")
		})
	})
}

// soon is brig for a command that must come to its end.
func (m *machine) soon(when string, args ...string) string {
	m.t.Helper()
	cmd := m.command("", args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	timer := time.AfterFunc(testenv.Patience(30*time.Second), func() {
		m.t.Errorf("%s: it hangs", when)
		_ = cmd.Process.Kill()
	})
	_ = cmd.Wait()
	timer.Stop()
	return out.String()
}

// state is the only sandbox's.
func (m *machine) state() (st struct{ PID, Monitor int }) {
	m.t.Helper()
	out, _ := m.brig("", "ps", "--format", "json")
	list := []struct{ PID, Monitor int }{}
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 || list[0].PID < 2 || list[0].Monitor < 2 {
		m.t.Fatalf("%s: %v", out, err)
	}
	return list[0]
}
