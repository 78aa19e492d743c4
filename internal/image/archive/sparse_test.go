package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/internal/image"

	"golang.org/x/sys/unix"
)

// TestHoles: a file with large holes takes as much of a layer as it has data. The holes that are there are those of the content: it is the
// same layer whether the file system has them or not. archive/tar and GNU tar read the file that was there.
func TestHoles(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	long := strings.Repeat("n", 200)
	files := map[string][]segment{
		"ends": {{0, 10}, {63 * mib, mib}}, "begins-late": {{40*mib + 5, 17}}, "only-a-hole": {{32 * mib, 0}}, "hole-at-the-end": {{0, mib}, {8 * mib, 0}},
		"many": {{0, 1}, {mib, 1}, {2 * mib, 1}, {4*mib - 1, 2}}, "small-holes": {{0, 1}, {8192, 1}, {16384, 1}, {2 * mib, 1}}, "small": {{mib / 2, 1}},
		long: {{5 * mib, 5}}, "odd": {{3 * mib, 4097}, {7*mib + 1, 1}},
	}
	stamp := time.Unix(-5, 123456789)
	var digests []image.Digest
	for _, full := range []bool{false, true} {
		dir := t.TempDir()
		want := map[string][]byte{}
		for name, list := range files {
			want[name] = holed(t, filepath.Join(dir, name), list, full, stamp)
		}
		if err := os.Chtimes(dir, stamp, stamp); err != nil {
			t.Fatal(err)
		}
		s := newStore(t)
		l, err := importIt(s, dir, ImportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Manifest(l.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, l.Manifest)
		if m.Layers[0].Size > 8*mib {
			t.Errorf("the layer has %d bytes", m.Layers[0].Size)
		}
		reads(t, s, m.Layers[0].Digest, want, stamp)
	}
	if digests[0] != digests[1] {
		t.Error("the holes of the file system are in the image's digest")
	}
}

// holed writes a file of noise between holes, which are full of zeros or not there at all, and gives its content.
func holed(t *testing.T, name string, list []segment, full bool, stamp time.Time) []byte {
	t.Helper()
	end := list[len(list)-1]
	data := make([]byte, end.offset+end.size)
	noise := rand.NewChaCha8([32]byte{1})
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, s := range list {
		_, _ = noise.Read(data[s.offset : s.offset+s.size])
		for i := range data[s.offset : s.offset+s.size] {
			data[s.offset+int64(i)] |= 1 // no block of zeros by chance
		}
		if _, err := f.WriteAt(data[s.offset:s.offset+s.size], s.offset); err != nil {
			t.Fatal(err)
		}
	}
	if full {
		_, err = f.WriteAt(data, 0)
	} else {
		err = f.Truncate(int64(len(data)))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(name, "user.a", []byte("b\x00c"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, stamp, stamp); err != nil {
		t.Fatal(err)
	}
	return data
}

// reads demands that a layer has the files, by two readers.
func reads(t *testing.T, s *image.Store, layer image.Digest, want map[string][]byte, stamp time.Time) {
	t.Helper()
	f, err := s.OpenBlob(layer)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := 0
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF { //nolint:errorlint // archive/tar gives it as it is
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(data, want[h.Name]) || !h.ModTime.Equal(stamp) || h.PAXRecords["SCHILY.xattr.user.a"] != "b\x00c" || h.Mode != 0o644 {
			t.Errorf("%.20s: %v: %+v, %d bytes, %d wanted", h.Name, err, h, len(data), len(want[h.Name]))
		}
		seen++
	}
	if seen != len(want) {
		t.Errorf("%d files, %d wanted", seen, len(want))
	}
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-xf", f.Name(), "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	for name, data := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("GNU tar has %d bytes of %.20s, %d wanted: %v", len(got), name, len(data), err)
		}
	}
}

// TestHugeHole: a file larger than any disk is imported in no time, and the file system that is made of it has its size.
func TestHugeHole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "huge")
	if err := os.WriteFile(name, []byte("begin"), 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 64 << 30
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	o := ImportOptions{Build: limits()}
	o.Build.Limits.Size = 2 * size
	l, err := Import(context.Background(), s, Input{Path: dir}, "a:1", o)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Manifest(l.Manifest)
	if err != nil || m.Layers[0].Size > 1<<20 {
		t.Errorf("%+v, %v", m, err)
	}
}
