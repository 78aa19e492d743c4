package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"brig/internal/image"
	"brig/internal/layers"
)

// SaveOptions of a save.
type SaveOptions struct {
	// Docker writes docker's archive alone, with layers that are not compressed, for what reads nothing newer.
	Docker bool
	// Platform is the one to save of an image that is not here for all of its platforms; "" for this machine's, or the
	// only one there is.
	Platform string
	Limits   layers.Limits
	// Progress is told of bytes that are to be written, and of those that were. It may be nil.
	Progress func(want, done int64)
}

// Save writes images into one archive: an OCI image layout, and, in the same file, what docker's archives have. The same images give the
// same bytes. Every blob is verified while it is read; nothing is left when one is damaged.
//
// An index is saved with those of its images that are here, so that its digest, and what was signed of it, hold where it is loaded. The
// specification lets a layout lack blobs, and containerd writes the same.
func Save(ctx context.Context, s *image.Store, names []string, to Output, o SaveOptions) (err error) {
	session, err := s.Begin()
	if err != nil {
		return err
	}
	defer session.End()
	w := &saver{ctx: ctx, s: s, o: o, lists: map[image.Digest][]byte{}, index: image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: []image.Descriptor{}}}
	for _, name := range names {
		if err := w.add(name); errors.Is(err, image.ErrNotHere) {
			return err // it has the name
		} else if err != nil {
			return fmt.Errorf("save %s: %w", name, err)
		}
	}
	w.sort()
	if w.out, err = to.create(); err != nil {
		return err
	}
	if o.Docker {
		err = w.docker()
	} else {
		err = w.layout()
	}
	return errors.Join(err, w.out.finish(err == nil))
}

// saver is one save.
type saver struct {
	ctx   context.Context
	s     *image.Store
	o     SaveOptions
	out   sink
	index image.Index
	// images are what docker's manifest.json lists: every manifest once, with all of its names.
	images []*saved
	blobs  []image.Descriptor // in the order in which they are written
	// lists are blobs that are made for the archive, and are not in the store.
	lists map[image.Digest][]byte
}

// saved is an image for one platform.
type saved struct {
	digest   image.Digest
	manifest *image.Manifest
	tags     []string
}

// add looks up an image and notes what of it is to be written.
func (w *saver) add(word string) error {
	e, err := w.s.Find(word)
	if err != nil {
		return err
	}
	ref, err := e.Ref()
	if err != nil {
		return err
	}
	manifest, err := w.choose(e)
	if err != nil {
		return err
	}
	target, err := w.descriptor(e.Target.Digest)
	if err != nil {
		return err
	}
	only := manifest
	if w.o.Platform == "" {
		only = ""
	}
	blobs := w.present(target, only)
	if !slices.ContainsFunc(blobs, func(d image.Descriptor) bool { return d.Digest == manifest }) {
		return fmt.Errorf("not all of its blobs are here; `brig image pull` brings them: %w", image.ErrNotHere)
	}
	w.need(blobs...)
	if err := w.name(ref, target, manifest); err != nil {
		return err
	}
	manifests := []image.Digest{manifest}
	if target.IsIndex() && only == "" {
		manifests = slices.Collect(maps.Values(e.Platforms))
	}
	return w.attach(target.Digest, manifests)
}

// name notes how an image is called.
func (w *saver) name(ref image.Ref, target image.Descriptor, manifest image.Digest) error {
	m, err := w.s.Manifest(manifest)
	if err != nil {
		return err
	}
	if target.IsManifest() {
		config, err := w.s.ImageConfig(m)
		if err != nil {
			return err
		}
		target.Platform = &config.Platform
	}
	i := slices.IndexFunc(w.images, func(x *saved) bool { return x.digest == manifest })
	if i < 0 {
		i = len(w.images)
		w.images = append(w.images, &saved{digest: manifest, manifest: m, tags: []string{}})
	}
	if ref.Digest() == "" {
		full := fullName(ref)
		target.Annotations = map[string]string{annotationRef: full, annotationName: full}
		if !slices.Contains(w.images[i].tags, full) {
			w.images[i].tags = append(w.images[i].tags, full)
		}
	}
	if !slices.ContainsFunc(w.index.Manifests, func(d image.Descriptor) bool {
		return d.Digest == target.Digest && d.Annotations[annotationName] == target.Annotations[annotationName]
	}) {
		w.index.Manifests = append(w.index.Manifests, target)
	}
	return nil
}

