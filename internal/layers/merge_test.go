package layers

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"brig/internal/erofs"
	"brig/internal/testenv"
)

// entry is a tar entry in few words: an fd with its header's fields as a test needs them.
type entry struct {
	tar.Header
	data string
}

var day = time.Unix(86400, 0)

func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: day}}
}
func file(name, data string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: day}, data}
}
func symlink(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, ModTime: day}}
}
func link(name, to string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, ModTime: day}}
}
func device(name string, major, minor int64) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: name, Mode: 0o600, Devmajor: major, Devminor: minor, ModTime: day}}
}

// with changes the header of an entry.
func with(e entry, change func(h *tar.Header)) entry {
	change(&e.Header)
	return e
}

// xattr gives an entry an extended attribute.
func xattr(e entry, name, value string) entry {
	e.PAXRecords = maps.Clone(e.PAXRecords)
	if e.PAXRecords == nil {
		e.PAXRecords = map[string]string{}
	}
	e.PAXRecords["SCHILY.xattr."+name] = value
	return e
}

// layer makes a tar archive.
func layer(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.data))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// scratch is an image in the making.
func scratch(t testing.TB) (*erofs.Writer, *os.File) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "erofs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	w, err := erofs.NewWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	return w, f
}

// merge applies layers and closes the image.
func merge(t testing.TB, l Limits, devices DevicePolicy, layers ...[]byte) (*erofs.Inode, error) {
	t.Helper()
	w, _ := scratch(t)
	m := NewMerger(w, l, devices)
	for _, b := range layers {
		if err := m.Apply(bytes.NewReader(b)); err != nil {
			return nil, err
		}
	}
	if _, err := w.Close(m.Root()); err != nil {
		t.Fatalf("the image cannot be written: %v", err)
	}
	return m.Root(), nil
}

// tree shows a tree in one line, a word a name: type, path, what is in it, and what is not as usual.
func tree(root *erofs.Inode) string {
	var words []string
	seen := map[*erofs.Inode]string{}
	var walk func(path string, n *erofs.Inode)
	walk = func(path string, n *erofs.Inode) {
		if first, ok := seen[n]; ok {
			words = append(words, path+"=="+first)
			return
		}
		seen[n] = path
		word := map[uint32]string{unix.S_IFDIR: path + "/", unix.S_IFREG: fmt.Sprintf("%s[%d]", path, n.Data.Size),
			unix.S_IFLNK: path + "->" + n.Target, unix.S_IFIFO: path + "|",
			unix.S_IFCHR: fmt.Sprintf("%s#c%d:%d", path, unix.Major(n.Rdev), unix.Minor(n.Rdev)),
			unix.S_IFBLK: fmt.Sprintf("%s#b%d:%d", path, unix.Major(n.Rdev), unix.Minor(n.Rdev))}[n.Mode&unix.S_IFMT]
		usual := map[uint32]uint32{unix.S_IFDIR: 0o755, unix.S_IFREG: 0o644, unix.S_IFLNK: 0o777}[n.Mode&unix.S_IFMT]
		if mode := n.Mode & 0o7777; usual != 0 && mode != usual {
			word += fmt.Sprintf(",%o", mode)
		}
		if n.UID|n.GID != 0 {
			word += fmt.Sprintf(",%d:%d", n.UID, n.GID)
		}
		if n.Mtime != day.Unix() || n.MtimeNsec != 0 {
			word += fmt.Sprintf("@%d.%09d", n.Mtime, n.MtimeNsec)
		}
		for _, name := range slices.Sorted(maps.Keys(n.Xattrs)) {
			word += fmt.Sprintf(",%s=%s", name, n.Xattrs[name])
		}
		words = append(words, word)
		for _, name := range slices.Sorted(maps.Keys(n.Children)) {
			walk(strings.TrimPrefix(path+"/"+name, "./"), n.Children[name])
		}
	}
	walk(".", root)
	return strings.Join(words[1:], " ")
}

