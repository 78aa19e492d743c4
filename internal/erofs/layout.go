package erofs

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// maxTail is how large an inode with what follows it in its block may be. What is larger would on average lose as much
// in front of it, because it must not cross a block, as a block of its own loses behind it.
const maxTail = blockSize / 2

// Close writes the tree and then the superblock, and gives the image's size. It does not close the file.
func (w *Writer) Close(root *Inode) (size int64, err error) {
	if w.err == nil {
		size, w.err = w.finishImage(root)
	}
	if w.err != nil {
		return 0, fmt.Errorf("write an EROFS image: %w", w.err)
	}
	w.err = errors.New("the image is finished")
	return size, nil
}

func (w *Writer) finishImage(root *Inode) (int64, error) {
	if err := w.flush(); err != nil {
		return 0, err
	}
	nodes, err := walk(root, w.next)
	if err != nil {
		return 0, err
	}
	shared, err := shareXattrs(nodes)
	if err != nil {
		return 0, err
	}
	start := w.next
	inodes := w.layOut(nodes)
	s := super{root: uint16(nodes[0].number()), inodes: uint64(len(nodes))} //nolint:gosec // the first one is near the start
	xattrs := w.next
	w.next += blocksOf(int64(len(shared)))
	meta := w.next
	w.next += blocksOf(inodes)
	if w.next > chunkHole {
		return 0, errors.New("the image is larger than 16 TiB")
	}
	s.meta, s.blocks = uint32(meta), uint32(w.next)
	for _, n := range nodes {
		if n.layout == layoutChunked {
			s.incompat = featureIncompatChunkedFile
		}
		if n.xattrs != nil {
			s.xattrs = uint32(xattrs) // also when none is shared: Probe tells by it
		}
	}
	out := newArea(w.file, start)
	writeBlocks(out, nodes)
	out.write(shared)
	out.pad(int64(meta-start) << blockBits)
	writeInodes(out, nodes, int64(meta-start)<<blockBits)
	out.pad(int64(w.next-start) << blockBits)
	if err := out.close(); err != nil {
		return 0, err
	}
	copy(s.uuid[:], out.sum())
	if _, err := w.file.WriteAt(s.encode(), 0); err != nil {
		return 0, err
	}
	return int64(w.next) << blockBits, nil
}

// layOut gives every node its layout, its blocks and its place in the area of inodes, and the size of that. The area's first slots stay
// empty: 0 is no inode number that programs expect.
func (w *Writer) layOut(nodes []*node) int64 {
	area := int64(inodeSize)
	for _, n := range nodes {
		tail := w.shape(n)
		head := n.head()
		whole := int64(inodeSize) // is not torn, to be read at once; attributes and chunks may be
		if n.layout == layoutInline {
			whole = head + tail
		}
		if area%blockSize+whole > blockSize {
			area = align(area, blockSize)
		}
		n.offset = area
		area = align(area+head+tail, slotSize)
	}
	return area
}

// head gives the size of the inode and its attributes.
func (n *node) head() int64 {
	if n.xattrs == nil {
		return inodeSize
	}
	return inodeSize + n.xattrs.size
}

// shape chooses the layout of a node and gives how much follows its attributes.
func (w *Writer) shape(n *node) int64 {
	switch n.inode.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		blocks, tail := 0, 0
		for group := range blockGroups(n.entries) {
			blocks, tail = blocks+1, groupSize(group)
		}
		n.size = int64(blocks-1)*blockSize + int64(tail)
		return w.shapeTail(n, int64(blocks), int64(tail))
	case unix.S_IFLNK:
		n.size = int64(len(n.inode.Target))
		return w.shapeTail(n, 1, n.size)
	case unix.S_IFCHR, unix.S_IFBLK:
		n.union, _ = encodeDevice(n.inode.Rdev) // checked
	case unix.S_IFREG:
		d := &n.inode.Data
		n.size = d.Size
		if !d.sparse {
			n.union = d.block
			break
		}
		n.layout, n.union = layoutChunked, uint32(d.chunkBits)
		return chunkEntrySize * int64(d.chunks())
	}
	return 0
}

