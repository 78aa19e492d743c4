package erofs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func sum(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// golden is the digest of the image of kinds. When the format is changed with purpose, images that were built before have to be
// built again: their manifests would have two images.
const golden = "b4cc7d6ad22af8498a67e619687c84faf3d521e8c14ec88cc6968ba63d7dc96a"

// TestGolden: the bytes of an image do not change in silence.
func TestGolden(t *testing.T) {
	t.Parallel()
	if got := sum(t, write(t, kinds(t)).image); got != golden {
		t.Errorf("the image has the digest %s", got)
	}
}

// TestSame: the same calls give the same bytes.
func TestSame(t *testing.T) {
	t.Parallel()
	if a, b := write(t, random(t, 5, 300)), write(t, random(t, 5, 300)); sum(t, a.image) != sum(t, b.image) {
		t.Error("two images of one tree differ")
	}
}

// TestRefused: what cannot be in a file system is an error that says where.
func TestRefused(t *testing.T) {
	t.Parallel()
	file := func() *Inode { return &Inode{Mode: unix.S_IFREG | 0o644} }
	in := func(name string, i *Inode) *Inode {
		r := folder()
		r.Children["sub"] = folder()
		r.Children["sub"].Children[name] = i
		return r
	}
	with := func(change func(*Inode)) *Inode {
		i := file()
		change(i)
		return in("f", i)
	}
	attr := func(name, value string) *Inode {
		return with(func(i *Inode) { i.Xattrs = map[string]string{name: value} })
	}
	cycle, twice := folder(), folder()
	cycle.Children["a"] = folder()
	cycle.Children["a"].Children["b"] = cycle
	twice.Children["a"] = folder()
	twice.Children["b"] = twice.Children["a"]
	many := make(map[string]string)
	for i := range 5 {
		many[fmt.Sprint("user.", i)] = strings.Repeat("v", maxXattrValue)
	}
	names := make(map[string]string)
	for i := range 300 {
		names[fmt.Sprintf("user.%0250d", i)] = ""
	}
	for name, c := range map[string]struct {
		root *Inode
		want string
	}{
		"no root":          {nil, `"/": it is no folder`},
		"root is a file":   {file(), `"/": it is no folder`},
		"empty name":       {in("", file()), `"/sub": "" cannot be the name`},
		"dot":              {in(".", file()), `"/sub": "." cannot be the name`},
		"dots":             {in("..", file()), `"/sub": ".." cannot be the name`},
		"slash":            {in("a/b", file()), `"/sub": "a/b" cannot be the name`},
		"NUL":              {in("a\x00b", file()), `"/sub": "a\x00b" cannot be the name`},
		"long name":        {in(strings.Repeat("n", 256), file()), `has 256 bytes; 255 are the most`},
		"no inode":         {in("f", nil), `"/sub/f": it has no inode`},
		"cycle":            {cycle, `"/a/b": a folder has one name`},
		"folder twice":     {twice, `"/b": a folder has one name, and this one has another: "/a"`},
		"no type":          {in("f", &Inode{Mode: 0o644}), `"/sub/f": mode 0644 is of no type`},
		"mode bits":        {with(func(i *Inode) { i.Mode |= 1 << 16 }), `"/sub/f": mode`},
		"entries":          {with(func(i *Inode) { i.Children = folder().Children; i.Children["x"] = file() }), `"/sub/f": it has entries`},
		"target":           {with(func(i *Inode) { i.Target = "x" }), `"/sub/f": it has a target`},
		"data":             {in("f", &Inode{Mode: unix.S_IFIFO, Data: Data{Size: 1}}), `"/sub/f": it has data`},
		"empty link":       {in("f", &Inode{Mode: unix.S_IFLNK}), `"/sub/f": the target of a symbolic link`},
		"long link":        {in("f", &Inode{Mode: unix.S_IFLNK, Target: strings.Repeat("x", 4096)}), `this has 4096`},
		"NUL in link":      {in("f", &Inode{Mode: unix.S_IFLNK, Target: "a\x00"}), `"/sub/f": the target of a symbolic link`},
		"device":           {in("f", &Inode{Mode: unix.S_IFCHR, Rdev: unix.Mkdev(4096, 0)}), `"/sub/f": the device number 4096:0`},
		"minor":            {in("f", &Inode{Mode: unix.S_IFBLK, Rdev: unix.Mkdev(0, 1<<20)}), `"/sub/f": the device number 0:1048576`},
		"nanoseconds":      {with(func(i *Inode) { i.MtimeNsec = 1e9 }), `"/sub/f": its time`},
		"nobody's number":  {with(func(i *Inode) { i.UID = noID }), `"/sub/f": its owner is 4294967295:0`},
		"nobody's group":   {with(func(i *Inode) { i.GID = noID }), `"/sub/f": its owner is 0:4294967295`},
		"data elsewhere":   {with(func(i *Inode) { i.Data = Data{Size: 1, block: 1} }), `"/sub/f": its data are not of this image`},
		"data at 0":        {with(func(i *Inode) { i.Data = Data{Size: 1} }), `"/sub/f": its data are not of this image`},
		"negative":         {with(func(i *Inode) { i.Data = Data{Size: -1} }), `"/sub/f": a file of -1 bytes`},
		"attribute":        {attr("system.nfs4_acl", ""), `"/sub/f": extended attribute "system.nfs4_acl": EROFS has`},
		"attribute's name": {attr("user."+strings.Repeat("n", 251), ""), `up to 255 bytes`},
		"nameless":         {attr("user.", ""), `extended attribute "user."`},
		"NUL in attribute": {attr("user.a\x00b", ""), `extended attribute "user.a\x00b"`},
		"ACL's name":       {attr("system.posix_acl_access.x", ""), `EROFS has`},
		"attribute's size": {attr("user.x", strings.Repeat("v", 65536)), `"/sub/f": extended attribute "user.x": its 65536 bytes`},
		"attributes":       {with(func(i *Inode) { i.Xattrs = many }), `bytes of extended attributes are more`},
		"attribute names":  {with(func(i *Inode) { i.Xattrs = names }), `more than listxattr(2) can tell`},
	} {
		w, _ := begin(t)
		_, err := w.Close(c.root)
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 700 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDeep: a tree may be as deep as somebody wants; nothing recurses.
func TestDeep(t *testing.T) {
	t.Parallel()
	s := write(t, func(_ *Writer, s *sample) {
		for i := s.root; s.root.UID < 100000; s.root.UID++ {
			i.Children["d"] = folder()
			i = i.Children["d"]
		}
	})
	if info, err := os.Stat(s.image); err != nil || info.Size() > 16<<20 {
		t.Errorf("%d bytes: %v", info.Size(), err)
	}
}

// TestShared: what many files have lies in the image once.
func TestShared(t *testing.T) {
	t.Parallel()
	const files = 1000
	value := strings.Repeat("v", 1000)
	s := write(t, func(_ *Writer, s *sample) {
		for i := range files {
			s.root.Children[fmt.Sprint(i)] = &Inode{Mode: unix.S_IFREG, Xattrs: map[string]string{"user.v": value, "user.n": fmt.Sprint(i)}}
		}
	})
	data, err := os.ReadFile(s.image)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(data, []byte(value)); n != 1 {
		t.Errorf("the value is there %d times", n)
	}
	if most := files*200 + 4*blockSize; len(data) > most {
		t.Errorf("%d bytes, want %d at most", len(data), most)
	}
}

// FuzzTree: a tree that a stranger's image could make is refused or reads back as it is.
func FuzzTree(f *testing.F) {
	for seed := range uint64(4) {
		b := make([]byte, 200<<seed)
		for i, r := 0, rand.New(rand.NewPCG(seed, 1)); i < len(b); i++ {
			b[i] = byte(r.Uint32N(1 + 255>>(i%5)))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		fd, err := unix.MemfdCreate("image", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "image")
		defer file.Close()
		w, err := NewWriter(file)
		if err != nil {
			t.Fatal(err)
		}
		s := &sample{root: folder(), bytes: make(map[*Inode][]byte)}
		grow(t, w, s, input)
		if _, err := w.Close(s.root); err == nil {
			compareReader(t, s, file)
		}
	})
}

// grow lets the input say what is in the tree.
func grow(t *testing.T, w *Writer, s *sample, input []byte) {
	number := func() int {
		if len(input) == 0 {
			return 0
		}
		b := input[0]
		input = input[1:]
		return int(b)
	}
	text := func() string {
		n := min(number(), len(input))
		b := input[:n]
		input = input[n:]
		return string(b)
	}
	all := []*Inode{s.root}
	for len(input) > 0 {
		parent := all[number()%len(all)]
		if parent.Children == nil {
			parent = s.root
		}
		var i *Inode
		switch kind := number(); kind % 6 {
		case 0:
			i = folder()
		case 1:
			i = &Inode{Mode: unix.S_IFLNK | 0o777, Target: strings.Repeat(text(), number())}
		case 2:
			i = &Inode{Mode: uint32(number()) << 12, Rdev: unix.Mkdev(uint32(number())<<5, uint32(number())<<13)}
		case 3:
			i = all[number()%len(all)]
		default:
			data := bytes.Repeat(make([]byte, number()<<5), number())
			data = append(data, strings.Repeat(text(), number())...)
			i = s.add(t, w, folder(), "", data)
		}
		for range number() % 4 {
			if i.Xattrs == nil {
				i.Xattrs = make(map[string]string)
			}
			prefix := []string{"user.", "trusted.", "security.", "system.posix_acl_access", ""}[number()%5]
			i.Xattrs[prefix+text()] = strings.Repeat(text(), number())
		}
		i.UID, i.Mtime = uint32(number()), int64(number())
		parent.Children[text()] = i
		all = append(all, i)
	}
}
