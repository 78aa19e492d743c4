//go:build faults

package fault

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"
)

// A sandbox whose checkpoint was killed in the making either goes on, or has ended behind a whole one.
func TestCheckpoint(t *testing.T) {
	if testenv.Isolation() != "gvisor" {
		return // only gVisor has a kernel whose state can be saved
	}
	m := newMachine(t)
	dir := t.TempDir()
	var went, ended int
	walk(t, func(t *testing.T, fault string) bool {
		out, _ := m.brig("", "run", "--isolation", "gvisor", "-d", "--name", "walk", "--", "sh", "-c", "sleep 1000; # "+m.marker)
		if strings.Contains(out, "brig: ") {
			t.Fatal(out)
		}
		saved := filepath.Join(dir, "saved-"+fault)
		out, killed := m.brig(fault, "checkpoint", "walk", saved)
		if strings.Contains(out, "brig: ") {
			t.Errorf("point %s: %s", fault, out)
		}
		if m.goesOn() {
			went++
		}
		m.brig("", "rm", "-f", "walk")
		if _, err := os.Stat(filepath.Join(saved, "manifest.json")); err == nil {
			ended++
			if out, _ := m.brig("", "restore", "-d", "--name", "walk", saved); strings.Contains(out, "brig: ") {
				t.Errorf("point %s: a whole checkpoint: %s", fault, out)
			}
			m.brig("", "rm", "-f", "walk")
		}
		m.clean("killed at point " + fault)
		return killed
	})
	if went == 0 || ended < 2 {
		t.Errorf("%d went on, and %d had ended", went, ended)
	}
}

// goesOn has the sandbox end, or a program that is executed in it come to its end: then the guest moves.
func (m *machine) goesOn() bool {
	m.t.Helper()
	var out string
	for deadline := time.Now().Add(testenv.Patience(20 * time.Second)); time.Now().Before(deadline); {
		state, _ := m.brig("", "ps", "--format", "json")
		if !strings.Contains(state, `"running"`) {
			return false
		}
		if out, _ = m.brig("", "exec", "walk", "true"); out == "" {
			return true
		}
	}
	m.t.Errorf("the sandbox neither goes on nor ends: %s", out)
	return false
}
