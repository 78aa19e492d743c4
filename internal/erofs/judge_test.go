package erofs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

// fsck has fsck.erofs look at every inode and all data.
func fsck(image string) error {
	out, err := exec.Command("fsck.erofs", "--extract", image).CombinedOutput()
	if err == nil && len(out) > 0 {
		err = fmt.Errorf("it is not silent")
	}
	if err != nil {
		return fmt.Errorf("fsck.erofs: %w: %s", err, out)
	}
	return nil
}

// TestFsck: the file system's own checker finds nothing, and finds a byte that was changed.
func TestFsck(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Program("fsck.erofs"))
	s := write(t, kinds(t))
	if err := fsck(s.image); err != nil {
		t.Error(err)
	}
	if err := fsck(write(t, random(t, 1000, 500)).image); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(s.image)
	if err != nil {
		t.Fatal(err)
	}
	data[superOffset+0x30]++
	if err := os.WriteFile(s.image, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if fsck(s.image) == nil {
		t.Error("fsck.erofs takes a superblock with a wrong checksum")
	}
}

// TestReader: the EROFS project's reader in Go shows what was put in.
func TestReader(t *testing.T) {
	t.Parallel()
	for name, tree := range map[string]func(*Writer, *sample){"kinds": kinds(t), "random": random(t, 2000, 500)} {
		s := write(t, tree)
		f, err := os.Open(s.image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		t.Run(name, func(t *testing.T) { compareReader(t, s, f) })
	}
}

func compareReader(t *testing.T, s *sample, image io.ReaderAt) {
	img, err := goerofs.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	c := readerComparison{t, s, img}
	c.folder(".", s.root)
}

type readerComparison struct {
	t *testing.T
	*sample
	fs fs.FS
}

// folder leaves out what io/fs has no paths for: names that are not UTF-8.
func (c *readerComparison) folder(name string, i *Inode) {
	entries, err := fs.ReadDir(c.fs, name)
	if err != nil || len(entries) != len(i.Children) {
		c.t.Fatalf("%q: %d entries, want %d: %v", name, len(entries), len(i.Children), err)
	}
	for _, e := range entries {
		path := name + "/" + e.Name()
		if name == "." {
			path = e.Name()
		}
		child := i.Children[e.Name()]
		if child == nil {
			c.t.Fatalf("%q is too much", path)
		}
		info, err := e.Info()
		if err != nil {
			c.t.Fatal(err)
		}
		c.inode(path, info.Sys().(*goerofs.Stat), child)
		if !utf8.ValidString(path) {
			continue
		}
		switch child.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			c.folder(path, child)
		case unix.S_IFREG:
			f, err := c.fs.Open(path)
			if err != nil {
				c.t.Fatal(err)
			}
			if data, err := io.ReadAll(f); err != nil || !bytes.Equal(data, c.bytes[child]) {
				c.t.Errorf("%q: other data: %v", path, err)
			}
			f.Close()
		}
	}
}

func (c *readerComparison) inode(path string, st *goerofs.Stat, i *Inode) {
	if st.UID != i.UID || st.GID != i.GID || int64(st.Mtime) != i.Mtime || st.MtimeNs != i.MtimeNsec || uint32(st.Mode.Perm()) != i.Mode&0o777 {
		c.t.Errorf("%q: %+v, want %+v", path, st, i)
	}
	for name, value := range st.Xattrs {
		if whole, ok := strings.CutSuffix(name, "."); ok && strings.HasPrefix(name, "system.posix_acl_") {
			delete(st.Xattrs, name) // v0.3.1 puts a dot behind the names of ACLs
			st.Xattrs[whole] = value
		}
	}
	if !maps.Equal(st.Xattrs, i.Xattrs) {
		c.t.Errorf("%q: attributes %q, want %q", path, slices.Collect(maps.Keys(st.Xattrs)), slices.Collect(maps.Keys(i.Xattrs)))
	}
}
