// Package load starts many sandboxes from many clients at once.
package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"brig/internal/testenv"
)

const clients = 16

// sandboxes is how many are started: a guest's memory has room for fewer, with -test.short, and each gVisor sandbox has a kernel of its own.
var sandboxes = sync.OnceValue(func() int {
	if testenv.Isolation() == "gvisor" {
		return 50
	}
	if testing.Short() {
		return 100
	}
	return 500
})

func build(t *testing.T) string {
	t.Helper()
	brig := filepath.Join(t.TempDir(), "brig")
	if err := testenv.Build(brig, "brig/cmd/brig"); err != nil {
		t.Fatal(err)
	}
	if err := testenv.BuildIsolation(filepath.Dir(brig)); err != nil {
		t.Fatal(err)
	}
	return brig
}

// limits are the flags of each sandbox.
func limits() []string {
	if testenv.Isolation() == "gvisor" {
		return append(testenv.IsolationFlags(), "--memory", "128m")
	}
	return []string{"--memory", "16m"}
}

// each calls do with 0 … sandboxes−1 from all clients, and collects what went wrong.
func each(t *testing.T, do func(i int) error) {
	t.Helper()
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := range jobs {
				if err := do(i); err != nil {
					t.Errorf("sandbox %d: %v", i, err)
				}
			}
		})
	}
	for i := range sandboxes() {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
}

// TestFiveHundredAtOnce has all sandboxes alive at the same time, each with ids of its own, and then none.
func TestFiveHundredAtOnce(t *testing.T) {
	testenv.Check(t, testenv.Root)
	brig, root := build(t), t.TempDir()
	run := func(args ...string) ([]byte, error) {
		cmd := exec.Command(brig, append([]string{args[0], "--root", root}, args[1:]...)...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, errs.Bytes())
		}
		return out.Bytes(), nil
	}
	t.Cleanup(func() {
		each(t, func(i int) error {
			_, err := run("rm", "-f", fmt.Sprintf("load-%d", i))
			return err
		})
	})
	each(t, func(i int) error {
		_, err := run(append(append([]string{"run", "-d", "--name", fmt.Sprintf("load-%d", i)}, limits()...), "--", "sleep", "1000")...)
		return err
	})
	text, err := run("ps", "--format", "json")
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		ID  string
		PID int
		IDs struct{ First, Size uint32 }
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != sandboxes() {
		t.Errorf("%d sandboxes run, not %d", len(list), sandboxes())
	}
	owner := map[uint32]string{}
	for _, s := range list {
		if other, taken := owner[s.IDs.First]; taken {
			t.Errorf("sandboxes %s and %s both have the ids from %d", s.ID, other, s.IDs.First)
		}
		owner[s.IDs.First] = s.ID
		// The kernel's word, not ours.
		var inside, outside, size uint32
		m, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", s.PID))
		if err == nil {
			_, err = fmt.Sscan(string(m), &inside, &outside, &size)
		}
		if err != nil || outside != s.IDs.First || size != 1<<16 {
			t.Errorf("sandbox %s: uid_map is %q, not the range from %d (%v)", s.ID, m, s.IDs.First, err)
		}
	}
}

// TestFiveHundredInTurns runs 500 to their end, sixteen at a time.
func TestFiveHundredInTurns(t *testing.T) {
	testenv.Check(t, testenv.Root)
	brig, root := build(t), t.TempDir()
	each(t, func(i int) error {
		out, err := exec.Command(brig, append(append([]string{"run", "--root", root}, limits()...), "--", "echo", fmt.Sprint(i))...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if string(out) != fmt.Sprintln(i) {
			return fmt.Errorf("it printed %q", out)
		}
		return nil
	})
	left, err := os.ReadDir(filepath.Join(root, "sandboxes"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
