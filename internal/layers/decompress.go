package layers

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/readahead"
)

// Compression is how a layer is compressed.
type Compression string

// The compressions that image-spec's layers have.
const (
	None Compression = "none"
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// formats are what a stream's first bytes say. A media type says it, too, but it may lie.
var formats = []struct {
	magic  string
	name   Compression
	served bool
}{
	{"\x1f\x8b", Gzip, true},         // RFC 1952, 2.3.1
	{"\x28\xb5\x2f\xfd", Zstd, true}, // RFC 8878, 3.1.1
	{"\xfd7zXZ\x00", "xz", false},
	{"BZh", "bzip2", false},
	{"\x04\x22\x4d\x18", "lz4", false},
	{"\x1f\x9d", "compress (.Z)", false},
	{"LZIP", "lzip", false},
}

// Decompress finds out by its first bytes how a layer is compressed, and gives its archive. What it gives reads r to its end, in
// memory that does not depend on the layer; members one after the other are one stream, and what follows the last one is an error,
// but for the zeros with which some tools fill up a gzip file. It must be closed.
func Decompress(r io.Reader, l Limits) (io.ReadCloser, Compression, error) {
	return unpack(r, l, &unpacked{})
}

// Decompress is the same for a layer that is to be merged next. The limits hold for all layers of an image together: a bomb may be cut
// into a thousand of them, or be one layer that the manifest has a thousand times.
func (m *Merger) Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	return unpack(r, m.limits, &m.unpacked)
}

// unpacked counts what went through decompression so far, which reads ahead.
type unpacked struct {
	in, out atomic.Int64
	filled  atomic.Int64 // of out, without blocks of zeros
}

func unpack(r io.Reader, l Limits, count *unpacked) (io.ReadCloser, Compression, error) {
	in := &input{r, count}
	buffered := bufio.NewReaderSize(in, 256<<10)
	name, served, err := detect(buffered)
	if err != nil {
		return nil, "", fmt.Errorf("read the layer's first bytes: %w", err)
	}
	if !served {
		return nil, name, fmt.Errorf("the layer is compressed with %s; an image's layers may be with gzip, with zstd or not at all", name)
	}
	out := &output{count: count, limits: l, name: name, close: func() error { return nil }}
	switch name {
	case Gzip:
		// Decompression is what takes longest of all that is done with a layer: it gets a processor of its own.
		out.r = &gzipMembers{r: buffered}
		ahead, err := readahead.NewReadCloserSize(out, 4, 256<<10)
		if err != nil {
			return nil, name, fmt.Errorf("decompress the layer (gzip): %w", err)
		}
		// Without its WriteTo, which gives io.EOF for an error when the end has been read before.
		return struct{ io.ReadCloser }{ahead}, name, nil
	case Zstd:
		// A frame says how far it looks back, and that much memory is taken for it.
		d, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(uint64(l.Window)), zstd.WithDecoderLowmem(true)) //nolint:gosec // not negative
		if err != nil {
			return nil, name, fmt.Errorf("decompress the layer (zstd): %w", err)
		}
		out.r, out.close = d, d.IOReadCloser().Close
	default:
		out.r = buffered
	}
	return out, name, nil
}

// detect looks at the first bytes without taking them.
func detect(r *bufio.Reader) (Compression, bool, error) {
	first, err := r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", false, err
	}
	// Frames to be skipped have one of 16 numbers (RFC 8878, 3.1.2); zstd:chunked begins with none, but it may.
	if len(first) >= 4 && first[0]&0xf0 == 0x50 && string(first[1:4]) == "\x2a\x4d\x18" {
		return Zstd, true, nil
	}
	for _, f := range formats {
		if bytes.HasPrefix(first, []byte(f.magic)) {
			return f.name, f.served, nil
		}
	}
	return None, true, nil
}

// input counts what is read of a compressed layer.
type input struct {
	r     io.Reader
	count *unpacked
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	i.count.in.Add(int64(n))
	return n, err
}

// output is the archive, held against the limits.
type output struct {
	r      io.Reader
	close  func() error
	count  *unpacked
	limits Limits
	name   Compression
}

func (o *output) Close() error { return o.close() }

func (o *output) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if o.count.out.Add(int64(n)) > o.limits.Size {
		return 0, &LimitError{Limit: "Size", Max: o.limits.Size, What: "the layer's archive, with those below it, has more bytes than it may"}
	}
	if o.name != None {
		all := o.count.filled.Add(filled(p[:n]))
		if in := o.count.in.Load(); all > o.limits.RatioFrom && all/o.limits.Ratio > in {
			return 0, &LimitError{Limit: "Ratio", Max: o.limits.Ratio,
				What: fmt.Sprintf("the layer is a bomb: with those below it, %d bytes of %s gave %d, blocks of zeros not counted", in, o.name, all)}
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
			err = fmt.Errorf("%w: the limit Window is %d", err, o.limits.Window)
		}
		return n, fmt.Errorf("decompress the layer (%s): %w", o.name, err)
	}
	return n, err
}

var zeros [4096]byte

// filled counts bytes, except those in blocks of zeros.
func filled(p []byte) int64 {
	var n int64
	for len(p) > 0 {
		block := p[:min(len(p), len(zeros))]
		if !bytes.Equal(block, zeros[:len(block)]) {
			n += int64(len(block))
		}
		p = p[len(block):]
	}
	return n
}

// gzipMembers reads the members of a gzip file (RFC 1952, 2.2). The library's own way of doing so takes zeros after the last member
// for a broken header; gzip(1) and the engines let them pass.
type gzipMembers struct {
	r *bufio.Reader
	z *gzip.Reader // the member at hand
}

func (g *gzipMembers) Read(p []byte) (int, error) {
	for {
		if g.z == nil {
			z, err := gzip.NewReader(g.r)
			if err != nil {
				return 0, unexpected(err)
			}
			g.z = z
			g.z.Multistream(false)
		}
		n, err := g.z.Read(p)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		more, err := g.next()
		if err != nil {
			return n, err
		}
		if !more {
			return n, io.EOF
		}
		if n > 0 {
			return n, nil
		}
	}
}

// next begins the next member. Without one, it reads to the end.
func (g *gzipMembers) next() (more bool, err error) {
	for {
		b, err := g.r.ReadByte()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if b == 0 {
			continue
		}
		if b != formats[0].magic[0] {
			return false, errors.New("there is something after its end that is no gzip")
		}
		if err := g.r.UnreadByte(); err != nil {
			return false, err
		}
		if err := g.z.Reset(g.r); err != nil {
			return false, unexpected(err)
		}
		g.z.Multistream(false)
		return true, nil
	}
}

// unexpected says that an end is too early.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
