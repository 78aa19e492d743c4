package image

import (
	"path/filepath"
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
