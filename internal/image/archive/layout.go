package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"brig/internal/image"
)

// Annotations of a layout's index that name images. OCI's own may be a tag or a whole reference (image-spec, annotations.md); the
// other is containerd's and docker's, and is a whole one.
const (
	annotationRef  = "org.opencontainers.image.ref.name"
	annotationName = "io.containerd.image.name"
)

// maxNested is how deep indexes may lie in one another. The store follows no deeper.
const maxNested = 4

// findLayout reads the index of an OCI image layout (image-spec, image-layout.md).
func (l *loader) findLayout() error {
	data, err := read(l.src, "oci-layout", image.MaxManifest)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var version struct {
		ImageLayoutVersion string `json:"imageLayoutVersion"`
	}
	if err == nil {
		if err := json.Unmarshal(data, &version); err != nil {
			return fmt.Errorf("the archive's oci-layout is not valid JSON: %w", err)
		}
	}
	if !strings.HasPrefix(version.ImageLayoutVersion, "1.") {
		return fmt.Errorf("the archive has the layout version %s in oci-layout; only 1.0.0 is known", quote(version.ImageLayoutVersion))
	}
	if data, err = read(l.src, "index.json", image.MaxManifest); err != nil {
		return err
	}
	index, err := image.ParseIndex(data)
	if err != nil {
		return fmt.Errorf("the archive's index.json: %w", err)
	}
	for _, d := range index.Manifests {
		if err := l.foundIn(d); err != nil {
			return err
		}
	}
	return l.choose()
}

// foundIn adds what a descriptor of index.json points to, if it is an image. What is attached to one comes with that.
func (l *loader) foundIn(d image.Descriptor) error {
	switch kind := d.Annotations[annotationKind]; {
	case !d.IsIndex() && !d.IsManifest():
		return nil
	case d.IsManifest() && (kind == kindSignatures || kind == kindAttested):
		l.loose = append(l.loose, d)
		return nil
	case d.ArtifactType != "" && d.ArtifactType != image.MediaConfig && d.ArtifactType != image.MediaDockerConfig:
		return l.note(d) // what has the type of a configuration is an image (image-spec, descriptor.md)
	}
	f := &found{loader: l, target: d, where: string(d.Digest)}
	for _, text := range []string{d.Annotations[annotationName], d.Annotations[annotationRef]} {
		// A bare word is a tag of a repository that nobody names: a name it is not.
		if !strings.ContainsAny(text, ":/@") {
			continue
		}
		if ref, ok := l.reference(text); ok {
			f.names = append(f.names, ref)
			break
		}
	}
	if d.IsManifest() {
		image, err := l.isImage(d)
		if err == nil && !image {
			err = l.note(d)
		}
		if err != nil || !image {
			return err
		}
	}
	l.found = append(l.found, f)
	return nil
}

