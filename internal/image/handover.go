package image

import (
	"errors"
	"os"

	"brig/internal/erofs"
)

// File gives the image's EROFS as an open file, for a kernel that reads it itself, checked as for a mount; nil when it has what
// gVisor's reader does not know (erofs.Features). The caller closes it.
func (i *Image) File() (*os.File, error) {
	f, id, err := i.store.openRoot(i.record)
	if err != nil {
		return nil, err
	}
	err = i.store.confirm(f, id, i.record)
	var features erofs.Features
	if err == nil {
		features, err = erofs.Probe(f)
	}
	if err != nil || features != (erofs.Features{}) {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
