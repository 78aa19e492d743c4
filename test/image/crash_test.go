package image

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKilled kills a command at every point that it passes, and proves that the next one does the work, with nothing left over.
func TestKilled(t *testing.T) {
	t.Parallel()
	newMachine(t)
	name, archive := ref("scratch:1"), filepath.Join(t.TempDir(), "image.tar")
	source := newMachine(t)
	source.ok("image", "pull", name)
	source.ok("image", "save", "-o", archive, name)
	saved, tree := filepath.Join(t.TempDir(), "saved.tar"), source.mkdir("tree")
	output(t, "sh", "-c", "mkdir "+tree+"/bin && cp $(command -v busybox) "+tree+"/bin/")
	for _, c := range []struct {
		command []string
		before  [][]string
		after   [][]string // all must succeed; the last prints
		prints  string
	}{
		{command: []string{"image", "pull", name}, after: [][]string{{"run", name}}, prints: "scratch\n"},
		{command: []string{"image", "load", "-i", archive}, after: [][]string{{"image", "load", "-i", archive}, {"run", "--pull", "never", name}}, prints: "scratch\n"},
		{command: []string{"image", "import", tree, "local/tree:1"}, after: [][]string{{"image", "import", tree, "local/tree:1"}, {"run", "--pull", "never", "local/tree:1", "/bin/busybox", "echo", "scratch"}}, prints: "scratch\n"},
		{command: []string{"image", "save", "-o", saved, name}, before: [][]string{{"image", "load", "-i", archive}},
			after: [][]string{{"image", "save", "-o", saved, name}, {"image", "rm", name}, {"image", "load", "-i", saved}, {"run", "--pull", "never", name}}, prints: "scratch\n"},
		{command: []string{"run", name}, before: [][]string{{"image", "pull", name}}, after: [][]string{{"run", "--pull", "never", name}}, prints: "scratch\n"},
		{command: []string{"image", "tag", name, "other:1"}, before: [][]string{{"image", "pull", name}}, after: [][]string{{"image", "tag", name, "other:1"}, {"run", "--pull", "never", "other:1"}}, prints: "scratch\n"},
		{command: []string{"image", "rm", name}, before: [][]string{{"image", "pull", name}}, after: [][]string{{"run", name}}, prints: "scratch\n"},
		{command: []string{"image", "prune", "--all"}, before: [][]string{{"run", name}}, after: [][]string{{"run", name}}, prints: "scratch\n"},
	} {
		t.Run(strings.Join(c.command[:2], "-"), func(t *testing.T) {
			t.Parallel()
			const most = 80
			points := 0
			for n := 1; n <= most; n++ {
				m := newMachine(t)
				for _, args := range c.before {
					m.ok(args...)
				}
				m.bin, m.env = faults, []string{"BRIG_FAULT=" + strconv.Itoa(n)}
				killed := m.brig(c.command...).killed
				m.bin, m.env = bin, nil
				var out string
				for _, args := range c.after {
					out = m.ok(args...)
				}
				if out != c.prints {
					t.Errorf("after the kill at point %d the next command printed %q", n, out)
				}
				m.ok("image", "verify")
				m.ok("image", "prune", "--all")
				m.nothing()
				m.empty()
				if !killed {
					break
				}
				if points++; points == most {
					t.Errorf("the command was still killed at point %d", n)
				}
			}
			if points < 1 {
				t.Error("the command passed no point")
			}
			t.Logf("%d points", points)
		})
	}
}

// empty demands that the store has no file that something could need again.
func (m *machine) empty() {
	m.t.Helper()
	for _, dir := range []string{"tmp", "blobs/sha256"} {
		left, _ := os.ReadDir(filepath.Join(m.store, dir))
		for _, e := range left {
			m.t.Errorf("the store has %s/%s after everything was pruned", dir, e.Name())
		}
	}
	if left := m.mounts(); left != nil {
		m.t.Errorf("mounted after everything was pruned: %q", left)
	}
}

// TestDiskFull: a disk without room is told of, leaves nothing half-visible, and the pull goes on when there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"512k", "1200k", "3m"} { // before the layer, while it comes, while the EROFS image is made
		t.Run(size, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.mkdir("images")
			if err := unix.Mount("brig-test", m.store, "tmpfs", 0, "mode=700,size="+size); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				m.clear()
				if err := unix.Unmount(m.store, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			told := m.fails([]string{m.store}, "image", "pull", ref("busybox:1"))
			if !strings.Contains(told, "room") && !strings.Contains(told, "no space left") {
				t.Errorf("the error does not say that the disk is full: %s", told)
			}
			m.nothing()
			if err := unix.Mount("", m.store, "", unix.MS_REMOUNT, "size=64m"); err != nil {
				t.Fatal(err)
			}
			if out := m.ok("run", ref("busybox:1")); out != "hello from image\n" {
				t.Errorf("it printed %q", out)
			}
			m.ok("image", "verify")
		})
	}
}
