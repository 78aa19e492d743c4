package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// pieceSize is how much is read and looked at for zeros at once.
	pieceSize = 64 << 10
	pieceBits = 4 // of blocks
	// minHole is the smallest stretch of zeros for which a file is cut into chunks. Smaller ones are holes of the image's own file, which
	// take no disk either: a file in one piece is read faster, and not every reader knows chunks (gVisor's does not).
	minHole = 1 << 20
	// bufferSize is how much is written at once.
	bufferSize = 1 << 20
	// maxFile is what a file may have: as many blocks as can be counted, and as the largest file of ext4.
	maxFile = 16<<40 - blockSize
	// maxChunks is how many chunks a sparse file of known size is cut into: 256 KiB of addresses.
	maxChunks = 1 << 16
)

var zeros [pieceSize]byte

// Writer makes one image. Its methods are for one goroutine. After an error of any of them the image cannot be finished.
type Writer struct {
	file *os.File
	// next is the first block that nothing lies in.
	next uint64
	// buffer has what belongs at the offset at and is not written yet.
	buffer []byte
	at     int64
	// runs are those of the file that is being copied: most files need none to be kept.
	runs []run
	err  error
}

// NewWriter begins an image in f, which is empty and open for reading and writing, and stays the caller's: to sync, to close
// and to remove.
func NewWriter(f *os.File) (*Writer, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("begin an EROFS image: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() != 0 {
		return nil, fmt.Errorf("begin an EROFS image: %s is not an empty file", f.Name())
	}
	return &Writer{file: f, next: 1, buffer: make([]byte, 0, bufferSize), at: blockSize}, nil
}

// Copy takes r to its end as the bytes of one file. Longer stretches of zeros become holes.
func (w *Writer) Copy(r io.Reader) (Data, error) {
	return w.keep(w.copy(r, pieceBits, -1))
}

// CopySize is Copy for a file whose size is known; another one is an error. Large files with holes take less room than with Copy.
func (w *Writer) CopySize(r io.Reader, size int64) (Data, error) {
	if err := checkSize(size); err != nil {
		return w.keep(Data{}, err)
	}
	return w.keep(w.copy(r, chunkBitsOf(size), size))
}

// Discard says that no inode has d any more. It reads as zeros in the image, and takes no disk.
func (w *Writer) Discard(d Data) {
	if w.err != nil {
		return
	}
	for _, r := range d.extents() {
		end := r.end(d.Size, d.chunkBits)
		if end > w.next {
			w.keep(Data{}, errors.New("what is discarded is not of this image")) //nolint:errcheck // kept
			return
		}
		if err := w.punch(int64(r.block)<<blockBits, int64(end)<<blockBits); err != nil {
			w.keep(Data{}, err) //nolint:errcheck // kept
			return
		}
	}
}

// keep remembers the first error: an image that misses something must not be finished.
func (w *Writer) keep(d Data, err error) (Data, error) {
	if err != nil && w.err == nil {
		w.err = err
	}
	if err != nil {
		return Data{}, fmt.Errorf("write an EROFS image: %w", err)
	}
	return d, nil
}

func checkSize(size int64) error {
	if size < 0 || size > maxFile {
		return fmt.Errorf("a file of %d bytes; %d are the most", size, int64(maxFile))
	}
	return nil
}

// chunkBitsOf gives the size of the chunks of a sparse file, in bits of blocks.
func chunkBitsOf(size int64) uint8 {
	perChunk := (size + maxChunks - 1) / maxChunks
	return uint8(max(pieceBits, bits.Len64(blocksOf(perChunk)-1))) //nolint:gosec // small
}

// copy reads piece by piece; a size of -1 is an unknown one. What is all zeros is not written.
func (w *Writer) copy(r io.Reader, chunkBits uint8, size int64) (Data, error) {
	if w.err != nil {
		return Data{}, w.err
	}
	d := Data{chunkBits: chunkBits, runs: w.runs[:0]}
	most := size
	if size < 0 {
		most = maxFile
	}
	for {
		piece, err := w.space()
		if err != nil {
			return Data{}, err
		}
		n, err := io.ReadFull(r, piece)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return Data{}, err
		}
		if d.Size+int64(n) > most {
			return Data{}, fmt.Errorf("a file has more than %d bytes", most)
		}
		if !bytes.Equal(piece[:n], zeros[:n]) {
			if err := w.place(&d, n); err != nil {
				return Data{}, err
			}
		}
		d.Size += int64(n)
		if end {
			break
		}
	}
	if size >= 0 && d.Size != size {
		return Data{}, fmt.Errorf("a file has %d bytes in place of %d: %w", d.Size, size, io.ErrUnexpectedEOF)
	}
	return d, w.finish(&d)
}

