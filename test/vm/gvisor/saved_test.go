//go:build vm

package gvisor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// brig runs a command to its end, with a store and a state of the test's own.
func brig(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(args...).CombinedOutput()
	if err != nil {
		t.Errorf("brig %q: %v %s", args, err, out)
	}
	return string(out)
}

// busyboxImage puts an image into a store of the test's own.
func busyboxImage(t *testing.T) {
	t.Helper()
	t.Setenv("BRIG_STORE", filepath.Join(t.TempDir(), "images"))
	root := t.TempDir()
	program, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"bin", "dev", "proc", "sys", "tmp", "run", "etc"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sh", "cat", "sleep", "echo"} {
		if err := os.WriteFile(filepath.Join(root, "bin", name), data, 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	brig(t, "image", "import", root, "busy:1")
	t.Cleanup(func() { brig(t, "image", "prune", "--all") })
}

// TestImage: the kernel gets an image as a file under the module's eyes, when it is started and when it waits for its program.
func TestImage(t *testing.T) {
	m := present(t)
	busyboxImage(t)
	run := func() string {
		return brig(t, "run", "--isolation", "gvisor", m.flag, "busy:1", "sh", "-c", "echo said | cat")
	}
	if out := run(); out != "said\n" {
		t.Errorf("cold: %q", out)
	}
	brig(t, "warm", "-d", m.flag, "busy:1")
	defer brig(t, "warm", "--stop")
	if out := run(); out != "said\n" {
		t.Errorf("warm: %q", out)
	}
}

// TestCheckpoint saves a sandbox and goes on from there.
func TestCheckpoint(t *testing.T) {
	m := present(t)
	busyboxImage(t)
	dir := filepath.Join(t.TempDir(), "saved")
	brig(t, "run", "-d", "--name", "before", "--isolation", "gvisor", m.flag, "busy:1", "sh", "-c", "echo here >/tmp/f; sleep 1000")
	defer brig(t, "rm", "-f", "before")
	if out, err := command("checkpoint", "before", dir).CombinedOutput(); err != nil {
		if m.name != "AppArmor" || !strings.Contains(string(out), "apparmor=unconfined") {
			t.Fatalf("%v %s", err, out)
		}
		if out := brig(t, "exec", "before", "cat", "/tmp/f"); out != "here\n" {
			t.Errorf("where the saving is refused it goes on: %q", out)
		}
		return
	}
	brig(t, "restore", "-d", "--name", "after", dir)
	defer brig(t, "rm", "-f", "after")
	if out := brig(t, "exec", "after", "cat", "/tmp/f"); out != "here\n" {
		t.Errorf("%q", out)
	}
}
