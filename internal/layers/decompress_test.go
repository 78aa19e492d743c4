package layers

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

func zstded(t testing.TB, data []byte, o ...zstd.EOption) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, o...)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// decompress gives all that comes out.
func decompress(t testing.TB, l Limits, in io.Reader) ([]byte, Compression, error) {
	t.Helper()
	r, c, err := Decompress(in, l)
	if err != nil {
		return nil, c, err
	}
	out, err := io.ReadAll(r)
	if closed := r.Close(); closed != nil {
		t.Error(closed)
	}
	return out, c, err
}

func TestDecompress(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("some bytes of a layer, 123456789\n"), 10000)
	half := len(data) / 2
	skippable := append([]byte("\x5a\x2a\x4d\x18\x04\x00\x00\x00"), "skip"...)
	for _, c := range []struct {
		name string
		in   []byte
		want Compression
	}{
		{"none", data, None},
		{"gzip", gzipped(data), Gzip},
		{"two members", append(gzipped(data[:half]), gzipped(data[half:])...), Gzip},
		{"an empty member in between", append(append(gzipped(data[:half]), gzipped(nil)...), gzipped(data[half:])...), Gzip},
		{"gzip and zeros", append(gzipped(data), make([]byte, 100000)...), Gzip},
		{"zstd", zstded(t, data), Zstd},
		{"two frames", append(zstded(t, data[:half]), zstded(t, data[half:])...), Zstd},
		{"zstd with frames to be skipped", append(append(bytes.Clone(skippable), zstded(t, data)...), skippable...), Zstd},
	} {
		for _, in := range []io.Reader{bytes.NewReader(c.in), iotest.OneByteReader(bytes.NewReader(c.in)), iotest.DataErrReader(bytes.NewReader(c.in))} {
			out, found, err := decompress(t, DefaultLimits(), in)
			if err != nil || found != c.want || !bytes.Equal(out, data) {
				t.Errorf("%s: %d bytes of %s, %v; want %d of %s", c.name, len(out), found, err, len(data), c.want)
			}
			if n, _ := in.Read(make([]byte, 1)); n != 0 {
				t.Errorf("%s: was not read to its end", c.name)
			}
		}
	}
	for _, short := range []string{"", "x", "\x1e", "BZ"} {
		if out, found, err := decompress(t, DefaultLimits(), strings.NewReader(short)); err != nil || found != None || string(out) != short {
			t.Errorf("%q gives %q of %s, %v", short, out, found, err)
		}
	}
}

