package image

import (
	"errors"
	"os"

	"brig/internal/image/features"
)

// File gives the image's EROFS as an open file, for a kernel that reads it itself, checked as for a mount; nil when it has what
// gVisor's reader does not know (features.Features). The caller closes it.
func (i *Image) File() (*os.File, error) {
	f, id, err := i.store.openRoot(i.record)
	if err != nil {
		return nil, err
	}
	err = i.store.confirm(f, id, i.record)
	var found features.Features
	if err == nil {
		found, err = features.Probe(f)
	}
	if err != nil || found != (features.Features{}) {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