// merged are stacks of layers and the trees they give.
var merged = []struct {
	name   string
	layers [][]entry
	want   string
}{
	{"names are cleaned", [][]entry{{dir("./"), dir("/a/"), file("a//b/../c", "1"), file("./d/.", "")}}, "a/ a/c[1] d[0]"},
	{"a missing folder is made", [][]entry{{file("a/b", "1")}}, "a/@0.000000000 a/b[1]"},
	{"a folder's entry after its child", [][]entry{{file("a/b", "1"), dir("a")}}, "a/ a/b[1]"},
	{"the later entry of a name counts", [][]entry{{file("a", "1"), file("a", "22")}}, "a[2]"},
	{"a folder over a folder keeps children, takes attributes", [][]entry{
		{xattr(dir("a"), "user.x", "1"), file("a/b", "1")},
		{with(xattr(dir("a"), "user.y", "2"), func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o1777, 7, 8 })}},
		"a/,1777,7:8,user.y=2 a/b[1]"},
	{"a file over a folder", [][]entry{{dir("a"), file("a/b", "1")}, {file("a", "22")}}, "a[2]"},
	{"a folder over a file", [][]entry{{file("a", "1")}, {dir("a"), file("a/b", "22")}}, "a/ a/b[2]"},
	{"a folder over a link to a folder", [][]entry{{dir("b"), file("b/c", "1"), symlink("a", "b")}, {dir("a")}}, "a/ b/ b/c[1]"},
	{"a file over a link writes nothing through it", [][]entry{{file("b", "1"), symlink("a", "b")}, {file("a", "22")}}, "a[2] b[1]"},
	{"under a link, as where /lib leads to usr/lib", [][]entry{{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib")},
		{file("lib/x", "1")}}, "lib->usr/lib usr/ usr/lib/ usr/lib/x[1]"},
	{"links out of the root stay in it", [][]entry{{dir("etc"), dir("d"), symlink("d/a", "../../../../etc"), symlink("b", "/../etc/.")},
		{file("d/a/x", "1"), file("b/y", "1")}}, "b->/../etc/. d/ d/a->../../../../etc etc/ etc/x[1] etc/y[1]"},
	{"a dangling link's folder is made", [][]entry{{symlink("a", "b/c"), file("a/x", "1")}},
		"a->b/c b/@0.000000000 b/c/@0.000000000 b/c/x[1]"},
	{"links to devices of the host are text", [][]entry{{symlink("a", "/proc/self/exe"), symlink("b", "../../../etc/shadow")}},
		"a->/proc/self/exe b->../../../etc/shadow"},
	{"hard links", [][]entry{{file("a", "1"), link("b", "a"), link("c", "/b")}}, "a[1] b==a c==a"},
	{"a hard link to a lower layer, through a link", [][]entry{{dir("d"), file("d/a", "1"), symlink("s", "d")}, {link("b", "s/a")}},
		"b[1] d/ d/a==b s->d"},
	{"a hard link to a link is of the link", [][]entry{{file("a", "1"), symlink("s", "a"), link("b", "s")}}, "a[1] b->a s==b"},
	{"a new file leaves the other name alone", [][]entry{{file("a", "1"), link("b", "a")}, {file("a", "22")}}, "a[2] b[1]"},
	{"whiteout", [][]entry{{dir("a"), file("a/b", "1"), file("c", "1"), file("d", "1")}, {file(".wh.a", ""), file(".wh.c", "")}}, "d[1]"},
	{"whiteout of nothing", [][]entry{{file("a", "1")}, {file(".wh.b", ""), file("x/.wh.b", ""), file("a/.wh.b", "")}}, "a[1]"},
	{"whiteout before its own layer's entry", [][]entry{{file("a", "1")}, {file(".wh.a", ""), file("a", "22")}}, "a[2]"},
	{"whiteout after its own layer's entry", [][]entry{{file("a", "1")}, {file("a", "22"), file(".wh.a", "")}}, "a[2]"},
	{"whiteout of a link, not of its target", [][]entry{{dir("d"), file("d/x", "1"), symlink("s", "d")}, {file(".wh.s", "")}}, "d/ d/x[1]"},
	{"whiteout through a link", [][]entry{{dir("d"), file("d/x", "1"), symlink("s", "d")}, {file("s/.wh.x", "")}}, "d/ s->d"},
	{"whiteout of one of two names", [][]entry{{file("a", "1"), link("b", "a")}, {file(".wh.a", "")}}, "b[1]"},
	{"whiteout of a folder this layer fills", [][]entry{{dir("a"), file("a/b", "1"), dir("a/c"), file("a/c/d", "1")},
		{dir("a"), file("a/c/e", "22"), file(".wh.a", "")}}, "a/ a/c/ a/c/e[2]"},
	{"opaque first", [][]entry{{dir("a"), file("a/b", "1"), file("a/c", "1")}, {dir("a"), file("a/.wh..wh..opq", ""), file("a/c", "22")}},
		"a/ a/c[2]"},
	{"opaque last", [][]entry{{dir("a"), file("a/b", "1"), file("a/c", "1")}, {dir("a"), file("a/c", "22"), file("a/.wh..wh..opq", "")}},
		"a/ a/c[2]"},
	{"opaque in the root", [][]entry{{file("b", "1")}, {file("c", "1"), file(".wh..wh..opq", "")}}, "c[1]"},
	{"opaque leaves a lower file that this layer has linked", [][]entry{{dir("a"), file("a/b", "1")},
		{link("a/c", "a/b"), file("a/.wh..wh..opq", "")}}, "a/ a/c[1]"},
	{"whiteouts in the lowest layer", [][]entry{{file("a", "1"), file(".wh.a", ""), file(".wh..wh..opq", "")}}, "a[1]"},
	{"AUFS's own", [][]entry{{file(".wh..wh.aufs", ""), dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", ""), file("a", "1")}}, "a[1]"},
	{"times", [][]entry{{with(file("a", ""), func(h *tar.Header) {
		h.ModTime, h.Format = time.Unix(-2, 250), tar.FormatPAX
	}), with(file("b", ""), func(h *tar.Header) { h.ModTime, h.Format = time.Unix(1<<34, 999999999), tar.FormatPAX })}},
		"a[0]@-2.000000250 b[0]@17179869184.999999999"},
	{"owners and set-user-ID", [][]entry{{with(file("a", ""), func(h *tar.Header) {
		h.Uid, h.Gid, h.Mode, h.Format = 1<<32-2, 1<<31, 0o6755, tar.FormatPAX
	})}}, "a[0],6755,4294967294:2147483648"},
	{"devices", [][]entry{{device("null", 1, 3), device("whiteout", 0, 0), with(device("sda", 8, 1<<20-1), func(h *tar.Header) {
		h.Typeflag, h.Format = tar.TypeBlock, tar.FormatGNU
	}), with(device("f", 0, 0), func(h *tar.Header) { h.Typeflag = tar.TypeFifo })}}, "f| null#c1:3 sda#b8:1048575 whiteout#c0:0"},
	{"extended attributes kept", [][]entry{{xattr(xattr(xattr(file("a", ""), "security.capability", "cap"), "user.x", "1"), "trusted.y", "\x00\xff"),
		xattr(xattr(dir("d"), "system.posix_acl_default", "acl"), "system.posix_acl_access", "acl"), xattr(symlink("s", "a"), "trusted.z", "1")}},
		"a[0],security.capability=cap,trusted.y=\x00\xff,user.x=1 d/,system.posix_acl_access=acl,system.posix_acl_default=acl s->a,trusted.z=1"},
	{"extended attributes left out", [][]entry{{xattr(xattr(xattr(xattr(xattr(file("a", ""), "security.selinux", "l"), "trusted.overlay.redirect", "/b"),
		"user.overlay.opaque", "y"), "system.nfs4_acl", "x"), "security.SMACK64EXEC", "_"), xattr(symlink("s", "a"), "user.x", "1"),
		xattr(file("b", ""), "btrfs.compression", "zstd")}}, "a[0] b[0] s->a"},
	{"global headers", [][]entry{{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header",
		PAXRecords: map[string]string{"comment": "x", "path": "../../etc"}}}, file("a", "1")}}, "a[1]"},
	{"long names", [][]entry{{with(file(strings.Repeat("n", 255), "1"), func(h *tar.Header) { h.Format = tar.FormatGNU })}},
		strings.Repeat("n", 255) + "[1]"},
}

func TestMerge(t *testing.T) {
	t.Parallel()
	for _, c := range merged {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root, err := merge(t, DefaultLimits(), KeepDevices, encode(t, c.layers)...)
			if err != nil {
				t.Fatal(err)
			}
			if got := tree(root); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestDeterministic: the same layers give the same bytes, although maps have no order.
func TestDeterministic(t *testing.T) {
	t.Parallel()
	for _, c := range merged {
		var images [2][]byte
		for i := range images {
			name, err := writeImage(t, encode(t, c.layers))
			if err != nil {
				t.Fatal(err)
			}
			if images[i], err = os.ReadFile(name); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(images[0], images[1]) {
			t.Errorf("%s: the same layers gave two images", c.name)
		}
	}
}

// TestGivenBack: data whose last name is gone takes no disk. What has a name still is kept.
func TestGivenBack(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	big := strings.Repeat("x", size)
	for _, c := range []struct {
		name   string
		layers [][]entry
		kept   int64
	}{
		{"replaced", [][]entry{{file("a", big)}, {file("a", "")}}, 0},
		{"replaced in its own layer", [][]entry{{file("a", big), file("a", big)}}, 1},
		{"hidden", [][]entry{{file("a/b/c", big), file("a/d", big), file("e", big)}, {file(".wh.a", "")}}, 1},
		{"hidden with its folder", [][]entry{{file("a/b/c", big), file("a/d", big)}, {file("a/.wh..wh..opq", "")}}, 0},
		{"one of two names", [][]entry{{file("a", big), link("b", "a")}, {file(".wh.a", "")}}, 1},
		{"one of two names, and given again", [][]entry{{file("a", big), link("b", "a")}, {file(".wh.a", ""), link("c", "b")}, {file(".wh.b", "")}}, 1},
		{"both names", [][]entry{{file("a", big), link("b", "a")}, {file(".wh.a", ""), symlink("b", "c")}}, 0},
		{"under a folder's name", [][]entry{{file("a", big)}, {dir("a")}}, 0},
	} {
		name, err := writeImage(t, encode(t, c.layers))
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			t.Fatal(err)
		}
		if got := (st.Blocks*512 + size/2) / size; got != c.kept {
			t.Errorf("%s: %d bytes of disk, want about %d", c.name, st.Blocks*512, c.kept*size)
		}
	}
}

// TestMemory: a large file costs no memory. It is not parallel, so that nothing else allocates.
func TestMemory(t *testing.T) { //nolint:paralleltest // see above
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	if _, err := io.Copy(z, newMade(1, 64<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	w, _ := scratch(t)
	m := NewMerger(w, DefaultLimits(), KeepDevices)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, _, err := Decompress(&gz, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // only read
	if err := m.Apply(r); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("a file of 64 MiB allocated %d bytes", got)
	}
}

// TestSparse has GNU tar write files with holes in all its forms.
func TestSparse(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Program("tar"))
	from := t.TempDir()
	for name, at := range map[string][]int64{"hole": {}, "end": {32 << 20}, "many": {0, 1 << 20, 1<<20 + 5000, 3 << 20, 5 << 20, 7 << 20, 9 << 20, 11 << 20, 13 << 20}} {
		f, err := os.Create(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, offset := range at {
			if _, err := f.WriteAt([]byte(name), offset); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(f.Truncate(32<<20+10), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	want := survey(t, from)
	for _, form := range [][]string{{"gnu"}, {"posix", "--sparse-version=0.0"}, {"posix", "--sparse-version=0.1"}, {"posix", "--sparse-version=1.0"}} {
		t.Run(strings.Join(form, ""), func(t *testing.T) {
			t.Parallel()
			args := append([]string{"-C", from, "-c", "-S", "--format=" + form[0]}, form[1:]...)
			archive, err := exec.Command("tar", append(args, ".")...).Output()
			if err != nil {
				t.Fatal(err)
			}
			if len(archive) > 1<<20 {
				t.Fatalf("an archive of %d bytes is not sparse", len(archive))
			}
			image, err := writeImage(t, [][]byte{archive})
			if err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(image, &st); err != nil || st.Blocks*512 > 4<<20 {
				t.Errorf("the image takes %d bytes of disk, %v", st.Blocks*512, err)
			}
			testenv.Check(t, testenv.Root)
			for name, got := range survey(t, mounted(t, image)) {
				if got.content != want[name].content {
					t.Errorf("%s: %s, want %s", name, got.content, want[name].content)
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("d/", 2047)
	for _, c := range []struct {
		name    string
		entries []entry // the last one is to be refused
		reason  string
	}{
		{"a name out of the root", []entry{file("../etc/passwd", "x")}, "its name leads out of the image"},
		{"a name out of the root, later", []entry{file("a/../../b", "x")}, "its name leads out of the image"},
		{"an absolute name out of the root", []entry{file("/../b", "x")}, "its name leads out of the image"},
		{"an empty name", []entry{file("", "x")}, "the root of the image can only be a folder"},
		{"the root as a link", []entry{symlink("./", "/etc")}, "the root of the image can only be a folder"},
		{"a name too long", []entry{file(strings.Repeat("n", 256), "")}, "a part of 256 bytes, and a file name has at most 255"},
		{"a path too long", []entry{dir(strings.Repeat("n/", 2048))}, "its name has 4096 bytes, and a path has at most 4095"},
		{"a depth too deep, through a link", []entry{dir(deep), symlink("s", deep), file("s/a/b", "")}, "and a path has at most 2048"},
		{"below a file", []entry{file("a", ""), file("a/b", "")}, `"a", on the way to it, is no folder`},
		{"below a loop of links", []entry{symlink("a", "b"), symlink("b", "a"), file("a/c", "")}, "too many levels of symbolic links"},
		{"below a link to itself", []entry{symlink("a", "a/a"), file("a/c", "")}, "too many levels of symbolic links"},
		{"below links that cost time", []entry{symlink("a", strings.Repeat("./", 2000)), symlink("b", "a/a/a"), file("b/c", "")},
			"too many levels of symbolic links"},
		{"below a whiteout", []entry{file(".wh.a/b", "")}, `it lies below ".wh.a", which is a whiteout`},
		{"a whiteout of the folder", []entry{file("a/.wh.", "")}, `it is a whiteout of ""`},
		{"a whiteout of the folder by its dot", []entry{file("a/.wh..", "")}, `it is a whiteout of "."`},
		{"a whiteout of the parent", []entry{file("a/.wh...", "")}, `it is a whiteout of ".."`},
		{"a hard link forward", []entry{link("a", "b"), file("b", "")}[:1], `is a hard link to "b", which is not there before it`},
		{"a hard link out of the root", []entry{link("a", "../../etc/passwd")}, `its name leads out of the image`},
		{"a hard link to a folder", []entry{dir("b"), link("a", "b")}, `is a hard link to "b", which is a folder`},
		{"a hard link to the root", []entry{link("a", "/")}, "is a hard link to the root"},
		{"a hard link to itself", []entry{file("a", ""), link("a", "a")}, `is a hard link to "a", which is not there before it`},
		{"a hard link through a loop", []entry{symlink("a", "a"), link("b", "a/c")}, "too many levels of symbolic links"},
		{"a link to nothing", []entry{symlink("a", "")}, "is a symbolic link to nothing"},
		{"a link too long", []entry{symlink("a", strings.Repeat("n", 4096))}, "is a symbolic link to a path of 4096 bytes"},
		{"an owner too high", []entry{with(file("a", ""), func(h *tar.Header) { h.Uid = 1<<32 - 1 })}, "its user is 4294967295"},
		{"a negative owner", []entry{with(file("a", ""), func(h *tar.Header) { h.Gid, h.Format = -1, tar.FormatGNU })}, "its group is -1"},
		{"a device too high", []entry{with(device("a", 1<<12, 0), func(h *tar.Header) { h.Format = tar.FormatGNU })}, "is a device of numbers 4096:0"},
		{"a type of no image", []entry{with(file("a", ""), func(h *tar.Header) { h.Typeflag = tar.TypeCont })}, `type '7' is none that an image's layer can have`},
		{"an attribute without a name", []entry{xattr(file("a", ""), "user.", "x")}, `has an extended attribute "user." without a name`},
		{"an attribute's name too long", []entry{xattr(file("a", ""), "user."+strings.Repeat("n", 251), "x")}, "whose name has 256 bytes; 255 is the most"},
		{"an attribute too long", []entry{xattr(file("a", ""), "user.x", strings.Repeat("x", 1<<16))}, "has 65536 bytes; 65535 is the most"},
		{"too many attributes", []entry{xattr(xattr(file("a", ""), "user.x", strings.Repeat("x", 40000)), "user.y", strings.Repeat("x", 40000))},
			"has more than 65536 bytes of extended attributes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := merge(t, DefaultLimits(), KeepDevices, layer(t, c.entries...))
			var refused *EntryError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.reason) {
				t.Fatalf("got %v\nwant a refused entry: %s", err, c.reason)
			}
			if want := c.entries[len(c.entries)-1].Name; refused.Entry != want {
				t.Errorf("the entry named is %q, want %q", refused.Entry, want)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes: %.200s…", len(err.Error()), err)
			}
		})
	}
}

func TestDevicesRefused(t *testing.T) {
	t.Parallel()
	_, err := merge(t, DefaultLimits(), RefuseDevices, layer(t, device("dev/null", 1, 3)))
	if want := `entry "dev/null": is a device, and devices are refused`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// many has that many attributes of few bytes.
func many(e entry, n int) entry {
	for i := range n {
		e = xattr(e, fmt.Sprint("user.", i), "x")
	}
	return e
}

func TestLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit  string
		change func(l *Limits)
		layers [][]entry
	}{
		{"Size", func(l *Limits) { l.Size = 10 }, [][]entry{{file("a", "12345")}, {file("a", "123456")}}},
		{"Entries", func(l *Limits) { l.Entries = 3 }, [][]entry{{file("a", "")}, {file("a", ""), file("a", ""), file("a", "")}}},
		{"Entries", func(l *Limits) { l.Entries = 3 }, [][]entry{{file("a/b/c/d", "")}}},
		{"Entries", func(l *Limits) { l.Entries = 1 }, [][]entry{{file("a", ""), file(".wh.a", "")}}},
		{"Entries", func(l *Limits) { l.Entries = 3 }, [][]entry{{symlink("a", strings.Repeat("./", 64)), file("a/b", "")}}},
		{"Metadata", func(l *Limits) { l.Metadata = 10 }, [][]entry{{file("a", "")}, {file("0123456789", "")}}},
		{"Metadata", func(l *Limits) { l.Metadata = 10 }, [][]entry{{symlink("a", "0123456789")}}},
		{"Metadata", func(l *Limits) { l.Metadata = 10 }, [][]entry{{xattr(file("a", ""), "user.a", "1234")}}},
		{"Metadata", func(l *Limits) { l.Metadata = 1000 }, [][]entry{{many(file("a", ""), 10)}}},
	} {
		l := DefaultLimits()
		c.change(&l)
		var layers [][]byte
		for _, entries := range c.layers {
			layers = append(layers, layer(t, entries...))
		}
		_, err := merge(t, l, KeepDevices, layers...)
		var limit *LimitError
		var refused *EntryError
		if !errors.As(err, &limit) || limit.Limit != c.limit || !errors.As(err, &refused) {
			t.Errorf("%s: got %v", c.limit, err)
		}
	}
}

// TestManyWhiteouts: they cost no more than as many entries. Each looking through the whole folder would take minutes.
func TestManyWhiteouts(t *testing.T) {
	t.Parallel()
	upper := []entry{dir("a")}
	for i := range 40000 {
		upper = append(upper, file("a/"+strconv.Itoa(i), ""))
	}
	for range 20000 {
		upper = append(upper, file(".wh.a", ""), file("a/.wh..wh..opq", ""))
	}
	root, err := merge(t, DefaultLimits(), KeepDevices, layer(t, file("a/lower", "")), layer(t, upper...))
	if err != nil || len(root.Children["a"].Children) != 40000 {
		t.Error(err)
	}
}

// TestBroken is what archive/tar refuses: the error says after which entry.
func TestBroken(t *testing.T) {
	t.Parallel()
	whole := layer(t, file("a", "1"), file("b", strings.Repeat("2", 600)))
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"a cut header": {whole[:1024+100], `after entry "a": unexpected EOF`},
		"cut data":     {whole[:1024+512+600-50], `entry "b": copy its data into the image: `},
		"a wrong sum":  {append(bytes.Clone(whole[:1024]), bytes.Repeat([]byte{1}, 512)...), `after entry "a": archive/tar: invalid tar header`},
		"no tar":       {bytes.Repeat([]byte("x"), 512), "it is no tar archive"},
	} {
		_, err := merge(t, DefaultLimits(), KeepDevices, c.data)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

// TestReadToTheEnd: a digest of what is read is one of all the layer has.
func TestReadToTheEnd(t *testing.T) {
	t.Parallel()
	w, _ := scratch(t)
	r := bytes.NewReader(append(layer(t, file("a", "1")), make([]byte, 1<<20)...))
	if err := NewMerger(w, DefaultLimits(), KeepDevices).Apply(r); err != nil || r.Len() != 0 {
		t.Errorf("%d bytes are left, %v", r.Len(), err)
	}
}
