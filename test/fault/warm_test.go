//go:build faults

package fault

import (
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"
)

// The supervisor of a warm sandbox is killed, before a run has it and with a run's program in it.
func TestWarm(t *testing.T) {
	if testenv.Isolation() != "gvisor" {
		return // only a gVisor sandbox can be there before its program
	}
	m := newMachine(t)
	var unready, taken int
	walk(t, func(t *testing.T, fault string) bool {
		policy := []string{"--isolation", "gvisor", "--memory", "100m", "--"}
		out, _ := m.brig(fault, append([]string{"warm", "-d"}, append(policy, "sh")...)...)
		failed := strings.Contains(out, "brig: ")
		if failed {
			unready++
			m.clean("killed at point " + fault)
		}
		out, _ = m.brig("", append([]string{"run"}, append(policy, "sh", "-c", "sleep 0.06; echo done; # "+m.marker)...)...)
		killed := strings.Contains(out, "its supervisor was killed")
		if killed {
			taken++
		} else if out != "done\n" {
			t.Errorf("point %s: %s", fault, out)
		}
		m.brig("", "warm", "--stop")
		m.clean("killed at point " + fault)
		if left, _ := filepath.Glob(filepath.Join(m.root, "warm/*")); left != nil {
			t.Errorf("point %s: %q", fault, left)
		}
		return failed || killed
	})
	if unready < 3 || taken < 3 {
		t.Errorf("killed %d times before it was warm, %d times with a program", unready, taken)
	}
}
