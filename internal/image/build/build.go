// Package build makes the root file system of an image: the layers of a manifest, which are in the store, become one
// EROFS image.
//
// Its place on the road: between the registry (or an archive) and the store, in the program brig-image. A layer is read once; before
// anything of the result can be used the layer had the digest that the manifest has for it, and what it unpacks to the one that the
// configuration has.
package build

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"brig/internal/erofs"
	"brig/internal/image"
	"brig/internal/layers"
)

// Options of one making.
type Options struct {
	Limits  layers.Limits
	Devices layers.DevicePolicy
	// Layer is called with what was read of a layer as the store has it, in bytes. It may be nil.
	Layer func(layer image.Digest, bytes int64)
	// Wait is called before a layer is read, and returns when the store has it: layers are merged while later ones still come. It
	// may be nil.
	Wait func(layer image.Digest) error
}

// LayerError is a layer that cannot be used.
type LayerError struct {
	Layer image.Digest
	Err   error
}

func (e *LayerError) Error() string { return fmt.Sprintf("layer %s: %v", e.Layer, e.Err) }
func (e *LayerError) Unwrap() error { return e.Err }

// Root makes the root file system of a manifest, unless it is here. The manifest and its configuration must be in the store, and the layers, or be
// waited for.
func Root(s *image.Store, manifest image.Digest, o Options) (*image.Record, error) {
	m, err := s.Manifest(manifest)
	if err != nil {
		return nil, err
	}
	if err := m.CheckLayers(); err != nil {
		return nil, err
	}
	config, err := s.ImageConfig(m)
	if err != nil {
		return nil, err
	}
	if len(config.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("the manifest has %d layers, and the image's configuration %d", len(m.Layers), len(config.DiffIDs))
	}
	return s.MakeRoot(manifest, config, func(f *os.File) (int64, error) {
		w, err := erofs.NewWriter(f)
		if err != nil {
			return 0, err
		}
		merger := layers.NewMerger(w, o.Limits, o.Devices)
		for i, l := range m.Layers {
			if o.Wait != nil {
				if err := o.Wait(l.Digest); err != nil {
					return 0, err
				}
			}
			if err := apply(s, merger, l.Digest, config.DiffIDs[i], o); err != nil {
				return 0, &LayerError{l.Digest, err}
			}
		}
		return w.Close(merger.Root())
	})
}

func apply(s *image.Store, merger *layers.Merger, layer, diffID image.Digest, o Options) error {
	blob, err := s.VerifiedReader(layer)
	if err != nil {
		return err
	}
	defer blob.Close() //nolint:errcheck // read only
	count := &counter{r: blob, layer: layer, told: o.Layer}
	tar, _, err := merger.Decompress(count)
	if err != nil {
		return err
	}
	defer tar.Close() //nolint:errcheck // read only
	sum := sha256.New()
	if err := merger.Apply(io.TeeReader(tar, sum)); err != nil {
		return err
	}
	// Apply has read tar to its end; what is behind it in the blob belongs to the blob's digest.
	if _, err := io.Copy(io.Discard, count); err != nil {
		return err
	}
	if got := image.DigestOfHash(sum); got != diffID {
		return fmt.Errorf("it unpacks to %s, and the image's configuration has %s for it", got, diffID)
	}
	return nil
}

// counter tells what is read.
type counter struct {
	r     io.Reader
	layer image.Digest
	told  func(image.Digest, int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 && c.told != nil {
		c.told(c.layer, int64(n))
	}
	return n, err
}
