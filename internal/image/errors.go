package image

import (
	"errors"
	"fmt"

	"github.com/docker/go-units"
)

// ErrNotHere says that the store has no image of that name: it has to be pulled or loaded.
var ErrNotHere = errors.New("the image is not here")

// ErrInUse is an image that a sandbox uses.
var ErrInUse = errors.New("a sandbox uses the image")

// CorruptError is a file of the store whose content is not what was verified when it came in.
type CorruptError struct {
	Path   string
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged: %s; `brig image verify` lists everything that is, and pulling the image again mends it", e.Path, e.Reason)
}

// DigestError is content that has another digest than it was asked for by.
type DigestError struct {
	Want, Got Digest
	Size      int64 // bytes that came
	WantSize  int64
}

func (e *DigestError) Error() string {
	if e.WantSize >= 0 && e.Size != e.WantSize {
		return fmt.Sprintf("%s has %d bytes, and %d were announced", e.Want, e.Size, e.WantSize)
	}
	return fmt.Sprintf("what came as %s has the digest %s; it is not used", e.Want, e.Got)
}

// SpaceError is a disk without room for what is to come.
type SpaceError struct {
	Dir        string
	Need, Free int64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s has no room: %s are free, and %s are needed; `brig image prune` removes what nothing uses", e.Dir, units.BytesSize(float64(e.Free)), units.BytesSize(float64(e.Need)))
}
