package layers

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

var stacks = flag.Int("stacks", 16, "how many stacks of layers TestAgainstUmoci makes")

// TestAgainstUmoci merges stacks of layers made at random and compares, entry by entry, what the kernel shows of the image with what
// umoci unpacks of the same layers. A stack that one of the two refuses, the other must refuse; it is tried again without the entry.
func TestAgainstUmoci(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root, testenv.Program("umoci"))
	var refused atomic.Int64
	t.Run("stack", func(t *testing.T) {
		for seed := range *stacks {
			t.Run(strconv.Itoa(seed), func(t *testing.T) {
				t.Parallel()
				g := &generator{Rand: rand.New(rand.NewPCG(4, uint64(seed)))} //nolint:gosec // tests need no secrets
				stack := make([][]entry, 1+g.IntN(4))
				for i := range stack {
					stack[i] = g.layer()
				}
				for !agree(t, encode(t, stack)) && !t.Failed() {
					stack = without(t, stack)
					refused.Add(1)
				}
				if t.Failed() {
					t.Log(describe(stack))
				}
			})
		}
	})
	t.Logf("%d stacks are compared, %d entries were refused by both", *stacks, refused.Load())
}

// TestCasesAgainstUmoci: what TestMerge wants, umoci does, too.
func TestCasesAgainstUmoci(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root, testenv.Program("umoci"))
	different := map[string]string{
		"AUFS's own":                   "umoci makes files of AUFS's own folders",
		"devices":                      "umoci unpacks on a file system",
		"extended attributes kept":     "the values are none that a file system would take",
		"extended attributes left out": "umoci leaves out fewer",
		"global headers":               "umoci refuses them",
	}
	for _, c := range merged {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if why := different[c.name]; why != "" {
				return
			}
			if !agree(t, encode(t, c.layers)) {
				t.Error("refused")
			}
		})
	}
}

func encode(t testing.TB, stack [][]entry) [][]byte {
	t.Helper()
	var layers [][]byte
	for _, entries := range stack {
		layers = append(layers, layer(t, entries...))
	}
	return layers
}

// without takes the first entry out of the stack that is refused.
func without(t *testing.T, stack [][]entry) [][]entry {
	t.Helper()
	for i, entries := range stack {
		for k := range entries {
			upTo := append(slices.Clone(stack[:i]), entries[:k+1])
			if _, err := merge(t, DefaultLimits(), KeepDevices, encode(t, upTo)...); err != nil {
				stack[i] = slices.Delete(slices.Clone(entries), k, k+1)
				return stack
			}
		}
	}
	t.Fatal("nothing is refused any more")
	return nil
}

// agree says whether the layers were accepted.
func agree(t *testing.T, layers [][]byte) bool {
	t.Helper()
	begin := time.Now().Add(-2 * time.Second)
	unpacked, theirs := umoci(t, layers)
	image, ours := writeImage(t, layers)
	if (theirs == nil) != (ours == nil) {
		t.Errorf("umoci says %v\nwe say %v", theirs, ours)
	}
	if theirs != nil || ours != nil {
		return false
	}
	want, got := survey(t, unpacked), survey(t, mounted(t, image))
	for _, path := range slices.Sorted(maps.Keys(want)) {
		w, g := want[path], got[path]
		// The time of unpacking is of folders that no entry describes, and of some whose children umoci has changed.
		if w.time > begin.UnixNano() && w.mode&unix.S_IFMT == unix.S_IFDIR {
			w.time = g.time
			// And the former have a group from the set-group-ID bit of their parent, like all that is made on a host.
			if g.time == 0 {
				w.mode, w.gid = w.mode&^unix.S_ISGID, 0
			}
		}
		if fmt.Sprint(w) != fmt.Sprint(g) {
			t.Errorf("%s\numoci: %v\n ours: %v", path, w, g)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%s is in our image alone", path)
		}
	}
	return true
}

// writeImage gives the file of the image.
func writeImage(t testing.TB, layers [][]byte) (string, error) {
	t.Helper()
	w, f := scratch(t)
	m := NewMerger(w, DefaultLimits(), KeepDevices)
	for _, b := range layers {
		if err := m.Apply(bytes.NewReader(b)); err != nil {
			return "", err
		}
	}
	if _, err := w.Close(m.Root()); err != nil {
		t.Fatal(err)
	}
	return f.Name(), nil
}

