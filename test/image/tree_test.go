package image

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"brig/test/image/fixture"
	"brig/test/image/walk"
)

// TestTree: what Brig mounts, and what a sandbox sees, is entry by entry what umoci unpacks.
func TestTree(t *testing.T) {
	t.Parallel()
	newMachine(t) // or skip
	for name, i := range images.Images {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, err := i.Tree()
			if err != nil {
				t.Fatal(err)
			}
			m := newMachine(t)
			m.ok("image", "pull", ref(name))
			walker := filepath.Join(bin, "walker")
			inside := m.run(t, "--cap-add", "DAC_READ_SEARCH", "-v", walker+":/mnt/walker:ro", "--entrypoint", "/mnt/walker", "--user", "0", ref(name))
			if name == "scratch:1" { // what a sandbox needs and the image lacks lies over it, and was put there just now
				inside[0].Mtime = want[0].Mtime
			}
			differ(t, "in the sandbox", seen(want), inside, append(over(inside), "/mnt"))
			mounts := m.mounts()
			if len(mounts) != 1 {
				t.Fatalf("one image was run, and mounted are %q", mounts)
			}
			var mounted []walk.Entry
			if err := walk.Walk(mounts[0], nil, func(e walk.Entry) error { mounted = append(mounted, e); return nil }); err != nil {
				t.Fatal(err)
			}
			differ(t, "in the mount", want, mounted, nil)
		})
	}
}

// run runs the walker in a sandbox.
func (m *machine) run(t *testing.T, args ...string) []walk.Entry {
	t.Helper()
	out := m.ok(append([]string{"run"}, args...)...)
	told, whole := strings.CutSuffix(out, "--------\n")
	if !whole {
		t.Fatalf("the walker did not come to its end: …%s", out[max(0, len(out)-300):])
	}
	list, err := fixture.ReadTree(strings.NewReader(told))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// seen is what a process in a user namespace sees of a tree: no attributes of the trusted kind (xattr(7)).
func seen(tree []walk.Entry) []walk.Entry {
	list := append([]walk.Entry(nil), tree...)
	for i := range list {
		var kept map[string]string
		for k, v := range list[i].Xattr {
			if strings.HasPrefix(k, "trusted.") {
				continue
			}
			if kept == nil {
				kept = map[string]string{}
			}
			kept[k] = v
		}
		list[i].Xattr = kept
	}
	return list
}

// over are the folders of a sandbox that something is mounted over, which the walker leaves out.
func over(inside []walk.Entry) (list []string) {
	there := map[string]bool{}
	for _, e := range inside {
		there[e.Path] = true
	}
	for _, path := range []string{"/proc", "/sys", "/dev", "/tmp", "/run", "/data"} {
		if !there[path] {
			list = append(list, path)
		}
	}
	return list
}

// differ names the first entry that is not as it has to be. What lies at or below without is not compared.
func differ(t *testing.T, where string, want, got []walk.Entry, without []string) {
	t.Helper()
	keep := func(list []walk.Entry) []walk.Entry {
		var kept []walk.Entry
	next:
		for _, e := range list {
			for _, w := range without {
				if e.Path == w || strings.HasPrefix(e.Path, w+"/") {
					continue next
				}
			}
			kept = append(kept, e)
		}
		return kept
	}
	want, got = keep(want), keep(got)
	if len(want) < 2 {
		t.Fatalf("%s: there is nothing to compare with", where)
	}
	for n := 0; n < len(want) || n < len(got); n++ {
		switch w, g := line(want, n), line(got, n); {
		case w != g:
			t.Errorf("%s: entry %d:\n  umoci has %s\n  brig has  %s", where, n, w, g)
			return
		}
	}
}

func line(list []walk.Entry, n int) string {
	if n >= len(list) {
		return "no more"
	}
	text, err := json.Marshal(list[n])
	if err != nil {
		return err.Error()
	}
	return string(text)
}
