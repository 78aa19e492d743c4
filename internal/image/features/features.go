// Package features tells what an EROFS image has that not every reader knows. It is apart from package erofs, which writes images,
// so that who only hands one over links no writer.
package features

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The superblock, as linux/fs/erofs/erofs_fs.h has it, and the one incompatible feature that Brig's writer uses.
const (
	superOffset  = 1024
	superMagic   = 0xE0F5E1E2
	chunkedFiles = 0x4
)

var le = binary.LittleEndian

// Features are what an image has that not every reader knows. gVisor's kernel has a reader of its own (pkg/erofs): it refuses
// an image with chunks, and each file that has extended attributes.
type Features struct {
	// Chunks: a file has holes large enough for it to be cut into chunks.
	Chunks bool
	// Xattrs: an inode has extended attributes.
	Xattrs bool
}

// Probe tells the features of an image that an erofs.Writer made, by its superblock. An image of an older Writer is taken for one
// with extended attributes, because that one did not tell.
func Probe(image io.ReaderAt) (Features, error) {
	var b [128]byte
	if _, err := image.ReadAt(b[:], superOffset); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Features{}, fmt.Errorf("read the superblock of an EROFS image: %w", err)
	}
	if le.Uint32(b[:]) != superMagic {
		return Features{}, errors.New("read the superblock of an EROFS image: this is none")
	}
	incompat := le.Uint32(b[0x50:])
	if unknown := incompat &^ chunkedFiles; unknown != 0 {
		return Features{}, fmt.Errorf("an EROFS image has features that Brig does not write: %#x", unknown)
	}
	return Features{Chunks: incompat != 0, Xattrs: le.Uint32(b[0x2C:]) != 0}, nil
}
