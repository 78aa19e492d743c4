package erofs

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

func begin(t testing.TB) (*Writer, *os.File) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w, err := NewWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	return w, f
}

// noise is n bytes without a block of zeros.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

// hole is a file that is nothing else.
func hole(size int64) Data { return Data{Size: size, sparse: true, chunkBits: chunkBitsOf(size)} }

// TestEmptyFile: an image is begun in an empty file only.
func TestEmptyFile(t *testing.T) {
	t.Parallel()
	_, f := begin(t)
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := NewWriter(f); err == nil || !strings.Contains(err.Error(), "not an empty file") {
		t.Error(err)
	}
}

// TestLayoutOfData: what has no large hole lies in one piece, block by block; what has one has only the chunks around it.
func TestLayoutOfData(t *testing.T) {
	t.Parallel()
	const piece, blocks = pieceSize, pieceSize / blockSize
	sparse := func(size int, at ...int) []byte {
		b := make([]byte, size)
		for _, a := range at {
			b[a] = 'x'
		}
		return b
	}
	for name, c := range map[string]struct {
		data   []byte
		blocks uint64
		runs   int // -1: not sparse
	}{
		"empty":            {nil, 0, -1},
		"one byte":         {[]byte("x"), 1, -1},
		"a block":          {noise(blockSize), 1, -1},
		"a block and more": {noise(blockSize + 1), 2, -1},
		"pieces":           {noise(3*piece + 5), 3*blocks + 1, -1},
		"a zero":           {make([]byte, 1), 1, -1},
		"zeros":            {make([]byte, minHole-piece), minHole/blockSize - blocks, -1},
		"a hole":           {make([]byte, minHole), 0, 0},
		"zeros first":      {sparse(minHole, minHole-1), minHole / blockSize, -1},
		"zeros last":       {sparse(minHole, 5), minHole / blockSize, -1},
		"zeros amid":       {sparse(minHole+1, 0, minHole), minHole/blockSize + 1, -1},
		"hole first":       {sparse(minHole+piece, minHole), blocks, 1},
		"hole last":        {sparse(minHole+piece, 5), blocks, 1},
		"hole amid":        {sparse(minHole+piece+1, 0, minHole+piece), blocks + 1, 2},
		"zeros and a hole": {sparse(minHole+3*piece, 2*piece), 3 * blocks, 1},
		"hole and zeros":   {sparse(minHole+3*piece, minHole), 3 * blocks, 1},
	} {
		for _, known := range []bool{true, false} {
			w, f := begin(t)
			read := func() (Data, error) { return w.Copy(iotest.OneByteReader(bytes.NewReader(c.data))) }
			if known {
				read = func() (Data, error) { return w.CopySize(bytes.NewReader(c.data), int64(len(c.data))) }
			}
			d, err := read()
			if err != nil {
				t.Fatal(name, err)
			}
			if d.Size != int64(len(c.data)) || w.next-1 != c.blocks || d.sparse != (c.runs >= 0) || c.runs >= 0 && len(d.runs) != c.runs {
				t.Errorf("%s: %+v and %d blocks", name, d, w.next-1)
			}
			if err := w.flush(); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(c.data))
			for _, r := range d.extents() {
				start, end := int64(r.block)<<blockBits, int64(r.end(d.Size, d.chunkBits))<<blockBits
				part := got[int64(r.chunk)<<(blockBits+d.chunkBits):]
				if n, err := f.ReadAt(part[:min(int64(len(part)), end-start)], start); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(name, n, err)
				}
			}
			if !bytes.Equal(got, c.data) {
				t.Errorf("%s: other bytes", name)
			}
		}
	}
}