func TestDecompressRefuses(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("some bytes of a layer, 123456789\n"), 10000)
	flipped := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	gz, zst := gzipped(data), zstded(t, data)
	fault := errors.New("the disk is gone")
	for _, c := range []struct {
		name string
		in   io.Reader
		want string
	}{
		{"xz", strings.NewReader("\xfd7zXZ\x00..."), "the layer is compressed with xz; an image's layers may be with gzip, with zstd or not at all"},
		{"bzip2", strings.NewReader("BZh91AY"), "the layer is compressed with bzip2"},
		{"lz4", strings.NewReader("\x04\x22\x4d\x18..."), "the layer is compressed with lz4"},
		{"a cut gzip", bytes.NewReader(gz[:len(gz)-9]), "decompress the layer (gzip): unexpected EOF"},
		{"a cut gzip header", bytes.NewReader(gz[:5]), "decompress the layer (gzip): unexpected EOF"},
		{"a cut second header", bytes.NewReader(append(bytes.Clone(gz), gz[:5]...)), "decompress the layer (gzip): unexpected EOF"},
		{"a wrong gzip sum", bytes.NewReader(flipped(gz, len(gz)-6)), "decompress the layer (gzip): gzip: invalid checksum"},
		{"garbage after gzip", bytes.NewReader(append(bytes.Clone(gz), "\x00\x00garbage"...)),
			"decompress the layer (gzip): there is something after its end that is no gzip"},
		{"a cut zstd", bytes.NewReader(zst[:len(zst)-5]), "decompress the layer (zstd): unexpected EOF"},
		{"a wrong zstd sum", bytes.NewReader(flipped(zst, len(zst)-1)), "decompress the layer (zstd): CRC check failed"},
		{"garbage after zstd", bytes.NewReader(append(bytes.Clone(zst), "garbage"...)), "decompress the layer (zstd): invalid input: magic number mismatch"},
		{"a fault in the middle", io.MultiReader(bytes.NewReader(gz[:len(gz)/2]), iotest.ErrReader(fault)), "decompress the layer (gzip): the disk is gone"},
		{"a fault in the beginning", iotest.ErrReader(fault), "read the layer's first bytes: the disk is gone"},
		// Frames that want 2 GiB, as a window and as one segment of that size (RFC 8878, 3.1.1.1).
		{"a great window", strings.NewReader("\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00"), "window size exceeded: the limit Window is 134217728"},
		{"a great segment", strings.NewReader("\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x80\x01\x00\x00"), "the limit Window is 134217728"},
	} {
		_, _, err := decompress(t, DefaultLimits(), c.in)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

// repeated is a gzip or zstd stream of n times a block, made without n times the memory.
func repeated(t *testing.T, c Compression, block []byte, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if c == Zstd {
		var err error
		if w, err = zstd.NewWriter(&b); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		_, _ = w.Write(block)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBombs(t *testing.T) {
	t.Parallel()
	full, empty := bytes.Repeat([]byte("a"), 1<<20), make([]byte, 1<<20)
	read := func(in []byte, l Limits) (int64, error) {
		r, _, err := Decompress(bytes.NewReader(in), l)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close() //nolint:errcheck // nothing is written
		return io.Copy(io.Discard, struct{ io.Reader }{r})
	}
	l := DefaultLimits()
	l.RatioFrom = 20 << 20
	for _, c := range []Compression{Gzip, Zstd} {
		var limit *LimitError
		n, err := read(repeated(t, c, full, 40), l)
		if !errors.As(err, &limit) || limit.Limit != "Ratio" || n > l.RatioFrom+1<<20 {
			t.Errorf("%s: after %d bytes of a bomb: %v", c, n, err)
		}
		if n, err := read(repeated(t, c, full, 19), l); err != nil || n != 19<<20 {
			t.Errorf("%s: after %d bytes of a small layer: %v", c, n, err)
		}
		if n, err := read(repeated(t, c, empty, 40), l); err != nil || n != 40<<20 {
			t.Errorf("%s: after %d bytes of a large empty file: %v", c, n, err)
		}
		small := l
		small.Size = 10 << 20
		if n, err := read(repeated(t, c, empty, 11), small); !errors.As(err, &limit) || limit.Limit != "Size" || n > small.Size {
			t.Errorf("%s: after %d bytes of a layer too large: %v", c, n, err)
		}
	}
}

// TestBombsInPieces: a bomb that is cut into layers, each of which is within the limits.
func TestBombsInPieces(t *testing.T) {
	t.Parallel()
	l := DefaultLimits()
	l.RatioFrom, l.Size = 20<<20, 100<<20
	for _, c := range []struct {
		name  string
		block []byte
		limit string
		least int // layers that go through
	}{{"text", bytes.Repeat([]byte("a"), 1<<20), "Ratio", 1}, {"zeros", make([]byte, 1<<20), "Size", 5}} {
		for _, kind := range []Compression{Gzip, Zstd} {
			piece := repeated(t, kind, c.block, 15)
			m := NewMerger(nil, l, KeepDevices)
			for i := range 1000 {
				r, _, err := m.Decompress(bytes.NewReader(piece))
				if err != nil {
					t.Fatal(err)
				}
				_, err = io.Copy(io.Discard, r)
				if closed := r.Close(); closed != nil {
					t.Error(closed)
				}
				var limit *LimitError
				if errors.As(err, &limit) && limit.Limit == c.limit && i >= c.least {
					break
				}
				if err != nil || i > 10 {
					t.Fatalf("%s, %s: after %d layers: %v", c.name, kind, i, err)
				}
			}
		}
	}
}

// TestCloseEarly: closed in the middle, nothing goes on reading. A bubble of synctest ends only with all goroutines begun in it.
func TestCloseEarly(t *testing.T) {
	t.Parallel()
	data := make([]byte, 32<<20)
	rand.NewChaCha8([32]byte{}).Read(data) //nolint:errcheck // never fails
	for c, in := range map[Compression][]byte{Gzip: gzipped(data), Zstd: zstded(t, data), None: data} {
		synctest.Test(t, func(t *testing.T) {
			r, _, err := Decompress(bytes.NewReader(in), DefaultLimits())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
				t.Errorf("%s: %v", c, err)
			}
			if err := r.Close(); err != nil {
				t.Errorf("%s: %v", c, err)
			}
		})
	}
}
