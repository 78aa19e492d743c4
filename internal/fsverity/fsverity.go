// Package fsverity computes, and asks the kernel for, the fs-verity digest of a file (Documentation/filesystems/fsverity.rst): the
// root of a Merkle tree over its blocks, which the kernel checks at every read once it is enabled.
//
// Its place on the road: none of the launch. Package image keeps the digest of what it built and compares it at every use; where
// the file system of the store has fs-verity, the kernel holds the file to it.
//
// All of it is with SHA-256, blocks of 4096 bytes and no salt, the form that fsverity(1) makes when it is not told otherwise.
package fsverity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	blockSize = 4096
	perBlock  = blockSize / sha256.Size // hashes in a block of the tree
	// segmentSize is what one block of hashes covers, and what is read at once.
	segmentSize = perBlock * blockSize
)

var (
	zeroBlock [blockSize]byte
	zeroHash  = sync.OnceValue(func() hash { return sha256.Sum256(zeroBlock[:]) })
)

type hash = [sha256.Size]byte

// Digest computes the digest of a file of this size, with all processors and with half a megabyte for each, whatever the size.
func Digest(f io.ReaderAt, size int64) ([32]byte, error) {
	root, err := rootOf(f, size)
	if err != nil {
		return hash{}, fmt.Errorf("compute the fs-verity digest: %w", err)
	}
	return descriptor(size, root), nil
}

// rootOf gives the root of the tree: nothing for an empty file, the block's own hash for a file of one.
func rootOf(f io.ReaderAt, size int64) (hash, error) {
	switch {
	case size < 0:
		return hash{}, fmt.Errorf("a file of %d bytes", size)
	case size == 0:
		return hash{}, nil
	case size <= blockSize:
		var block [blockSize]byte
		if err := readFull(f, block[:size], 0); err != nil {
			return hash{}, err
		}
		return sha256.Sum256(block[:]), nil
	}
	r := round{file: f, size: size}
	var t tree
	for ; r.start < size; r.start += perBlock * segmentSize {
		hashes, err := r.run()
		if err != nil {
			return hash{}, err
		}
		for _, h := range hashes {
			t.add(0, h)
		}
	}
	return t.root(), nil
}

// round is the work on as many segments as there are hashes in a block, by all processors. Then the next ones begin, so that
// there is no more to be remembered.
type round struct {
	file        io.ReaderAt
	size, start int64
	buffers     [][]byte
	hashes      [perBlock]hash
}

func (r *round) run() ([]hash, error) {
	segments := min(perBlock, (r.size-r.start+segmentSize-1)/segmentSize)
	workers := int(min(segments, int64(runtime.GOMAXPROCS(0))))
	for len(r.buffers) < workers {
		r.buffers = append(r.buffers, make([]byte, segmentSize))
	}
	errs := make([]error, workers)
	var next atomic.Int64
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			for errs[i] == nil {
				s := next.Add(1) - 1
				if s >= segments {
					return
				}
				errs[i] = r.segment(s, r.buffers[i])
			}
		})
	}
	group.Wait()
	return r.hashes[:segments], errors.Join(errs...)
}

// segment hashes the blocks of a segment, and the block of their hashes. Zeros, which an image of a file system has where something was
// taken away, are known.
func (r *round) segment(s int64, buffer []byte) error {
	at := r.start + s*segmentSize
	n := min(segmentSize, r.size-at)
	if err := readFull(r.file, buffer[:n], at); err != nil {
		return err
	}
	clear(buffer[n:])
	var hashes [blockSize]byte
	for i := range (n + blockSize - 1) / blockSize {
		h := zeroHash()
		if block := buffer[i*blockSize : (i+1)*blockSize]; !bytes.Equal(block, zeroBlock[:]) {
			h = sha256.Sum256(block)
		}
		copy(hashes[i*sha256.Size:], h[:])
	}
	r.hashes[s] = sha256.Sum256(hashes[:])
	return nil
}

// readFull reads all of b; a file that is shorter than it was said to be is an error.
func readFull(f io.ReaderAt, b []byte, at int64) error {
	n, err := f.ReadAt(b, at)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return fmt.Errorf("the file ends at %d: %w", at+int64(n), io.ErrUnexpectedEOF)
	}
	return err
}

// tree has the last, unfinished block of every level above the segments.
type tree [][]byte

// add adds a hash to a level; a full block's own hash goes one up.
func (t *tree) add(level int, h hash) {
	if level == len(*t) {
		*t = append(*t, make([]byte, 0, blockSize))
	}
	b := append((*t)[level], h[:]...)
	if len(b) == blockSize {
		t.add(level+1, sha256.Sum256(b))
		b = b[:0]
	}
	(*t)[level] = b
}

// root closes the blocks from below, with zeros, until one hash is left.
func (t *tree) root() hash {
	for level := 0; ; level++ {
		b := (*t)[level]
		switch {
		case len(b) == sha256.Size && level == len(*t)-1:
			return hash(b)
		case len(b) > 0:
			t.add(level+1, sha256.Sum256(append(b, zeroBlock[len(b):]...)))
		}
	}
}

// descriptor gives the digest: the hash of struct fsverity_descriptor (include/uapi/linux/fsverity.h).
func descriptor(size int64, root hash) hash {
	var d [256]byte
	d[0] = 1                                           // version
	d[1] = 1                                           // FS_VERITY_HASH_ALG_SHA256
	d[2] = 12                                          // log_blocksize
	binary.LittleEndian.PutUint64(d[8:], uint64(size)) //nolint:gosec // not negative
	copy(d[16:], root[:])
	return sha256.Sum256(d[:])
}
