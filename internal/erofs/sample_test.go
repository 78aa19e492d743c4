package erofs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sample is a tree and what its files have.
type sample struct {
	root  *Inode
	bytes map[*Inode][]byte
	image string
}

// write makes the image of the tree that fill makes.
func write(t testing.TB, fill func(*Writer, *sample)) *sample {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := NewWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	s := &sample{root: folder(), bytes: make(map[*Inode][]byte), image: f.Name()}
	fill(w, s)
	size, err := w.Close(s.root)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != size {
		t.Fatalf("the file has %d bytes, Close said %d: %v", info.Size(), size, err)
	}
	return s
}

func folder() *Inode { return &Inode{Mode: unix.S_IFDIR | 0o755, Children: make(map[string]*Inode)} }

// add adds a regular file.
func (s *sample) add(t testing.TB, w *Writer, parent *Inode, name string, data []byte) *Inode {
	t.Helper()
	d, err := w.CopySize(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	i := &Inode{Mode: unix.S_IFREG | 0o644, Data: d}
	parent.Children[name] = i
	s.bytes[i] = data
	return i
}

// kinds is a small tree with one of everything.
func kinds(t testing.TB) func(*Writer, *sample) {
	return func(w *Writer, s *sample) {
		r := s.root
		r.Mode, r.UID, r.GID = unix.S_IFDIR|unix.S_ISVTX|0o777, 1, noID-1
		s.add(t, w, r, "empty", nil)
		hello := s.add(t, w, r, "hello", []byte("hello\n"))
		hello.Mode |= unix.S_ISUID
		hello.Mtime, hello.MtimeNsec = -1, 999999999
		hello.Xattrs = map[string]string{
			"user.same": "a value that is shared", "user.own": "mine", "user.empty": "", "trusted.t": "\x00\xff",
			"security.capability":     "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"system.posix_acl_access": acl,
		}
		r.Children["-hard"] = hello
		sub := folder()
		r.Children["sub"] = sub
		sub.Xattrs = map[string]string{"user.same": "a value that is shared", "system.posix_acl_default": acl}
		sub.Children["hard"] = hello
		sub.Children["..."] = folder()
		holes := bytes.Repeat(make([]byte, 1<<20), 5)
		copy(holes[2<<20+100:], "here")
		s.add(t, w, sub, "holes", append(holes, "tail"...))
		s.add(t, w, sub, "zeros", make([]byte, 10000))
		s.add(t, w, sub, "hole", make([]byte, 3<<20+5))
		r.Children["link"] = &Inode{Mode: unix.S_IFLNK | 0o777, Target: "sub/hard", Mtime: 1 << 33}
		r.Children["long"] = &Inode{Mode: unix.S_IFLNK | 0o777, Target: strings.Repeat("x", maxTarget)}
		r.Children["null"] = &Inode{Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(1, 3)}
		r.Children["disk"] = &Inode{Mode: unix.S_IFBLK | 0o600, Rdev: unix.Mkdev(4095, 1<<20-1)}
		r.Children["pipe"] = &Inode{Mode: unix.S_IFIFO | 0o600}
		r.Children["socket"] = &Inode{Mode: unix.S_IFSOCK | 0o600}
	}
}

// acl is u::rwx u:1000:r-- g::r-x m::r-x o::r--, as the kernel has it (include/uapi/linux/posix_acl_xattr.h).
const acl = "\x02\x00\x00\x00" +
	"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
	"\x10\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

// random is a tree of n entries that chance makes from a seed: names of any bytes, all kinds, hard links, attributes that are
// shared and that are long, holes.
func random(t testing.TB, seed uint64, n int) func(*Writer, *sample) {
	return func(w *Writer, s *sample) {
		r := rand.New(rand.NewPCG(seed, 0))
		folders, others := []*Inode{s.root}, []*Inode(nil)
		for range n {
			parent := folders[r.IntN(len(folders))]
			name := randomName(r)
			if parent.Children[name] != nil {
				continue
			}
			switch r.IntN(10) {
			case 0, 1:
				i := folder()
				folders = append(folders, i)
				parent.Children[name] = i
				dress(r, i)
			case 2:
				if len(others) > 0 {
					parent.Children[name] = others[r.IntN(len(others))]
				}
			case 3:
				i := &Inode{Mode: unix.S_IFLNK | 0o777, Target: strings.Repeat("t", 1+r.IntN(4095)>>r.IntN(12))}
				parent.Children[name] = i
				dress(r, i)
				others = append(others, i)
			case 4:
				kind := []uint32{unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK}[r.IntN(4)]
				i := &Inode{Mode: kind | r.Uint32N(0o10000)}
				if kind == unix.S_IFCHR || kind == unix.S_IFBLK {
					i.Rdev = unix.Mkdev(r.Uint32N(4096), r.Uint32N(1<<20))
				}
				parent.Children[name] = i
				dress(r, i)
				others = append(others, i)
			default:
				i := s.add(t, w, parent, name, randomData(r))
				dress(r, i)
				others = append(others, i)
			}
		}
	}
}

func randomName(r *rand.Rand) string {
	b := make([]byte, 1+r.IntN(255)>>r.IntN(8))
	for i := range b {
		b[i] = "-.!~_abcxyz\n \xff\xc3\xa4"[r.IntN(16)]
	}
	if name := string(b); name != "." && name != ".." {
		return name
	}
	return "dots"
}

func randomData(r *rand.Rand) []byte {
	b := make([]byte, r.IntN(1<<22)>>r.IntN(22))
	noise := rand.NewChaCha8([32]byte{byte(r.Uint32())})
	for at := 0; at < len(b); {
		n := min(len(b)-at, r.IntN(3<<20)>>r.IntN(10))
		if r.IntN(3) > 0 {
			noise.Read(b[at : at+n])
		}
		at += n + r.IntN(2)
	}
	return b
}

// dress gives an inode its owner, time, permissions and attributes.
func dress(r *rand.Rand, i *Inode) {
	i.UID, i.GID = r.Uint32N(noID), r.Uint32N(noID)>>r.IntN(32)
	i.Mtime, i.MtimeNsec = r.Int64N(1<<40)-1<<39, r.Uint32N(1e9)
	kind := i.Mode & unix.S_IFMT
	if kind != unix.S_IFLNK {
		i.Mode = kind | r.Uint32N(0o10000)
	}
	if r.IntN(3) > 0 {
		return
	}
	i.Xattrs = map[string]string{"security.selinux": "system_u:object_r:container_file_t:s0"}
	prefixes := []string{"trusted.", "security."}
	if kind == unix.S_IFREG || kind == unix.S_IFDIR {
		prefixes = append(prefixes, "user.") // xattr(7): user attributes are of files and folders only
		if r.IntN(4) == 0 {
			i.Xattrs["system.posix_acl_access"] = acl
			i.Mode = i.Mode&^0o777 | 0o754
		}
	}
	for range r.IntN(5) {
		value := strings.Repeat("v", r.IntN(4096)>>r.IntN(12))
		if r.IntN(20) == 0 {
			value = strings.Repeat("V", maxXattrValue-r.IntN(3))
		}
		i.Xattrs[prefixes[r.IntN(len(prefixes))]+fmt.Sprint("name", r.IntN(10))] = value
	}
}