// place takes the n bytes that were read into the space behind the buffer as the next of the file.
func (w *Writer) place(d *Data, n int) error {
	chunk := uint32(uint64(d.Size) >> (blockBits + d.chunkBits)) //nolint:gosec // files are not larger than maxFile
	if err := w.reach(d, chunk, chunk+1); err != nil {
		return err
	}
	last := d.runs[len(d.runs)-1]
	offset := int64(last.block)<<blockBits + d.Size - int64(last.chunk)<<(blockBits+d.chunkBits)
	return w.take(offset, n)
}

// reach gives the chunks from one to another a place: behind the last ones of the file, with what is between them when
// that is too small for a hole. What is of one file is in one piece so far, as nothing else gets a place meanwhile.
func (w *Writer) reach(d *Data, from, to uint32) error {
	end := d.mapped()
	if from < end {
		return nil
	}
	hole := int64(from-end)<<(blockBits+d.chunkBits) >= minHole
	if !hole {
		from = end
	}
	size := uint64(to-from) << d.chunkBits
	if w.next+size >= chunkHole {
		return errors.New("the image is larger than 16 TiB")
	}
	if hole || len(d.runs) == 0 {
		d.runs = append(d.runs, run{chunk: from, block: uint32(w.next)}) //nolint:gosec // checked
	}
	d.runs[len(d.runs)-1].count += to - from
	w.next += size
	return nil
}

// finish does the same for the zeros at the end, gives back what the last chunk has behind the end of the file, and finds out whether
// there are holes.
func (w *Writer) finish(d *Data) error {
	all := d.chunks()
	if end := d.mapped(); int64(all-end)<<(blockBits+d.chunkBits) < minHole && all > end {
		if err := w.reach(d, end, all); err != nil {
			return err
		}
	}
	w.runs = d.runs[:0]
	if d.mapped() == all && all > 0 {
		w.next = d.runs[len(d.runs)-1].end(d.Size, d.chunkBits)
	}
	switch {
	case d.Size == 0:
		*d = Data{}
	case len(d.runs) == 1 && d.runs[0].count == all:
		*d = Data{Size: d.Size, block: d.runs[0].block}
	default:
		d.sparse, d.runs = true, slices.Clone(d.runs)
	}
	return nil
}

// space gives room for a piece behind what is in the buffer.
func (w *Writer) space() ([]byte, error) {
	if cap(w.buffer)-len(w.buffer) < pieceSize {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	return w.buffer[len(w.buffer) : len(w.buffer)+pieceSize], nil
}

// take makes the n bytes behind the buffer part of it, up to the end of their block, as what belongs at the offset.
func (w *Writer) take(offset int64, n int) error {
	start := len(w.buffer)
	piece := w.buffer[start : start+int(align(int64(n), blockSize))]
	clear(piece[n:])
	if w.at+int64(start) != offset {
		if err := w.flush(); err != nil {
			return err
		}
		w.at = offset
		w.buffer = append(w.buffer, piece...)
		return nil
	}
	w.buffer = w.buffer[:start+len(piece)]
	return nil
}

func (w *Writer) flush() error {
	if _, err := w.file.WriteAt(w.buffer, w.at); err != nil {
		return err
	}
	w.at += int64(len(w.buffer))
	w.buffer = w.buffer[:0]
	return nil
}

// punch makes the bytes from start to end zeros.
func (w *Writer) punch(start, end int64) error {
	if end > w.at {
		if err := w.flush(); err != nil {
			return err
		}
	}
	err := unix.Fallocate(int(w.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, start, end-start)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	for ; start < end; start += pieceSize {
		if _, err := w.file.WriteAt(zeros[:min(pieceSize, end-start)], start); err != nil {
			return err
		}
	}
	return nil
}