// fullName is a reference as everybody reads it alike.
func fullName(ref image.Ref) string {
	if rest, ok := strings.CutPrefix(ref.Name(), "index.docker.io/"); ok {
		return "docker.io/" + rest
	}
	return ref.Name()
}

// choose gives the manifest for the platform.
func (w *saver) choose(e *image.Entry) (image.Digest, error) {
	want, err := image.ParsePlatform(w.o.Platform)
	if err != nil {
		return "", err
	}
	d, err := e.Manifest(want)
	if errors.Is(err, image.ErrNotHere) && w.o.Platform == "" && len(e.Platforms) == 1 {
		for _, only := range e.Platforms {
			return only, nil
		}
	}
	return d, err
}

// descriptor describes an index or a manifest that is here.
func (w *saver) descriptor(d image.Digest) (image.Descriptor, error) {
	data, err := w.s.Blob(d, image.MaxManifest)
	if err != nil {
		return image.Descriptor{}, err
	}
	kind, err := image.MediaTypeOf(data, "")
	return image.Descriptor{MediaType: kind, Digest: d, Size: int64(len(data))}, err
}

// present gives all that is here of what a descriptor leads to: of an index the manifests that lack no blob, or only one of them.
func (w *saver) present(d image.Descriptor, only image.Digest) []image.Descriptor {
	return w.presentBelow(d, only, map[image.Digest]bool{}, 0)
}

// presentBelow looks at each document once: a thousand indexes that each have the next a thousand times would take years.
func (w *saver) presentBelow(d image.Descriptor, only image.Digest, seen map[image.Digest]bool, depth int) []image.Descriptor {
	if depth > maxNested || seen[d.Digest] || !w.s.HasBlob(d.Digest, d.Size) {
		return nil
	}
	seen[d.Digest] = true
	list := []image.Descriptor{d}
	if d.IsManifest() {
		m, err := w.s.Manifest(d.Digest)
		if err != nil || only != "" && d.Digest != only {
			return nil
		}
		list = append(list, needed(m)...)
		if slices.ContainsFunc(list, func(b image.Descriptor) bool { return !w.s.HasBlob(b.Digest, b.Size) }) {
			return nil
		}
		return list
	}
	x, err := w.s.Index(d.Digest)
	if err != nil {
		return nil
	}
	for _, m := range x.Manifests {
		if m.IsManifest() || m.IsIndex() {
			list = append(list, w.presentBelow(m, only, seen, depth+1)...)
		}
	}
	return list
}

// need notes blobs to be written, each once.
func (w *saver) need(list ...image.Descriptor) {
	for _, d := range list {
		if !slices.ContainsFunc(w.blobs, func(x image.Descriptor) bool { return x.Digest == d.Digest }) {
			w.blobs = append(w.blobs, d)
		}
	}
}

