package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

// erofs is a kernel that has the file system.
var erofs = testenv.Need{Name: "erofs", Missing: func() string {
	data, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(data), "\terofs\n") {
		return "the kernel has no EROFS"
	}
	return ""
}}

// mount gives the path of an image's root. The mount is nowhere but in a file descriptor, so that nothing can leave it behind.
// Kernels before 6.12 mount a device only, one that goes with the mount.
func mount(t testing.TB, image string) string {
	t.Helper()
	testenv.Check(t, testenv.Root, erofs)
	fd, err := mountSource(image)
	if errors.Is(err, unix.ENOTBLK) {
		loop := loopDevice(t, image)
		defer loop.Close()
		fd, err = mountSource(loop.Name())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

func mountSource(source string) (int, error) {
	fs, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "source", source), unix.FsconfigSetFlag(fs, "ro")); err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("mount: %w: %s", err, kernelLog(fs))
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
}

// loopDevice gives a device of the file, which is freed when nothing has it open or mounted.
func loopDevice(t testing.TB, image string) *os.File {
	t.Helper()
	file, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		loop, err := os.OpenFile(fmt.Sprint("/dev/loop", n), os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: blockSize}
		config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) { // another one was faster
			t.Fatal(err)
		}
	}
	t.Fatal("no loop device is free")
	return nil
}

// kernelLog is what the kernel says of a mount that failed.
func kernelLog(fs int) string {
	b := make([]byte, 4096)
	n, _ := unix.Read(fs, b)
	return string(b[:max(n, 0)])
}

// TestKernel: what was put in is what the kernel shows, of a tree with one of everything and of random ones.
func TestKernel(t *testing.T) {
	t.Parallel()
	trees := map[string]func(*Writer, *sample){"kinds": kinds(t), "nothing": func(*Writer, *sample) {}}
	for seed := range uint64(6) {
		trees[fmt.Sprint("random", seed)] = random(t, seed, 50<<seed)
	}
	for name, tree := range trees {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := write(t, tree)
			c := kernelComparison{t: t, sample: s, root: mount(t, s.image), names: make(map[*Inode]uint32), inodes: make(map[*Inode]uint64)}
			c.count(s.root)
			c.entry(".", s.root)
		})
	}
}

// kernelComparison compares a tree with what is mounted.
type kernelComparison struct {
	t *testing.T
	*sample
	root   string
	names  map[*Inode]uint32
	inodes map[*Inode]uint64
}

func (c *kernelComparison) count(i *Inode) {
	for _, child := range i.Children {
		c.names[child]++
		c.count(child)
	}
}

func (c *kernelComparison) entry(name string, i *Inode) {
	path := c.root + "/" + name
	var st unix.Statx_t // stat(2) of 32-bit machines has 32-bit times
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st); err != nil {
		c.t.Errorf("%q: %v", name, err)
		return
	}
	links, size := c.names[i], uint64(i.Data.Size)+uint64(len(i.Target))
	if i.Mode&unix.S_IFMT == unix.S_IFDIR {
		links, size = 2, st.Size
		for _, child := range i.Children {
			if child.Mode&unix.S_IFMT == unix.S_IFDIR {
				links++
			}
		}
	}
	const format = "mode %o, owner %d:%d, device %x, %d bytes, %d links, times %v %v %v"
	at := unix.StatxTimestamp{Sec: i.Mtime, Nsec: i.MtimeNsec}
	got := fmt.Sprintf(format, st.Mode, st.Uid, st.Gid, unix.Mkdev(st.Rdev_major, st.Rdev_minor), st.Size, st.Nlink, st.Atime, st.Mtime, st.Ctime)
	if want := fmt.Sprintf(format, i.Mode, i.UID, i.GID, i.Rdev, size, links, at, at, at); got != want {
		c.t.Errorf("%q has\n%s, want\n%s", name, got, want)
	}
	if known, ok := c.inodes[i]; ok && known != st.Ino {
		c.t.Errorf("%q is inode %d and its other name %d", name, st.Ino, known)
	}
	c.inodes[i] = st.Ino
	c.attributes(name, path, i)
	switch i.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		c.folder(name, path, i)
	case unix.S_IFREG:
		c.file(name, path, c.bytes[i])
	case unix.S_IFLNK:
		if target, err := os.Readlink(path); err != nil || target != i.Target {
			c.t.Errorf("%q leads to %.40q (%d bytes): %v", name, target, len(target), err)
		}
	}
}

