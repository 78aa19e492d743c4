package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"brig/internal/fault"
	"brig/internal/image"
	"brig/internal/image/build"
	"brig/internal/layers"
)

// ImportOptions of an import.
type ImportOptions struct {
	Build build.Options
	// Platform of the programs in it; "" for this machine's.
	Platform string
	// Changes are instructions as a Dockerfile has them (docker import's --change).
	Changes []string
	// Message is the comment in the image's history.
	Message string
	// Accept, Progress and Notice as in Options.
	Accept   func(ref image.Ref, target, manifest image.Digest) error
	Progress func(want, done int64)
	Notice   func(text string)
}

// Import makes an image of one layer of a root file system: a folder, or a tar, which may be compressed and stays as it is. The same
// files, times and changes give the same image: nothing is taken from the clock.
func Import(ctx context.Context, s *image.Store, in Input, name string, o ImportOptions) (*Loaded, error) {
	ref, err := image.ParseRef(name)
	if err != nil {
		return nil, err
	}
	if ref.Digest() != "" {
		return nil, fmt.Errorf("%s: a digest is no name that can be given", name)
	}
	config, err := newConfig(o)
	if err != nil {
		return nil, err
	}
	session, err := s.Begin()
	if err != nil {
		return nil, err
	}
	defer session.End()
	l := &loader{ctx: ctx, s: s, o: Options{Build: o.Build, Accept: o.Accept, Progress: o.Progress, Notice: o.Notice}}
	f, err := layerFile(ctx, s, in, o, l.progress)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	layer, diffID, err := l.layerOf(f)
	if err != nil {
		return nil, err
	}
	config.RootFS = rootFS{Type: "layers", DiffIDs: []image.Digest{diffID}}
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Layers: []image.Descriptor{layer}}
	if m.Config, err = putJSON(s, image.MediaConfig, config); err != nil {
		return nil, err
	}
	target, err := putJSON(s, image.MediaManifest, m)
	if err != nil {
		return nil, err
	}
	list, err := (&found{loader: l, names: []image.Ref{ref}}).finish(target, target.Digest)
	if err != nil {
		return nil, err
	}
	return &list[0], l.tag(list)
}

// layerFile gives the layer in a file that can be read at any place.
func layerFile(ctx context.Context, s *image.Store, in Input, o ImportOptions, progress func(want, done int64)) (*os.File, error) {
	f, st, err := in.open()
	if err != nil {
		return nil, err
	}
	if st.Mode().IsRegular() {
		return f, nil
	}
	defer f.Close() //nolint:errcheck // read only
	if !st.IsDir() {
		return spool(s, &coming{reader{ctx, f}, progress}, o.Build.Limits.Size)
	}
	layer, err := temporary(s)
	if err != nil {
		return nil, err
	}
	fault.Point("import begun")
	if err := writeTree(ctx, s, f, layer, o, progress); err != nil {
		return nil, errors.Join(fmt.Errorf("import %s: %w", f.Name(), err), layer.Close())
	}
	fault.Point("import read")
	return layer, nil
}

// layerOf brings in a layer and gives its diffID.
func (l *loader) layerOf(f *os.File) (image.Descriptor, image.Digest, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return image.Descriptor{}, "", err
	}
	whole := sha256.New()
	var size counter
	in := io.TeeReader(&reader{l.ctx, f}, io.MultiWriter(whole, &size))
	r, packing, err := layers.Decompress(in, l.o.Build.Limits)
	if err != nil {
		return image.Descriptor{}, "", err
	}
	defer r.Close() //nolint:errcheck // read only
	diffID := image.Digest("")
	if packing == layers.None {
		_, err = io.Copy(io.Discard, r)
	} else {
		plain := sha256.New()
		_, err = io.Copy(plain, r)
		diffID = image.DigestOfHash(plain)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, in) // what is behind its end is the blob's, too
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return image.Descriptor{}, "", err
	}
	d := image.Descriptor{MediaType: mediaType(packing), Digest: image.DigestOfHash(whole), Size: int64(size)}
	if diffID == "" {
		diffID = d.Digest
	}
	if l.s.HasBlob(d.Digest, d.Size) {
		return d, diffID, nil
	}
	return d, diffID, l.copy(f, f.Name(), d.Digest, d.Size)
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