// mounted mounts an image.
func mounted(t *testing.T, image string) string {
	t.Helper()
	at := t.TempDir()
	if err := unix.Mount(image, at, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		t.Fatalf("mount %s: %v", image, err)
	}
	t.Cleanup(func() {
		// A test beside this one that starts a program may have a copy of our descriptors for a moment.
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return at
}

// umoci unpacks the layers of an image layout that it is given.
func umoci(t *testing.T, layers [][]byte) (string, error) {
	t.Helper()
	at := t.TempDir()
	layout := filepath.Join(at, "layout")
	if err := os.MkdirAll(filepath.Join(layout, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	blob := func(kind string, data []byte) map[string]any {
		sum := fmt.Sprintf("%x", sha256.Sum256(data))
		if err := os.WriteFile(filepath.Join(layout, "blobs/sha256", sum), data, 0o644); err != nil {
			t.Fatal(err)
		}
		return map[string]any{"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + sum, "size": len(data)}
	}
	text := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var described, ids []any
	for _, l := range layers {
		d := blob("layer.v1.tar", l)
		described, ids = append(described, d), append(ids, d["digest"])
	}
	config := blob("config.v1+json", text(map[string]any{"os": "linux", "architecture": "amd64", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids}}))
	manifest := blob("manifest.v1+json", text(map[string]any{"schemaVersion": 2, "config": config, "layers": described}))
	manifest["annotations"] = map[string]any{"org.opencontainers.image.ref.name": "latest"}
	for name, v := range map[string]any{"oci-layout": map[string]any{"imageLayoutVersion": "1.0.0"},
		"index.json": map[string]any{"schemaVersion": 2, "manifests": []any{manifest}}} {
		if err := os.WriteFile(filepath.Join(layout, name), text(v), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rootfs := filepath.Join(at, "rootfs")
	if out, err := exec.Command("umoci", "raw", "unpack", "--image", layout+":latest", rootfs).CombinedOutput(); err != nil {
		return "", fmt.Errorf("umoci: %w: %s", err, out)
	}
	return rootfs, nil
}

// facts are what is compared of one file.
type facts struct {
	mode     uint32
	uid, gid uint32
	time     int64
	rdev     uint64
	links    uint64 // of what is no folder
	content  string // of a file its sum and size, of a link its target
	xattrs   string
	first    string // the first name of the same file
}

// survey looks at everything in a folder.
func survey(t *testing.T, root string) map[string]facts {
	t.Helper()
	all := map[string]facts{}
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f := facts{mode: st.Mode, uid: st.Uid, gid: st.Gid, time: st.Mtim.Nano(), rdev: st.Rdev}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			f.links = uint64(st.Nlink) //nolint:unconvert // 32 bits on some machines
			if _, ok := first[st.Ino]; !ok {
				first[st.Ino] = name
			}
			f.first = first[st.Ino]
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer file.Close() //nolint:errcheck // only read
			sum := sha256.New()
			if _, err := io.Copy(sum, file); err != nil {
				return err
			}
			f.content = fmt.Sprintf("%d:%x", st.Size, sum.Sum(nil)[:8])
		case unix.S_IFLNK:
			if f.content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		f.xattrs, err = xattrs(path)
		all[name] = f
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// xattrs shows the extended attributes of a file.
func xattrs(path string) (string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if errors.Is(err, unix.ENOTSUP) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list extended attributes of %s: %w", path, err)
	}
	var all []string
	for _, name := range strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 }) {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("%s of %s: %w", name, path, err)
		}
		all = append(all, fmt.Sprintf("%s=%x", name, value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, ","), nil
}

// generator makes layers of few names, so that entries meet.
type generator struct {
	*rand.Rand
	files []string // names that were given to something that is no folder
}

func (g *generator) name() string {
	parts := make([]string, 1+g.IntN(3))
	for i := range parts {
		parts[i] = string("abcd"[g.IntN(4)])
	}
	return strings.Join(parts, "/")
}

func (g *generator) layer() []entry {
	var entries []entry
	for range 1 + g.IntN(12) {
		entries = append(entries, g.entry())
	}
	return entries
}

// entry is one at random, with attributes at random.
func (g *generator) entry() entry {
	name := g.name()
	e := entry{Header: tar.Header{Name: name, Mode: int64(g.IntN(0o10000)), Uid: g.IntN(3) * 100000, Gid: g.IntN(70000),
		ModTime: time.Unix(g.Int64N(1<<31)-1<<30, g.Int64N(1e9)), Format: tar.FormatPAX}}
	kind := g.IntN(20)
	switch {
	case kind < 7:
		e.Typeflag, e.Name = tar.TypeDir, name+"/"
	case kind < 11:
		e.Typeflag = tar.TypeReg
		e.data = strings.Repeat(string(byte('a'+g.IntN(26))), g.IntN(3)*g.IntN(9000))
	case kind < 13:
		e.Typeflag = tar.TypeSymlink
		e.Linkname = []string{"/", "../", "", "./", "/../", "../../"}[g.IntN(6)] + g.name()
	case kind < 15 && len(g.files) > 0:
		e = link(name, g.files[g.IntN(len(g.files))])
	case kind == 15:
		e.Typeflag, e.Devmajor, e.Devminor = []byte{tar.TypeChar, tar.TypeBlock}[g.IntN(2)], int64(g.IntN(300)), int64(g.IntN(1000))
	case kind == 16:
		e.Typeflag = tar.TypeFifo
	case kind < 19:
		return file(filepath.Join(filepath.Dir(name), ".wh."+filepath.Base(name)), "")
	default:
		return file(name+"/.wh..wh..opq", "")
	}
	if e.Typeflag != tar.TypeDir {
		g.files = append(g.files, name)
	}
	if e.Typeflag == tar.TypeReg || e.Typeflag == tar.TypeDir {
		e = g.xattrs(e)
	}
	return e
}

func (g *generator) xattrs(e entry) entry {
	for range g.IntN(3) {
		switch g.IntN(3) {
		case 0:
			e = xattr(e, "user."+string("xyz"[g.IntN(3)]), "value")
		case 1:
			e = xattr(e, "trusted.t", strings.Repeat("\x00v", 1+g.IntN(50)))
		default: // struct vfs_ns_cap_data, revision 2: cap_net_raw effective
			e = xattr(e, "security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
		}
	}
	return e
}

// describe lists what layers have, for a failure to be understood.
func describe(stack [][]entry) string {
	var b strings.Builder
	for i, entries := range stack {
		fmt.Fprintf(&b, "layer %d\n", i)
		for _, e := range entries {
			fmt.Fprintf(&b, "  %c %s %s %o %d\n", e.Typeflag, e.Name, e.Linkname, e.Mode, len(e.data))
		}
	}
	return b.String()
}
