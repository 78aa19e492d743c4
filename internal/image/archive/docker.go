package archive

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"brig/internal/image"
	"brig/internal/layers"
)

// dockerImage is an entry of manifest.json, which docker's archives have since version 1.10: names of files in the archive.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
	// LayerSources is written by newer ones, and tells of layers that are elsewhere.
	LayerSources map[image.Digest]image.Descriptor `json:",omitempty"`
}

// maxImages is how many images an archive may have, and maxLayers how many layers one of them.
const (
	maxImages = 1000
	maxLayers = 1000
)

// findDocker reads manifest.json.
func (l *loader) findDocker() error {
	data, err := read(l.src, "manifest.json", image.MaxManifest)
	if err != nil {
		return err
	}
	var list []*dockerImage
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("the archive's manifest.json is not valid: %w", err)
	}
	if len(list) == 0 || len(list) > maxImages {
		return fmt.Errorf("the archive's manifest.json has %d images; there must be one, and %d are the most", len(list), maxImages)
	}
	for i, d := range list {
		if d == nil || d.Config == "" {
			return fmt.Errorf("image %d of the archive's manifest.json has no configuration", i)
		}
		f := &found{loader: l, docker: d, where: quote(d.Config)}
		for _, text := range d.RepoTags {
			if ref, ok := l.reference(text); ok {
				f.names = append(f.names, ref)
			}
		}
		l.found = append(l.found, f)
	}
	return nil
}

// bringDocker brings in an image of docker's archive. Such an archive has no manifest, so one is made: the same image has the same
// one each time.
func (f *found) bringDocker() ([]Loaded, error) {
	data, config, err := f.dockerConfig()
	if err != nil {
		return nil, err
	}
	d := f.docker
	if len(d.Layers) != len(config.DiffIDs) {
		return nil, fmt.Errorf("the archive has %d layers of the image, and its configuration %d", len(d.Layers), len(config.DiffIDs))
	}
	if len(d.Layers) > maxLayers {
		return nil, fmt.Errorf("the image has %d layers; more than %d are refused", len(d.Layers), maxLayers)
	}
	for _, source := range d.LayerSources {
		if len(source.URLs) > 0 {
			return nil, fmt.Errorf("layer %s is to be fetched from elsewhere (%q): foreign layers are refused", source.Digest, source.URLs)
		}
	}
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Layers: []image.Descriptor{}}
	for i, name := range d.Layers {
		layer, err := f.dockerLayer(name, config.DiffIDs[i])
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, layer)
	}
	m.Config, err = put(f.s, image.MediaConfig, data)
	if err != nil {
		return nil, err
	}
	target, err := putJSON(f.s, image.MediaManifest, m)
	if err != nil {
		return nil, err
	}
	return f.finish(target, target.Digest)
}

// dockerConfig reads the image's configuration. Where its file has a digest for a name, as docker gives it, that must be right.
func (f *found) dockerConfig() ([]byte, *image.Config, error) {
	data, err := read(f.src, f.docker.Config, image.MaxConfig)
	if err != nil {
		return nil, nil, err
	}
	base := strings.TrimSuffix(path.Base(f.docker.Config), ".json")
	if want, err := image.ParseDigest("sha256:" + strings.TrimPrefix(base, "sha256:")); err == nil && want != image.DigestOf(data) {
		return nil, nil, &image.DigestError{Want: want, Got: image.DigestOf(data), Size: int64(len(data)), WantSize: -1}
	}
	config, err := image.ParseConfig(data)
	if err != nil {
		return nil, nil, err
	}
	if want, asked, err := f.platform(); err != nil {
		return nil, nil, err
	} else if asked {
		if _, err := (&image.Index{Manifests: []image.Descriptor{{MediaType: image.MediaManifest, Digest: image.DigestOf(data), Platform: &config.Platform}}}).Choose(want); err != nil {
			return nil, nil, err
		}
	}
	return data, config, nil
}

// dockerLayer brings in a layer as it is in the archive. One that is not compressed, as docker itself writes them, has its diffID
// for a digest.
func (f *found) dockerLayer(name string, diffID image.Digest) (image.Descriptor, error) {
	if d, ok := f.packed[name]; ok {
		return d, nil // however often it is named, it is read once
	}
	file, err := f.src.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return image.Descriptor{}, fmt.Errorf("the archive lacks the layer %s", quote(name))
	}
	if err != nil {
		return image.Descriptor{}, err
	}
	defer file.close() //nolint:errcheck // read only
	if file.size > f.o.Build.Limits.Size {
		return image.Descriptor{}, &layers.LimitError{Limit: "Size", Max: f.o.Build.Limits.Size, What: "layer " + quote(name) + " has more bytes than it may"}
	}
	packing, err := packingOf(file, f.o.Build.Limits)
	if err != nil {
		return image.Descriptor{}, fmt.Errorf("layer %s: %w", quote(name), err)
	}
	d := image.Descriptor{MediaType: mediaType(packing), Digest: diffID, Size: file.size}
	if packing != layers.None {
		sum := sha256.New()
		if _, err := io.Copy(sum, &reader{f.ctx, file}); err != nil {
			return d, err
		}
		d.Digest = image.DigestOfHash(sum)
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return d, err
		}
	}
	if !f.s.HasBlob(d.Digest, d.Size) {
		err = f.copy(file, "layer "+name, d.Digest, d.Size)
	}
	if err == nil && packing != layers.None {
		if f.packed == nil {
			f.loader.packed = map[string]image.Descriptor{}
		}
		f.packed[name] = d
	}
	return d, err
}

// packingOf tells how a layer is compressed.
func packingOf(f io.ReadSeeker, l layers.Limits) (layers.Compression, error) {
	r, packing, err := layers.Decompress(f, l)
	if err != nil {
		return packing, err
	}
	if err := r.Close(); err != nil {
		return "", err
	}
	_, err = f.Seek(0, io.SeekStart)
	return packing, err
}

// mediaType is that of a layer (image-spec, layer.md).
func mediaType(c layers.Compression) string {
	if c == layers.None {
		return image.MediaLayer
	}
	return image.MediaLayer + "+" + string(c)
}

// put brings in a document that is in memory.
func put(s *image.Store, kind string, data []byte) (image.Descriptor, error) {
	d, err := s.Put(data)
	return image.Descriptor{MediaType: kind, Digest: d, Size: int64(len(data))}, err
}

func putJSON(s *image.Store, kind string, v any) (image.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return image.Descriptor{}, err
	}
	return put(s, kind, data)
}
