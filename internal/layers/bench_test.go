package layers

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"brig/internal/erofs"
)

// made is a tar archive of many files, made as it is read.
type made struct {
	files, size, done int    // size is of one file
	body              []byte // what files are pieces of, again and again
	at, left          int    // where in the body the file at hand is, and how much is to come
	rest              []byte // what else comes first
}

// newMade has files of words, which compress about as what images usually have.
func newMade(files, size int) *made {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // tests need no secrets
	words := make([][]byte, 5000)
	for i := range words {
		words[i] = []byte(strconv.FormatUint(r.Uint64(), 36)[r.IntN(10):])
	}
	body := make([]byte, 0, 16<<20)
	for len(body) < cap(body)-20 {
		body = append(append(body, words[int(r.ExpFloat64()*500)%len(words)]...), ' ')
	}
	return &made{files: files, size: size, body: body}
}

func (m *made) Read(p []byte) (int, error) {
	if len(m.rest) > 0 {
		n := copy(p, m.rest)
		m.rest = m.rest[n:]
		return n, nil
	}
	if m.left > 0 {
		n := copy(p[:min(len(p), m.left)], m.body[m.at:])
		m.at = (m.at + n) % len(m.body)
		if m.left -= n; m.left == 0 {
			m.rest = make([]byte, -m.size&511)
		}
		return n, nil
	}
	if m.done == m.files {
		return 0, io.EOF
	}
	m.done++
	m.left = m.size
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(m.size),
		Name: fmt.Sprintf("usr/lib/python3/site-packages/package%d/module%d.py", m.done/100, m.done)})
	m.rest = b.Bytes()
	return 0, err
}

// BenchmarkApply is what the merging of a layer costs with the writing of the image, to a file on /dev/shm: the disk is not ours.
func BenchmarkApply(b *testing.B) {
	for _, size := range []int{0, 4 << 10, 100 << 10, 10 << 20} {
		b.Run(fmt.Sprintf("files of %d KiB", size>>10), func(b *testing.B) {
			files := min(20000, (400<<20)/max(size, 1))
			var archive bytes.Buffer
			if _, err := io.Copy(&archive, newMade(files, size)); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(archive.Len()))
			for b.Loop() {
				apply(b, bytes.NewReader(archive.Bytes()))
			}
			b.ReportMetric(float64(files)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

func apply(b testing.TB, r io.Reader) {
	f, err := os.Create(filepath.Join("/dev/shm", "brig-layers-"+strconv.Itoa(os.Getpid())))
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // made here
	defer f.Close()           //nolint:errcheck // thrown away
	w, err := erofs.NewWriter(f)
	if err != nil {
		b.Fatal(err)
	}
	m := NewMerger(w, DefaultLimits(), KeepDevices)
	if err := m.Apply(r); err != nil {
		b.Fatal(err)
	}
	if _, err := w.Close(m.Root()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDecompress is of bytes that come out.
func BenchmarkDecompress(b *testing.B) {
	var plain, gz, zst bytes.Buffer
	if _, err := io.Copy(&plain, newMade(2000, 100<<10)); err != nil {
		b.Fatal(err)
	}
	g := gzip.NewWriter(&gz)
	_, _ = g.Write(plain.Bytes())
	_ = g.Close()
	z, _ := zstd.NewWriter(&zst)
	_, _ = z.Write(plain.Bytes())
	_ = z.Close()
	for c, data := range map[Compression][]byte{None: plain.Bytes(), Gzip: gz.Bytes(), Zstd: zst.Bytes()} {
		b.Run(string(c), func(b *testing.B) {
			b.SetBytes(int64(plain.Len()))
			for b.Loop() {
				r, _, err := Decompress(bytes.NewReader(data), DefaultLimits())
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, struct{ io.Reader }{r}); err != nil || n != int64(plain.Len()) {
					b.Fatal(n, err)
				}
				_ = r.Close()
			}
		})
	}
}
