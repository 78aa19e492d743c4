package erofs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"golang.org/x/sys/unix"
)

// What fs/erofs/erofs_fs.h defines, with its names where they are words.
const (
	blockBits = 12
	blockSize = 1 << blockBits
	slotSize  = 32 // what a node number counts

	superOffset = 1024
	superMagic  = 0xE0F5E1E2

	featureCompatChecksum      = 0x1
	featureCompatMtime         = 0x2 // the time of an extended inode is the file's mtime
	featureIncompatChunkedFile = 0x4

	inodeSize       = 64 // the extended form
	layoutExtended  = 1
	layoutFlatPlain = 0 << 1
	layoutInline    = 2 << 1
	layoutChunked   = 4 << 1

	chunkEntrySize = 4 // the plain block map: a block address each
	chunkHole      = 0xFFFFFFFF

	direntSize = 12
	maxName    = 255
	noID       = 1<<32 - 1 // as a user or a group
	maxTarget  = unix.PathMax - 1

	xattrHeaderSize = 12
	xattrEntrySize  = 4
	maxXattrValue   = 1<<16 - 1
	maxXattrList    = 1 << 16 // XATTR_LIST_MAX of the kernel
	// i_xattr_icount has 16 bits, counts words of four bytes, and the header as one.
	maxXattrBody = xattrHeaderSize + 4*(1<<16-2)
	// A shared attribute is counted in one byte of the header.
	maxShared = 1<<8 - 1
)

var le = binary.LittleEndian

// blocksOf gives how many blocks size bytes take.
func blocksOf(size int64) uint64 {
	return (uint64(size) + blockSize - 1) >> blockBits //nolint:gosec // sizes are not negative
}

// align rounds n up to a multiple of to, a power of two.
func align(n, to int64) int64 {
	return (n + to - 1) &^ (to - 1)
}

// super is what the superblock says of the image.
type super struct {
	root     uint16
	inodes   uint64
	blocks   uint32
	meta     uint32
	xattrs   uint32
	uuid     [16]byte
	incompat uint32
}

// encode gives the first block of the image. The checksum covers all of it behind the offset of the superblock and is
// CRC-32C without the last inversion, as the kernel's crc32c gives it.
func (s super) encode() []byte {
	block := make([]byte, blockSize)
	b := block[superOffset:]
	le.PutUint32(b[0x00:], superMagic)
	le.PutUint32(b[0x08:], featureCompatChecksum|featureCompatMtime)
	b[0x0C] = blockBits
	le.PutUint16(b[0x0E:], s.root)
	le.PutUint64(b[0x10:], s.inodes)
	le.PutUint32(b[0x24:], s.blocks)
	le.PutUint32(b[0x28:], s.meta)
	le.PutUint32(b[0x2C:], s.xattrs)
	copy(b[0x30:], s.uuid[:])
	le.PutUint32(b[0x50:], s.incompat)
	le.PutUint32(b[0x04:], ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return block
}

// encodeInode gives an inode in its extended form. union is what depends on the layout and the type: a block, a device number, the
// form of the chunks.
func encodeInode(n *node, number uint32) [inodeSize]byte {
	var b [inodeSize]byte
	i := n.inode
	le.PutUint16(b[0x00:], layoutExtended|n.layout)
	le.PutUint16(b[0x02:], n.xattrs.count())
	le.PutUint16(b[0x04:], uint16(i.Mode)) //nolint:gosec // checked
	le.PutUint64(b[0x08:], uint64(n.size)) //nolint:gosec // not negative
	le.PutUint32(b[0x10:], n.union)
	le.PutUint32(b[0x14:], number)
	le.PutUint32(b[0x18:], i.UID)
	le.PutUint32(b[0x1C:], i.GID)
	le.PutUint64(b[0x20:], uint64(i.Mtime)) //nolint:gosec // the kernel reads it with its sign
	le.PutUint32(b[0x28:], i.MtimeNsec)
	le.PutUint32(b[0x2C:], n.links)
	return b
}

// encodeDevice gives a device number as the kernel's new_encode_dev has it.
func encodeDevice(rdev uint64) (uint32, error) {
	major, minor := unix.Major(rdev), unix.Minor(rdev)
	if major >= 1<<12 || minor >= 1<<20 || unix.Mkdev(major, minor) != rdev {
		return 0, fmt.Errorf("the device number %d:%d is larger than the kernel has them", major, minor)
	}
	return minor&0xFF | major<<8 | (minor&^0xFF)<<12, nil
}

// fileType gives the type byte of a folder's entry (FT_REG_FILE and its like in include/linux/fs_types.h).
func fileType(mode uint32) (byte, bool) {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 1, true
	case unix.S_IFDIR:
		return 2, true
	case unix.S_IFCHR:
		return 3, true
	case unix.S_IFBLK:
		return 4, true
	case unix.S_IFIFO:
		return 5, true
	case unix.S_IFSOCK:
		return 6, true
	case unix.S_IFLNK:
		return 7, true
	}
	return 0, false
}
