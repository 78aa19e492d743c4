// Package erofs writes images of EROFS, the kernel's read-only file system (Documentation/filesystems/erofs.rst, and
// fs/erofs/erofs_fs.h for the bytes).
//
// Its place on the road: none of the launch. Package layers streams what the layers of a container image hold through a Writer
// and gives it the merged tree at the end; the one file that comes out is what the kernel mounts and a VM has as its disk.
//
// The image is uncompressed, has blocks of 4 KiB and uses nothing that a kernel of 5.15 does not know. The bytes of regular
// files come first, in the order they were copied; behind them are the larger folders, the extended attributes that several
// inodes share, and the inodes; the superblock is written last, so that a half-made image is no image. The same calls give the same
// bytes: nothing is taken from the clock, the machine or chance.
//
// What a tree cannot be (a name with a slash, a folder in itself) and what the format cannot hold (an attribute of
// 64 KiB) is an error of Close that names the path.
package erofs

// Inode is one file, folder, link or node. Several names may lead to one *Inode: these are hard links, and the link count is
// counted from them. A folder has one name only.
type Inode struct {
	// Mode is the type (S_IFMT) and the permission bits, as stat(2) has them.
	Mode     uint32
	UID, GID uint32
	// Mtime is in seconds and may be before 1970. EROFS has one time, which stat(2) shows as all three.
	Mtime     int64
	MtimeNsec uint32
	// Rdev is what unix.Mkdev made. Only character and block devices have it.
	Rdev uint64
	// Target is a symbolic link's.
	Target string
	// Xattrs are extended attributes by their full names: of the namespaces user, trusted and security, and POSIX ACLs.
	Xattrs map[string]string
	// Data is where a regular file's bytes lie.
	Data Data
	// Children are a folder's entries by name.
	Children map[string]*Inode
}

// Data is where a regular file's bytes lie in the image. A Writer gives it. The zero Data is an empty file.
type Data struct {
	// Size is the file's length in bytes.
	Size int64
	// block is where the bytes begin when they lie in one piece.
	block uint32
	// sparse is set for a file with holes: it is cut into chunks of 1<<chunkBits blocks, and those that are in no run are holes.
	sparse    bool
	chunkBits uint8
	runs      []run
}

// run is a number of chunks that follow one another in the file and in the image.
type run struct {
	chunk, count uint32
	block        uint32
}

// end gives the block behind the run of a file of this size: the last chunk of a file is only as long as the file.
func (r run) end(size int64, chunkBits uint8) uint64 {
	blocks := min(uint64(r.chunk+r.count)<<chunkBits, blocksOf(size)) - uint64(r.chunk)<<chunkBits
	return uint64(r.block) + blocks
}

// extents are the pieces of the image that belong to the file.
func (d *Data) extents() []run {
	switch {
	case d.Size == 0:
		return nil
	case !d.sparse:
		return []run{{count: uint32(blocksOf(d.Size)), block: d.block}} //nolint:gosec // a file is smaller than the image
	}
	return d.runs
}

// chunks is how many the file has.
func (d *Data) chunks() uint32 {
	return uint32((blocksOf(d.Size) + 1<<d.chunkBits - 1) >> d.chunkBits) //nolint:gosec // at most as many as blocks
}

// mapped is the first chunk behind all that have a place.
func (d *Data) mapped() uint32 {
	if len(d.runs) == 0 {
		return 0
	}
	last := d.runs[len(d.runs)-1]
	return last.chunk + last.count
}
