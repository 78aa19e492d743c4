package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/test/image/fixture"
	"brig/test/image/walk"
)

// attack is a layer that means harm, on top of an ordinary one.
type attack struct {
	name  string
	layer func(canary string) []byte // a tar; canary is a folder of the host's that nothing may reach
	// says is what the refusal has to name beside the layer; nil when the image is to run harmlessly.
	says []string
	// look is run inside, and has to print exactly shows.
	look, shows string
}

// attacks are all of them. An archive that a program can make, and most that none would, come down to one of three things: a name that leaves the
// root, a thing that is not what it seems, a number that is too large.
func attacks(t *testing.T) []attack {
	entries := func(list ...raw) func(string) []byte { return func(string) []byte { return byHand(list...) } }
	filled := func(fill func(w *fixture.Tar)) func(string) []byte {
		return func(string) []byte { return archive(t, fill) }
	}
	return []attack{
		{name: "dot-dot", layer: entries(raw{name: "../escaped", data: "x"}), says: []string{"../escaped"}},
		{name: "dot-dot-in-the-middle", layer: entries(raw{name: "a/../../../escaped", data: "x"}), says: []string{"a/../../../escaped"}},
		{name: "absolute", layer: func(c string) []byte { return byHand(raw{name: c + "/escaped", data: "x"}) }},
		{name: "through-a-symlink-out", layer: func(c string) []byte {
			return byHand(raw{name: "out", kind: tar.TypeSymlink, link: c}, raw{name: "out/escaped", data: "x"})
		}},
		{name: "through-dot-dot-symlink", layer: entries(
			raw{name: "up", kind: tar.TypeSymlink, link: "../../../../.."}, raw{name: "up/escaped", data: "x"}), look: "cat /escaped", shows: "x"},
		{name: "symlink-loop", layer: entries(
			raw{name: "a", kind: tar.TypeSymlink, link: "b"}, raw{name: "b", kind: tar.TypeSymlink, link: "a"}, raw{name: "a/x", data: "x"}), says: []string{"a/x"}},
		{name: "hard-link-out", layer: entries(raw{name: "l", kind: tar.TypeLink, link: "../../../../etc/shadow"}), says: []string{"l"}},
		{name: "hard-link-to-the-host", layer: entries(raw{name: "l", kind: tar.TypeLink, link: "/etc/hostname-of-nobody"}), says: []string{"l"}},
		{name: "hard-link-absolute", layer: entries(raw{name: "l", kind: tar.TypeLink, link: "/etc/passwd"}), look: "cat /l", shows: "root:x:0:0:root:/root:/bin/sh"},
		{name: "hard-link-through-a-symlink-out", layer: func(c string) []byte {
			return byHand(raw{name: "out", kind: tar.TypeSymlink, link: c}, raw{name: "l", kind: tar.TypeLink, link: "out/secret"})
		}, says: []string{"l"}},
		{name: "hard-link-to-a-folder", layer: entries(raw{name: "l", kind: tar.TypeLink, link: "etc"}), says: []string{"l"}},
		{name: "hard-link-to-itself", layer: entries(raw{name: "l", kind: tar.TypeLink, link: "l"}), says: []string{"l"}},
		{name: "root-as-a-file", layer: entries(raw{name: "./", data: ""}), says: []string{"./"}},
		{name: "root-as-a-symlink", layer: entries(raw{name: ".", kind: tar.TypeSymlink, link: "/"}), says: []string{"."}},
		{name: "no-name", layer: entries(raw{name: "", data: "x"}), says: []string{`entry ""`}},
		{name: "below-a-file", layer: entries(raw{name: "etc/passwd/below", data: "x"}), says: []string{"etc/passwd/below"}},
		{name: "whiteout-of-dot-dot", layer: entries(raw{name: "etc/.wh..."}), says: []string{".wh..."}},
		{name: "whiteout-of-nothing", layer: entries(raw{name: "etc/.wh."}), says: []string{".wh."}},
		{name: "whiteout-of-dot", layer: entries(raw{name: "etc/.wh.."}), says: []string{".wh.."}},
		{name: "whiteout-of-the-root", layer: func(string) []byte {
			data, err := program()
			if err != nil {
				t.Fatal(err)
			}
			return byHand(raw{name: ".wh..wh..opq"}, raw{name: "bin/sh", mode: "0000755\x00", data: string(data)})
		}, look: "echo /bin/*; [ -e /etc/passwd ] || echo gone", shows: "/bin/sh\ngone"},
		{name: "whiteout-through-a-symlink-out", layer: func(c string) []byte {
			return byHand(raw{name: "out", kind: tar.TypeSymlink, link: c}, raw{name: "out/.wh.secret"})
		}},
		{name: "setuid", layer: filled(func(w *fixture.Tar) {
			w.File("bin/suid", "#!/bin/sh\nid -u\n", fixture.Mode(0o4755))
		}), look: "stat -c %a /bin/suid", shows: "4755"},
		{name: "name-with-an-escape", layer: entries(raw{name: "e/../../\x1b[2J\nbrig: all is well", data: "x"}), says: []string{`\x1b[2J\n`}},
		{name: "size-larger-than-the-archive", layer: entries(raw{name: "huge", size: "77777777777\x00", data: "x"}), says: []string{}},
		{name: "size-negative", layer: entries(raw{name: "negative", size: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf0", data: "x"}), says: []string{}},
		{name: "owner-negative", layer: entries(raw{name: "owned", uid: "\xff\xff\xff\xff\xff\xff\xff\xf0", data: "x"}), says: []string{}},
		{name: "kind-unknown", layer: entries(raw{name: "strange", kind: 'Z'}), says: []string{"strange"}},
		{name: "continued-volume", layer: entries(raw{name: "volume", kind: 'M', data: "x"}), says: []string{"volume"}},
		{name: "xattr-of-another-kind", layer: filled(func(w *fixture.Tar) {
			w.File("x", "text", fixture.Xattr("strange.kind", "v"))
		}), look: "cat /x", shows: "text"},
		{name: "xattr-too-long", layer: filled(func(w *fixture.Tar) {
			w.File("x", "", fixture.Xattr("user.long", strings.Repeat("v", 1<<17)))
		}), says: []string{"x"}},
		{name: "name-too-long", layer: filled(func(w *fixture.Tar) { w.File(strings.Repeat("n", 256), "x") }), says: []string{"nnnn"}},
		{name: "folders-too-deep", layer: filled(func(w *fixture.Tar) { w.File(strings.Repeat("d/", 60_000)+"end", "x") }), says: []string{"d/d/"}},
		{name: "truncated", layer: func(string) []byte {
			whole := byHand(raw{name: "file", data: strings.Repeat("x", 5000)})
			return whole[:2000]
		}, says: []string{}},
		{name: "no-tar", layer: func(string) []byte { return bytes.Repeat([]byte("no tar at all "), 1000) }, says: []string{}},
		{name: "zeros-that-take-no-disk", layer: func(string) []byte { return byHand(raw{name: "zeros", data: strings.Repeat("\x00", 600<<20)}) },
			look: "stat -c %s /zeros", shows: "629145600"},
	}
}

// TestHostile has every attack go the whole road: registry, store, EROFS image, sandbox. It ends in a refusal that names the layer and the entry, or in
// a sandbox that has the entry inside. Nothing on the host changes.
func TestHostile(t *testing.T) {
	t.Parallel()
	newMachine(t)
	for _, a := range attacks(t) {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			canary := m.mkdir("canary")
			if err := os.WriteFile(filepath.Join(canary, "secret"), []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			before := told(t, canary)
			f := newForge(t)
			o := newForged(t)
			o.add(a.layer(canary))
			f.push(o, "1")
			layer := string(f.blob(o.layers[1]).Digest)
			look := []string{"run", f.ref("forged:1")}
			if a.look != "" {
				look = append(look, "/bin/sh", "-c", a.look)
			}
			r := m.brig(look...)
			switch {
			case a.says != nil && r.code == 0:
				t.Errorf("it ran: %s", r.out)
			case a.says != nil:
				for _, w := range append(a.says, layer[7:19]) {
					if !strings.Contains(r.err, w) {
						t.Errorf("the error does not name %q: %s", w, r.err)
					}
				}
				m.nothing()
			case r.code != 0 || strings.TrimSpace(r.out) != a.shows:
				t.Errorf("exit code %d, printed %q, wanted %q: %s", r.code, r.out, a.shows, r.err)
			}
			if strings.ContainsAny(r.err, "\x1b\x00") {
				t.Errorf("the terminal got what the image says: %q", r.err)
			}
			if after := told(t, canary); after != before {
				t.Errorf("the host's folder changed:\n%s\nit was\n%s", after, before)
			}
			for _, name := range []string{"/escaped", filepath.Join(m.dir, "escaped"), filepath.Join(filepath.Dir(m.dir), "escaped")} {
				if _, err := os.Lstat(name); err == nil {
					t.Errorf("%s is there", name)
				}
			}
		})
	}
}

// nothing demands that the store shows no image, and has none that is half-made.
func (m *machine) nothing() {
	m.t.Helper()
	if out := strings.TrimSpace(m.ok("image", "ls", "--format", "json")); out != "[]" && out != "" && out != "null" {
		m.t.Errorf("image ls shows what was refused: %s", out)
	}
	for _, dir := range []string{"roots", "refs"} {
		left, _ := os.ReadDir(filepath.Join(m.store, dir))
		for _, e := range left {
			m.t.Errorf("the store has %s/%s of an image that was refused", dir, e.Name())
		}
	}
}

// told is a tree of the host's in words.
func told(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := walk.Walk(dir, nil, func(e walk.Entry) error {
		fmt.Fprintf(&out, "%+v\n", e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}
