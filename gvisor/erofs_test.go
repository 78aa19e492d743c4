package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/erofs"
	"brig/internal/image/features"

	"golang.org/x/sys/unix"
	reader "gvisor.dev/gvisor/pkg/erofs"
)

// writeImage makes an image with Brig's writer.
func writeImage(t *testing.T, fill func(*erofs.Writer, *erofs.Inode)) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := erofs.NewWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	root := folder()
	fill(w, root)
	if _, err := w.Close(root); err != nil {
		t.Fatal(err)
	}
	return f
}

func folder() *erofs.Inode {
	return &erofs.Inode{Mode: unix.S_IFDIR | 0o755, Children: make(map[string]*erofs.Inode)}
}

func file(t *testing.T, w *erofs.Writer, data []byte) *erofs.Inode {
	t.Helper()
	d, err := w.CopySize(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return &erofs.Inode{Mode: unix.S_IFREG | 0o640, UID: 70000, GID: 8, Mtime: 1 << 33, MtimeNsec: 5, Data: d}
}

// TestReaderAgrees has gVisor's reader of EROFS read what Brig's writer wrote: all kinds of files, long folders and links.
func TestReaderAgrees(t *testing.T) {
	contents := map[string][]byte{
		"empty": nil, "small": []byte("hello\n"), "block": bytes.Repeat([]byte("b"), 4096), "large": bytes.Repeat([]byte("0123456789"), 100000),
		"zeros": make([]byte, 1<<19),
	}
	long := strings.Repeat("l", 4000)
	f := writeImage(t, func(w *erofs.Writer, root *erofs.Inode) {
		for name, data := range contents {
			root.Children[name] = file(t, w, data)
		}
		root.Children["hard"] = root.Children["small"]
		root.Children["link"] = &erofs.Inode{Mode: unix.S_IFLNK | 0o777, Target: "small"}
		root.Children["longlink"] = &erofs.Inode{Mode: unix.S_IFLNK | 0o777, Target: long}
		root.Children["pipe"] = &erofs.Inode{Mode: unix.S_IFIFO | 0o600}
		many := folder()
		root.Children["many"] = many
		for i := range 1000 {
			many.Children[fmt.Sprintf("entry-%04d", i)] = &erofs.Inode{Mode: unix.S_IFREG | 0o600}
		}
	})
	if found, err := features.Probe(f); err != nil || found != (features.Features{}) {
		t.Fatalf("the image has %+v, %v", found, err)
	}
	image, err := reader.OpenImage(f)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	root := inode(t, image, image.RootNid())
	for name, want := range contents {
		i := child(t, image, root, name)
		ranges, err := i.DataRanges()
		if err != nil {
			t.Fatal(name, err)
		}
		got := append(append([]byte{}, ranges[0].Bytes...), ranges[1].Bytes...)
		if !bytes.Equal(got, want) || i.UID() != 70000 || i.GID() != 8 || i.Mode() != unix.S_IFREG|0o640 || i.Mtime() != 1<<33 || i.MtimeNsec() != 5 {
			t.Errorf("%s has %d bytes and is %+v", name, len(got), i)
		}
		if _, err := i.DataOffset(); err != nil {
			t.Errorf("%s cannot be mapped into memory: %v", name, err)
		}
	}
	if i := child(t, image, root, "hard"); i.Nlink() != 2 {
		t.Errorf("a file with two names has %d links", i.Nlink())
	}
	for name, want := range map[string]string{"link": "small", "longlink": long} {
		i := child(t, image, root, name)
		if got, err := i.Readlink(); err != nil || got != want {
			t.Errorf("%s leads to %q, %v", name, got, err)
		}
	}
	many := child(t, image, root, "many")
	n := 0
	if err := many.IterDirents(func(string, uint8, uint64) error { n++; return nil }); err != nil || n != 1000+2 {
		t.Errorf("a folder of 1000 has %d entries: %v", n, err)
	}
	for _, i := range []int{0, 1, 499, 999} {
		child(t, image, many, fmt.Sprintf("entry-%04d", i))
	}
}

func inode(t *testing.T, image *reader.Image, nid uint64) reader.Inode {
	t.Helper()
	i, err := image.Inode(nid)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func child(t *testing.T, image *reader.Image, parent reader.Inode, name string) reader.Inode {
	t.Helper()
	nid, err := parent.Lookup(name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return inode(t, image, nid)
}

// TestReaderRefuses: what gVisor's reader cannot read is what Probe says; should it learn, Brig need not go around it any more.
func TestReaderRefuses(t *testing.T) {
	chunks := writeImage(t, func(w *erofs.Writer, root *erofs.Inode) {
		root.Children["sparse"] = file(t, w, append(make([]byte, 4<<20), 1))
	})
	defer chunks.Close()
	if found, err := features.Probe(chunks); err != nil || !found.Chunks {
		t.Errorf("an image with holes has %+v, %v", found, err)
	}
	if image, err := reader.OpenImage(chunks); err == nil {
		image.Close()
		t.Error("gVisor opens an image with chunks")
	}
	xattrs := writeImage(t, func(w *erofs.Writer, root *erofs.Inode) {
		root.Children["ping"] = file(t, w, []byte("x"))
		root.Children["ping"].Xattrs = map[string]string{"user.a": "b"}
	})
	if found, err := features.Probe(xattrs); err != nil || !found.Xattrs {
		t.Errorf("an image with attributes has %+v, %v", found, err)
	}
	image, err := reader.OpenImage(xattrs)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	root := inode(t, image, image.RootNid())
	nid, err := root.Lookup("ping")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.Inode(nid); err == nil {
		t.Error("gVisor reads a file with extended attributes")
	}
}