// isImage tells an image from an artifact: a signature, say.
func (l *loader) isImage(d image.Descriptor) (bool, error) {
	data, err := l.document(d)
	if err != nil {
		return false, err
	}
	m, err := image.ParseManifest(data)
	if err != nil {
		return false, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	return runs(m), nil
}

// runs tells whether a manifest is of an image that can run: by its configuration and its layers, since cosign's signatures have the
// configuration of an image.
func runs(m *image.Manifest) bool {
	return m.ArtifactType == "" && m.Subject == nil && (m.Config.MediaType == image.MediaConfig || m.Config.MediaType == image.MediaDockerConfig) &&
		!slices.ContainsFunc(m.Layers, func(l image.Descriptor) bool { return !strings.Contains(l.MediaType, "tar") })
}

// choose makes one of several images with the same name: the one for the platform.
func (l *loader) choose() error {
	want, _, err := l.platform()
	if err != nil {
		return err
	}
	var list []*found
	for _, f := range l.found {
		i := slices.IndexFunc(list, func(x *found) bool { return len(f.names) > 0 && slices.Contains(x.names, f.names[0]) })
		if i < 0 {
			list = append(list, f)
			continue
		}
		if list[i].target.Digest == f.target.Digest {
			continue
		}
		best, err := (&image.Index{Manifests: []image.Descriptor{list[i].target, f.target}}).Choose(want)
		if err != nil {
			return fmt.Errorf("the archive has more than one image of the name %s: %w", f.title(), err)
		}
		list[i].target = best
	}
	list = together(list)
	if l.found = list; len(list) == 0 {
		return errors.New("the archive has no image")
	}
	return nil
}

// together makes one of an image that has several names.
func together(list []*found) (one []*found) {
	for _, f := range list {
		i := slices.IndexFunc(one, func(x *found) bool { return x.target.Digest == f.target.Digest })
		if i < 0 {
			one = append(one, f)
			continue
		}
		one[i].names = append(one[i].names, f.names...)
	}
	return one
}

func blobName(d image.Digest) string { return "blobs/sha256/" + d.Hex() }

// document reads an index or a manifest, checked against its descriptor.
func (l *loader) document(d image.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > image.MaxManifest {
		return nil, fmt.Errorf("manifest %s is announced with %d bytes; %d are the most", d.Digest, d.Size, image.MaxManifest)
	}
	data, err := read(l.src, blobName(d.Digest), image.MaxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the archive lacks the manifest %s: %w", d.Digest, err)
	}
	if err != nil {
		return nil, err
	}
	if got := image.DigestOf(data); got != d.Digest || int64(len(data)) != d.Size {
		return nil, &image.DigestError{Want: d.Digest, Got: got, Size: int64(len(data)), WantSize: d.Size}
	}
	if _, err := image.MediaTypeOf(data, d.MediaType); err != nil {
		return nil, err
	}
	return data, nil
}

// bringTarget brings in what index.json points to.
func (f *found) bringTarget() ([]Loaded, error) {
	want, asked, err := f.platform()
	if err != nil {
		return nil, err
	}
	if f.target.IsManifest() {
		m, err := f.bringManifest(f.target)
		if err != nil {
			return nil, err
		}
		if asked {
			c, err := f.s.ImageConfig(m)
			if err != nil {
				return nil, err
			}
			only := image.Index{Manifests: []image.Descriptor{{MediaType: image.MediaManifest, Digest: f.target.Digest, Platform: &c.Platform}}}
			if _, err := only.Choose(want); err != nil {
				return nil, err
			}
		}
		return f.finish(f.target, f.target.Digest)
	}
	if f.o.AllPlatforms {
		return f.bringAll()
	}
	d, err := f.descend(f.target, want)
	if err != nil {
		return nil, err
	}
	return f.finish(f.target, d.Digest)
}

// descend brings in an index, and of what it leads to the manifest for a platform.
func (f *found) descend(d image.Descriptor, want image.Platform) (image.Descriptor, error) {
	for range maxNested {
		x, err := f.bringIndex(d)
		if err != nil {
			return d, err
		}
		if d, err = x.Choose(want); err != nil {
			return d, err
		}
		if d.IsManifest() {
			_, err := f.bringManifest(d)
			return d, err
		}
	}
	return d, errNested
}

var errNested = fmt.Errorf("its indexes lie in one another more than %d deep", maxNested)

// bringIndex brings in an index alone.
func (f *found) bringIndex(d image.Descriptor) (*image.Index, error) {
	data, err := f.document(d)
	if err != nil {
		return nil, err
	}
	x, err := image.ParseIndex(data)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", d.Digest, err)
	}
	_, err = f.s.Put(data)
	return x, err
}

// bringManifest brings in a manifest and all that it needs.
func (f *found) bringManifest(d image.Descriptor) (*image.Manifest, error) {
	data, err := f.document(d)
	if err != nil {
		return nil, err
	}
	m, err := image.ParseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if err := m.CheckLayers(); err != nil {
		return nil, err
	}
	if m.Config.Size > image.MaxConfig {
		return nil, fmt.Errorf("the image's configuration is announced with %d bytes; %d are the most", m.Config.Size, image.MaxConfig)
	}
	for _, b := range needed(m) {
		if err := f.ingest(blobName(b.Digest), b.Digest, b.Size); err != nil {
			return nil, err
		}
	}
	_, err = f.s.Put(data)
	return m, err
}

// bringAll brings in every image of an index that the archive has, with whatever else the index holds (attestations, say).
func (f *found) bringAll() ([]Loaded, error) {
	seen := map[image.Digest]bool{}
	var list []Loaded
	var bring func(d image.Descriptor, depth int) error
	bring = func(d image.Descriptor, depth int) error {
		if seen[d.Digest] || !has(f.src, blobName(d.Digest)) {
			return nil
		}
		seen[d.Digest] = true
		if depth > maxNested {
			return errNested
		}
		if d.IsIndex() {
			x, err := f.bringIndex(d)
			if err != nil {
				return err
			}
			for _, m := range x.Manifests {
				if err := bring(m, depth+1); err != nil {
					return err
				}
			}
			return nil
		}
		if !d.IsManifest() {
			return nil
		}
		m, err := f.bringManifest(d)
		if err != nil || !runs(m) || d.Platform != nil && d.Platform.OS == "unknown" {
			return err
		}
		loaded, err := f.finish(f.target, d.Digest)
		list = append(list, loaded...)
		return err
	}
	if err := bring(f.target, 0); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("the archive has none of the index's images")
	}
	return list, nil
}