// sort makes the bytes the same whatever the order of the names was.
func (w *saver) sort() {
	slices.SortFunc(w.index.Manifests, func(a, b image.Descriptor) int {
		return strings.Compare(a.Annotations[annotationName]+string(a.Digest), b.Annotations[annotationName]+string(b.Digest))
	})
	for _, i := range w.images {
		slices.Sort(i.tags)
	}
	slices.SortFunc(w.images, func(a, b *saved) int { return strings.Compare(string(a.digest), string(b.digest)) })
	slices.SortFunc(w.blobs, func(a, b image.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
}

// layout writes an OCI image layout (image-spec, image-layout.md). What tells what there is comes first.
func (w *saver) layout() error {
	for _, d := range w.blobs {
		w.progress(d.Size, 0)
	}
	if err := w.document("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}); err != nil {
		return err
	}
	if err := w.document("index.json", w.index); err != nil {
		return err
	}
	list := []dockerImage{}
	for _, i := range w.images {
		d := dockerImage{Config: blobName(i.manifest.Config.Digest), RepoTags: i.tags, Layers: []string{}}
		for _, l := range i.manifest.Layers {
			d.Layers = append(d.Layers, blobName(l.Digest))
		}
		list = append(list, d)
	}
	if err := w.document("manifest.json", list); err != nil {
		return err
	}
	for _, d := range w.blobs {
		if err := w.blob(d); err != nil {
			return err
		}
	}
	return nil
}

// blob writes one, verified while it is read.
func (w *saver) blob(d image.Descriptor) error {
	if data := w.lists[d.Digest]; data != nil {
		return w.out.put(blobName(d.Digest), d.Size, bytes.NewReader(data))
	}
	r, err := w.s.VerifiedReader(d.Digest)
	if err != nil {
		return err
	}
	err = w.out.put(blobName(d.Digest), d.Size, &meter{reader{w.ctx, r}, w.progress})
	return errors.Join(err, r.Close())
}

func (w *saver) document(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.out.put(name, int64(len(data)), bytes.NewReader(data))
}

func (w *saver) progress(want, done int64) {
	if w.o.Progress != nil {
		w.o.Progress(want, done)
	}
}

// docker writes docker's archive as docker before version 25 does: configurations by their digests, layers by their diffIDs and not
// compressed.
func (w *saver) docker() error {
	list := []dockerImage{}
	written := map[image.Digest]bool{}
	for _, i := range w.images {
		data, err := w.s.Blob(i.manifest.Config.Digest, image.MaxConfig)
		if err != nil {
			return err
		}
		config, err := image.ParseConfig(data)
		if err != nil {
			return err
		}
		if len(config.DiffIDs) != len(i.manifest.Layers) {
			return fmt.Errorf("image %s has %d layers, and its configuration %d", i.digest, len(i.manifest.Layers), len(config.DiffIDs))
		}
		d := dockerImage{Config: i.manifest.Config.Digest.Hex() + ".json", RepoTags: i.tags, Layers: []string{}}
		if !written[i.manifest.Config.Digest] {
			if err := w.out.put(d.Config, int64(len(data)), bytes.NewReader(data)); err != nil {
				return err
			}
			written[i.manifest.Config.Digest] = true
		}
		for n, l := range i.manifest.Layers {
			id := config.DiffIDs[n]
			d.Layers = append(d.Layers, id.Hex()+".tar")
			if written[id] {
				continue
			}
			written[id] = true
			if err := w.uncompressed(l, id); err != nil {
				return fmt.Errorf("layer %s: %w", l.Digest, err)
			}
		}
		list = append(list, d)
	}
	return w.document("manifest.json", list)
}

// uncompressed writes a layer's archive. A tar wants its size before its bytes, so it is decompressed twice: that takes no room.
func (w *saver) uncompressed(l image.Descriptor, id image.Digest) error {
	w.progress(2*l.Size, 0)
	size := int64(0)
	err := w.decompress(l, func(r io.Reader) (err error) {
		size, err = io.Copy(io.Discard, r)
		return err
	})
	if err != nil {
		return err
	}
	return w.decompress(l, func(r io.Reader) error {
		sum := sha256.New()
		if err := w.out.put(id.Hex()+".tar", size, io.TeeReader(r, sum)); err != nil {
			return err
		}
		if got := image.DigestOfHash(sum); got != id {
			return fmt.Errorf("it unpacks to %s, and the image's configuration has %s for it", got, id)
		}
		return nil
	})
}

func (w *saver) decompress(l image.Descriptor, use func(io.Reader) error) error {
	blob, err := w.s.VerifiedReader(l.Digest)
	if err != nil {
		return err
	}
	defer blob.Close() //nolint:errcheck // read only
	counted := &meter{reader{w.ctx, blob}, w.progress}
	r, _, err := layers.Decompress(counted, w.o.Limits)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // read only
	if err := use(r); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, counted) // to the end, where the digest is looked at
	return err
}
