package image

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"brig/test/image/walk"
)

// TestImportedTree: what a sandbox has of a folder that was imported is entry by entry what the folder has.
func TestImportedTree(t *testing.T) {
	t.Parallel()
	newMachine(t)
	for _, name := range []string{"devices:1", "forty:1", "debian:1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			folder, err := images.Images[name].Unpack(filepath.Join(m.dir, "unpacked"))
			if err != nil {
				t.Fatal(err)
			}
			var want, mounted []walk.Entry
			if err := walk.Walk(folder, nil, func(e walk.Entry) error { want = append(want, e); return nil }); err != nil {
				t.Fatal(err)
			}
			m.ok("image", "import", folder, "local/tree:1")
			walker := filepath.Join(bin, "walker")
			m.run(t, "--cap-add", "DAC_READ_SEARCH", "--pull", "never", "-v", walker+":/mnt/walker:ro", "--entrypoint", "/mnt/walker", "local/tree:1")
			if err := walk.Walk(m.mounts()[0], nil, func(e walk.Entry) error { mounted = append(mounted, e); return nil }); err != nil {
				t.Fatal(err)
			}
			differ(t, "in the mount", want, mounted, nil)
		})
	}
}

// TestWithoutRoot: a user imports, saves, loads and removes images in a store of his own. To run one is root's: the kernel lets nobody
// else mount it, and the error says so.
func TestWithoutRoot(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	const user = 65533
	if err := os.Chmod(filepath.Dir(m.dir), 0o755); err != nil { //nolint:gosec // the user has to get in
		t.Fatal(err)
	}
	m.store = m.mkdir("his/images")
	root := m.mkdir("his/root/bin")
	output(t, "sh", "-c", "cp $(command -v busybox) "+root+"/ && chown -R 65533:65533 "+m.dir+"/his "+m.dir+"/home")
	m.before = []string{"setpriv", "--reuid", strconv.Itoa(user), "--regid", strconv.Itoa(user), "--clear-groups"}
	m.ok("image", "import", filepath.Dir(root), "local/mine:1")
	saved := filepath.Join(m.dir, "his/saved.tar")
	m.ok("image", "save", "-o", saved, "local/mine:1")
	m.ok("image", "rm", "local/mine:1")
	m.nothing()
	m.ok("image", "load", "-i", saved)
	m.ok("image", "verify")
	m.fails([]string{"root"}, "run", "--pull", "never", "local/mine:1", "/bin/busybox", "true")
	m.ok("image", "prune", "--all")
	m.empty()
}
