package registry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"brig/internal/image"
)

// Pulled is an image that is in the store with every blob it needs. It has no root and no name there yet.
type Pulled struct {
	Ref      image.Ref
	Target   image.Descriptor // what the reference points to: an index or a manifest
	Manifest image.Digest     // the manifest that was chosen
	Platform image.Platform   // that the image is built for
	Fetched  int64            // bytes of blobs that came
}

// maxIndexes is how deep indexes may lie in each other.
const maxIndexes = 4

// Pull brings an image into the store: what the reference points to, the manifest for the platform, its configuration and its
// layers. What is here is not fetched again; when the tag has the digest that it had before, one request is all there is. The
// caller has begun a session of the store, makes the root and gives the name, so that nothing is visible before all of it is here.
func (c *Client) Pull(ctx context.Context, s *image.Store, ref image.Ref, want image.Platform) (*Pulled, error) {
	p := &pull{c: c, s: s, ref: ref, want: want}
	out, err := p.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", ref, err)
	}
	return out, nil
}

// pull is one pull.
type pull struct {
	c    *Client
	s    *image.Store
	ref  image.Ref
	want image.Platform
}

func (p *pull) run(ctx context.Context) (*Pulled, error) {
	top, err := p.resolve(ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := p.choose(ctx, top)
	if err != nil {
		return nil, err
	}
	m, err := p.s.Manifest(chosen.Digest)
	if err != nil {
		return nil, err
	}
	if err := checkImage(m); err != nil {
		return nil, err
	}
	if admit := p.c.o.Admit; admit != nil {
		if err := admit(ctx, top.Digest, chosen.Digest); err != nil {
			return nil, err
		}
	}
	out := &Pulled{Ref: p.ref, Target: top, Manifest: chosen.Digest}
	if out.Fetched, err = p.blobs(ctx, chosen.Digest, m); err != nil {
		return nil, err
	}
	config, err := p.s.ImageConfig(m)
	if err != nil {
		return nil, err
	}
	out.Platform = config.Platform
	if config.OS == "" && config.Architecture == "" {
		out.Platform = p.want
	}
	return out, nil
}

// checkImage refuses what is no image, and layers that a registry does not have.
func checkImage(m *image.Manifest) error {
	// The last one is what old clients wrote.
	if t := m.Config.MediaType; !slices.Contains([]string{image.MediaConfig, image.MediaDockerConfig, "application/octet-stream"}, t) {
		if m.ArtifactType != "" {
			t = m.ArtifactType
		}
		return fmt.Errorf("it is no image: its content is of the type %.100q", t)
	}
	if m.Config.Size > image.MaxConfig {
		return fmt.Errorf("the image's configuration is larger than %d MiB", image.MaxConfig>>20)
	}
	if len(m.Config.URLs) > 0 {
		return fmt.Errorf("the image's configuration is to be fetched from elsewhere (%q): that is refused", m.Config.URLs)
	}
	return m.CheckLayers()
}

// resolve finds what the reference points to, and brings the document into the store.
func (p *pull) resolve(ctx context.Context) (image.Descriptor, error) {
	if d := p.ref.Digest(); d != "" {
		return p.document(ctx, image.Descriptor{Digest: d, Size: -1})
	}
	if d, ok := p.unchanged(ctx); ok {
		return d, nil
	}
	var doc *document
	err := p.c.each(ctx, p.ref, func(e *endpoint) (err error) {
		doc, err = e.session(p.ref.Repository()).manifest(ctx, p.ref.Tag())
		return err
	})
	if err != nil {
		return image.Descriptor{}, err
	}
	_, err = p.s.Put(doc.data)
	return doc.desc, err
}

// unchanged asks whether a tag that is known here still points to the same. Any doubt is a no: then it is fetched.
func (p *pull) unchanged(ctx context.Context) (image.Descriptor, bool) {
	have, err := p.s.Entry(p.ref)
	if err != nil {
		return image.Descriptor{}, false
	}
	desc, err := p.here(have.Target.Digest)
	if err != nil {
		return image.Descriptor{}, false
	}
	var now image.Digest
	err = p.c.each(ctx, p.ref, func(e *endpoint) (err error) {
		now, err = e.session(p.ref.Repository()).head(ctx, p.ref.Tag())
		return err
	})
	return desc, err == nil && now == desc.Digest
}

// here gives the descriptor of a document that is in the store.
func (p *pull) here(d image.Digest) (image.Descriptor, error) {
	data, err := p.s.Blob(d, image.MaxManifest)
	if err != nil {
		return image.Descriptor{}, err
	}
	kind, err := image.MediaTypeOf(data, "")
	return image.Descriptor{MediaType: kind, Digest: d, Size: int64(len(data))}, err
}

// document brings a manifest or an index into the store by its digest.
func (p *pull) document(ctx context.Context, want image.Descriptor) (image.Descriptor, error) {
	if want.Size > image.MaxManifest {
		return image.Descriptor{}, fmt.Errorf("the manifest %s is larger than %d MiB", want.Digest, image.MaxManifest>>20)
	}
	var d image.Descriptor
	var err error
	for range 2 {
		if err = p.c.document(ctx, p.s, p.ref, want); err != nil {
			return d, err
		}
		// One that was here and is damaged is set aside when it is read: then it comes anew.
		var damaged *image.CorruptError
		if d, err = p.here(want.Digest); !errors.As(err, &damaged) {
			break
		}
	}
	if err == nil && (want.Size >= 0 && d.Size != want.Size || want.MediaType != "" && d.IsIndex() != want.IsIndex()) {
		err = fmt.Errorf("the manifest %s is announced as %s of %d bytes, and is %s of %d", want.Digest, want.MediaType, want.Size, d.MediaType, d.Size)
	}
	return d, err
}

// document brings in a manifest, unless it is here. Of many that want it at once one fetches it.
func (c *Client) document(ctx context.Context, s *image.Store, ref image.Ref, want image.Descriptor) error {
	return cancellable(ctx, func() error {
		return c.each(ctx, ref, func(e *endpoint) error {
			return s.Ingest(want.Digest, want.Size, func(w *image.Partial) error {
				doc, err := e.session(ref.Repository()).manifest(ctx, string(want.Digest))
				if err != nil {
					return err
				}
				if err = w.Reset(); err == nil {
					_, err = w.Write(doc.data)
				}
				if err != nil {
					return &localError{err}
				}
				return nil
			})
		})
	})
}

// choose follows indexes to the manifest for the platform.
func (p *pull) choose(ctx context.Context, d image.Descriptor) (image.Descriptor, error) {
	for depth := 0; d.IsIndex(); depth++ {
		if depth == maxIndexes {
			return d, fmt.Errorf("indexes lie in each other more than %d deep", maxIndexes)
		}
		x, err := p.s.Index(d.Digest)
		if err != nil {
			return d, err
		}
		next, err := x.Choose(p.want)
		if err != nil {
			return d, err
		}
		if len(next.URLs) > 0 {
			return d, fmt.Errorf("the manifest %s is to be fetched from elsewhere (%q): that is refused", next.Digest, next.URLs)
		}
		if d, err = p.document(ctx, next); err != nil {
			return d, err
		}
	}
	return d, nil
}

// blobs fetches the configuration and the layers that are not here, a few at once, and gives the bytes that came. Before the first byte there
// must be room for all.
func (p *pull) blobs(ctx context.Context, manifest image.Digest, m *image.Manifest) (int64, error) {
	_, _ = p.s.ImageConfig(m) // one that is damaged is set aside, and is missing then
	var missing []image.Descriptor
	var sum int64
	sizes := map[image.Digest]int64{}
	for _, d := range append([]image.Descriptor{m.Config}, m.Layers...) {
		if size, twice := sizes[d.Digest]; twice {
			if size != d.Size {
				return 0, fmt.Errorf("the manifest has blob %s with %d bytes, and with %d", d.Digest, size, d.Size)
			}
			continue
		}
		sizes[d.Digest] = d.Size
		if p.s.HasBlob(d.Digest, d.Size) {
			continue
		}
		if sum > math.MaxInt64-d.Size {
			return 0, errors.New("the layers are larger than can be counted")
		}
		sum += d.Size
		missing = append(missing, d)
	}
	if err := p.s.Room(sum); err != nil {
		return 0, err
	}
	p.c.expect(sum)
	if len(missing) > 0 && missing[0].Digest == m.Config.Digest {
		// The first one, alone when the platform is known by it only: a wrong one is found before gigabytes have come.
		if err := p.blob(ctx, missing[0]); err != nil {
			return 0, err
		}
		missing = missing[1:]
	}
	if err := p.checkConfig(m); err != nil {
		return 0, err
	}
	if p.c.o.Begin != nil {
		p.c.o.Begin(manifest, m)
	}
	return sum, together(ctx, missing, p.blob)
}

func (p *pull) blob(ctx context.Context, d image.Descriptor) error {
	err := cancellable(ctx, func() error { return p.c.blob(ctx, p.s, p.ref, d) })
	if err == nil && p.c.o.Here != nil {
		p.c.o.Here(d.Digest)
	}
	return err
}

// checkConfig refuses an image for another platform, and one whose configuration is of other layers, before they are fetched.
func (p *pull) checkConfig(m *image.Manifest) error {
	config, err := p.s.ImageConfig(m)
	if err != nil {
		return err
	}
	if len(config.DiffIDs) != len(m.Layers) {
		return fmt.Errorf("the manifest has %d layers, and the image's configuration %d", len(m.Layers), len(config.DiffIDs))
	}
	if config.OS == "" && config.Architecture == "" {
		return nil // of old tools; then the index has said it, or nobody
	}
	one := image.Index{Manifests: []image.Descriptor{{MediaType: image.MediaManifest, Digest: m.Config.Digest, Platform: &config.Platform}}}
	_, err = one.Choose(p.want)
	return err
}

// together does something for each blob, a few at once. The first error ends the others.
func together(ctx context.Context, list []image.Descriptor, do func(context.Context, image.Descriptor) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	places := make(chan struct{}, parallel)
	for _, d := range list {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-places }()
			if err := do(ctx, d); err != nil {
				cancel(err) // the first one is kept
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// cancellable does not wait for a lock that another process has when the command is to end: flock(2) cannot be told. What is
// left waiting does nothing more once it gets there, since its context has ended.
func cancellable(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