// TestChunks: a sparse file of any size has few addresses.
func TestChunks(t *testing.T) {
	t.Parallel()
	w, _ := begin(t)
	for _, size := range []int64{1, pieceSize, 1 << 32, 1<<32 + 1, 1 << 40, 1<<40 + 1, maxFile} {
		if d := hole(size); d.chunks() > maxChunks {
			t.Errorf("%d bytes: %d chunks of %d blocks", size, d.chunks(), 1<<d.chunkBits)
		}
	}
	if _, err := w.CopySize(nil, maxFile+1); err == nil {
		t.Error("a file may be too large")
	}
	if _, err := w.Close(folder()); err == nil || !strings.Contains(err.Error(), "a file of 17592186040321 bytes") {
		t.Error(err)
	}
}

// TestDiscard: what is discarded takes no disk, is zeros, and leaves what lies around it.
func TestDiscard(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	w, f := begin(t)
	var all []Data
	for range 3 {
		d, err := w.Copy(bytes.NewReader(noise(size + 1)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	small, err := w.Copy(strings.NewReader("in the buffer still"))
	if err != nil {
		t.Fatal(err)
	}
	before := disk(t, w, f)
	w.Discard(all[1])
	w.Discard(small)
	w.Discard(Data{})
	w.Discard(hole(1 << 40))
	if after := disk(t, w, f); before-after < size {
		t.Errorf("%d bytes of disk before, %d after", before, after)
	}
	for i, d := range all {
		got, want := make([]byte, size+1), noise(size+1)
		if i == 1 {
			clear(want)
		}
		if _, err := f.ReadAt(got, int64(d.block)<<blockBits); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d: other bytes: %v", i, err)
		}
	}
	got := make([]byte, small.Size)
	if _, err := f.ReadAt(got, int64(small.block)<<blockBits); err != nil || len(bytes.Trim(got, "\x00")) > 0 {
		t.Errorf("%q: %v", got, err)
	}
}

func disk(t *testing.T, w *Writer, f *os.File) int64 {
	t.Helper()
	if err := errors.Join(w.flush(), f.Sync()); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestBroken: after an error the image cannot be finished, so that none is without a file's data.
func TestBroken(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		do   func(*Writer) error
		want error
	}{
		"reader":    {func(w *Writer) error { _, err := w.Copy(iotest.ErrReader(broken)); return err }, broken},
		"too short": {func(w *Writer) error { _, err := w.CopySize(strings.NewReader("abc"), 4); return err }, io.ErrUnexpectedEOF},
		"too long":  {func(w *Writer) error { _, err := w.CopySize(strings.NewReader("abc"), 2); return err }, nil},
		"negative":  {func(w *Writer) error { _, err := w.CopySize(strings.NewReader("abc"), -1); return err }, nil},
		"stranger":  {func(w *Writer) error { w.Discard(Data{Size: 1 << 20, block: 1}); return errors.New("later") }, nil},
		"finished":  {func(w *Writer) error { _, err := w.Close(folder()); return errors.Join(err, errors.New("later")) }, nil},
	} {
		w, _ := begin(t)
		if err := c.do(w); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.Copy(strings.NewReader("x")); err == nil {
			t.Errorf("%s: more is taken", name)
		}
		if _, err := w.Close(folder()); err == nil {
			t.Errorf("%s: the image is finished", name)
		}
	}
}

func BenchmarkCopy(b *testing.B) {
	const size = 64 << 20
	for name, data := range map[string][]byte{"noise": noise(size), "zeros": make([]byte, size)} {
		b.Run(name, func(b *testing.B) {
			w, f := begin(b)
			b.SetBytes(size)
			for b.Loop() {
				if _, err := w.Copy(bytes.NewReader(data)); err != nil {
					b.Fatal(err)
				}
				if w.next > 1<<30>>blockBits {
					b.StopTimer()
					if err := f.Truncate(0); err != nil {
						b.Fatal(err)
					}
					w, _ = NewWriter(f)
					b.StartTimer()
				}
			}
		})
	}
	b.Run("small", func(b *testing.B) {
		w, f := begin(b)
		data := noise(2000)
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := w.Copy(bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
			if w.next > 1<<30>>blockBits {
				if err := f.Truncate(0); err != nil {
					b.Fatal(err)
				}
				w, _ = NewWriter(f)
			}
		}
	})
}