// shapeTail puts the last block behind the inode when it is short, and the others into blocks.
func (w *Writer) shapeTail(n *node, blocks, tail int64) int64 {
	n.layout = layoutFlatPlain
	if n.head()+tail <= maxTail {
		n.layout = layoutInline
		blocks--
	} else {
		tail = 0
	}
	if blocks > 0 {
		n.union = uint32(w.next) //nolint:gosec // checked by the caller
		w.next += uint64(blocks)
	}
	return tail
}

// writeBlocks writes the blocks of folders and long links, in the order in which shapeTail gave them.
func writeBlocks(out *area, nodes []*node) {
	for _, n := range nodes {
		switch n.inode.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			for group := range blockGroups(n.entries) {
				if last := len(group) > 0 && group[len(group)-1] == n.entries[len(n.entries)-1]; !last || n.layout != layoutInline {
					out.write(encodeGroup(group))
					out.pad(align(out.at, blockSize))
				}
			}
		case unix.S_IFLNK:
			if n.layout != layoutInline {
				out.write([]byte(n.inode.Target))
				out.pad(align(out.at, blockSize))
			}
		}
	}
}

// writeInodes writes the area of inodes, which begins at start.
func writeInodes(out *area, nodes []*node, start int64) {
	for i, n := range nodes {
		out.pad(start + n.offset)
		head := encodeInode(n, uint32(i+1)) //nolint:gosec // only for 32-bit programs
		out.write(head[:])
		if n.xattrs != nil {
			out.write(n.xattrs.encode())
		}
		switch {
		case n.layout == layoutChunked:
			writeChunks(out, &n.inode.Data)
		case n.layout == layoutInline && n.inode.Target != "":
			out.write([]byte(n.inode.Target))
		case n.layout == layoutInline:
			var last []entry
			for last = range blockGroups(n.entries) { //nolint:revive // to the last one
			}
			out.write(encodeGroup(last))
		}
	}
}

// writeChunks writes the addresses of a sparse file's chunks.
func writeChunks(out *area, d *Data) {
	chunk := uint32(0)
	for _, r := range append(d.runs[:len(d.runs):len(d.runs)], run{chunk: d.chunks()}) {
		for ; chunk < r.chunk; chunk++ {
			out.word(chunkHole)
		}
		for i := range r.count {
			out.word(r.block + i<<d.chunkBits)
			chunk++
		}
	}
}

// area is what is written behind the data, from its first byte to its last.
type area struct {
	out    *bufio.Writer
	at     int64
	digest interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func newArea(file io.WriterAt, block uint64) *area {
	a := &area{digest: sha256.New()}
	a.out = bufio.NewWriterSize(io.MultiWriter(io.NewOffsetWriter(file, int64(block)<<blockBits), a.digest), bufferSize)
	return a
}

// write and the like keep an error for close, as bufio does.
func (a *area) write(b []byte) {
	n, _ := a.out.Write(b)
	a.at += int64(n)
}

func (a *area) word(v uint32) {
	var b [4]byte
	le.PutUint32(b[:], v)
	a.write(b[:])
}

// pad writes zeros up to the offset.
func (a *area) pad(to int64) {
	for a.at < to {
		before := a.at
		if a.write(zeros[:min(pieceSize, to-a.at)]); a.at == before {
			return
		}
	}
}

func (a *area) close() error { return a.out.Flush() }

// sum gives a UUID (RFC 9562, version 8) that is made of what was written.
func (a *area) sum() []byte {
	u := a.digest.Sum(nil)[:16]
	u[6] = u[6]&0x0F | 0x80
	u[8] = u[8]&0x3F | 0x80
	return u
}