func (c *kernelComparison) folder(name, path string, i *Inode) {
	entries, err := os.ReadDir(path)
	if err != nil {
		c.t.Errorf("%q: %v", name, err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
		child := i.Children[e.Name()]
		if info, err := e.Info(); err == nil && child != nil && e.Type() != info.Mode().Type() {
			c.t.Errorf("%q: the folder says it is %v", filepath.Join(name, e.Name()), e.Type())
		}
	}
	if want := slices.Sorted(maps.Keys(i.Children)); !slices.Equal(got, want) {
		c.t.Errorf("%q has %q, want %q", name, got, want)
	}
	for child, inode := range i.Children {
		c.entry(name+"/"+child, inode)
	}
}

func (c *kernelComparison) attributes(name, path string, i *Inode) {
	list := make([]byte, maxXattrList)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		c.t.Errorf("%q: list attributes: %v", name, err)
		return
	}
	got := strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(got)
	if want := slices.Sorted(maps.Keys(i.Xattrs)); !slices.Equal(got, want) {
		c.t.Errorf("%q has the attributes %q, want %q", name, got, want)
	}
	value := make([]byte, maxXattrValue+1)
	for attr, want := range i.Xattrs {
		if n, err := unix.Lgetxattr(path, attr, value); err != nil || string(value[:n]) != want {
			c.t.Errorf("%q: %s is %.40q (%d bytes), want %.40q: %v", name, attr, value[:max(n, 0)], n, want, err)
		}
	}
}

// file compares the bytes and the holes, which are all zeros: kernels that do not know of holes say that all is data.
func (c *kernelComparison) file(name, path string, want []byte) {
	f, err := os.Open(path)
	if err != nil {
		c.t.Errorf("%q: %v", name, err)
		return
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, want) {
		c.t.Errorf("%q: %d bytes that differ from the %d: %v", name, len(got), len(want), err)
	}
	for at := int64(0); at < int64(len(want)); {
		hole, err := unix.Seek(int(f.Fd()), at, unix.SEEK_HOLE)
		if err != nil {
			c.t.Errorf("%q: SEEK_HOLE from %d: %v", name, at, err)
			return
		}
		data, err := unix.Seek(int(f.Fd()), hole, unix.SEEK_DATA)
		if err != nil {
			data = int64(len(want))
		}
		if len(bytes.Trim(want[min(hole, data):data], "\x00")) > 0 {
			c.t.Errorf("%q: there is said to be a hole from %d to %d", name, hole, data)
		}
		at = max(data, at+1)
	}
}

// TestLarge: a folder of 100,000 entries, of which every one is found.
func TestLarge(t *testing.T) {
	t.Parallel()
	const entries = 100000
	s := write(t, func(_ *Writer, s *sample) {
		s.root.Children["many"] = folder()
		for i := range uint32(entries) {
			s.root.Children["many"].Children[fmt.Sprintf("entry-%x", i*2654435761)] = &Inode{Mode: unix.S_IFREG, UID: i}
		}
	})
	dir := mount(t, s.image) + "/many"
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != entries {
		t.Errorf("%d entries: %v", len(list), err)
	}
	for i := range uint32(entries) {
		var st unix.Stat_t
		if err := unix.Lstat(fmt.Sprintf("%s/entry-%x", dir, i*2654435761), &st); err != nil || st.Uid != i {
			t.Fatalf("entry %d has %d: %v", i, st.Uid, err)
		}
	}
	if _, err := os.Lstat(dir + "/entry-"); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// TestSparse: files with holes whose chunks have many pieces, and one of a TiB that takes next to nothing.
func TestSparse(t *testing.T) {
	t.Parallel()
	data := make([]byte, 20<<20+777)
	for _, at := range []int{0, 70000, 5 << 20, 5<<20 + 500000, 9<<20 - 1, 12<<20 + 70000, 20<<20 + 776} {
		data[at] = 'x'
	}
	names := make(map[string]uint8)
	s := write(t, func(w *Writer, s *sample) {
		for bits := uint8(pieceBits); bits < 14; bits++ {
			d, err := w.copy(bytes.NewReader(data), bits, -1)
			if err != nil {
				t.Fatal(err)
			}
			if names[fmt.Sprint(bits)] = bits; d.sparse == (bits >= 11) {
				t.Errorf("%d: %+v", bits, d)
			}
			s.root.Children[fmt.Sprint(bits)] = &Inode{Mode: unix.S_IFREG, Data: d}
		}
		s.root.Children["TiB"] = &Inode{Mode: unix.S_IFREG, Data: hole(1 << 40)}
	})
	var st unix.Stat_t
	if err := unix.Stat(s.image, &st); err != nil || st.Blocks*512 > 16<<20 {
		t.Errorf("the image takes %d bytes: %v", st.Blocks*512, err)
	}
	dir := mount(t, s.image)
	for name := range names {
		if got, err := os.ReadFile(dir + "/" + name); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d other bytes: %v", name, len(got), err)
		}
	}
	f, err := os.Open(dir + "/TiB")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if at, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); err == nil {
		t.Logf("this kernel shows no holes: there is data at %d", at)
	}
	got := make([]byte, 100000)
	for _, at := range []int64{0, 1 << 39, 1<<40 - 100000} {
		got[0] = 'x'
		if _, err := f.ReadAt(got, at); err != nil || len(bytes.Trim(got, "\x00")) > 0 {
			t.Errorf("at %d there is something: %v", at, err)
		}
	}
}
