package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/image"
	"brig/internal/image/build"
	"brig/internal/layers"
)

// newStore is an empty store that goes away with the test.
func newStore(t testing.TB) *image.Store {
	t.Helper()
	s, err := image.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// limits are small enough for a test to go beyond them.
func limits() build.Options {
	l := layers.DefaultLimits()
	l.Size = 1 << 30
	return build.Options{Limits: l}
}

// packer makes an archive by hand, whether anybody should or not.
type packer struct {
	t   testing.TB
	buf bytes.Buffer
	w   *tar.Writer
}

func newPacker(t testing.TB) *packer {
	p := &packer{t: t}
	p.w = tar.NewWriter(&p.buf)
	return p
}

func (p *packer) entry(h tar.Header, data []byte) {
	p.t.Helper()
	if h.Mode == 0 {
		h.Mode = 0o644
	}
	if h.Typeflag == tar.TypeReg {
		h.Size = int64(len(data))
	}
	if err := p.w.WriteHeader(&h); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.w.Write(data); err != nil {
		p.t.Fatal(err)
	}
}

func (p *packer) file(name string, data []byte) {
	p.entry(tar.Header{Typeflag: tar.TypeReg, Name: name}, data)
}
func (p *packer) text(name, text string) { p.file(name, []byte(text)) }
func (p *packer) link(kind byte, name, to string) {
	p.entry(tar.Header{Typeflag: kind, Name: name, Linkname: to}, nil)
}

// json adds a document.
func (p *packer) json(name string, v any) {
	p.t.Helper()
	p.file(name, asJSON(p.t, v))
}

// blob adds a blob of a layout.
func (p *packer) blob(kind string, data []byte) image.Descriptor {
	d := describe(kind, data)
	p.file(blobName(d.Digest), data)
	return d
}

func describe(kind string, data []byte) image.Descriptor {
	return image.Descriptor{MediaType: kind, Digest: image.DigestOf(data), Size: int64(len(data))}
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (p *packer) bytes() []byte {
	if err := p.w.Close(); err != nil {
		p.t.Fatal(err)
	}
	return p.buf.Bytes()
}

// layer is one with a single file.
func layer(t testing.TB, name, data string) []byte {
	p := newPacker(t)
	p.text(name, data)
	return p.bytes()
}

// configOf is a configuration of layers that are not compressed.
func configOf(t testing.TB, arch string, layers ...[]byte) []byte {
	ids := []image.Digest{}
	for _, l := range layers {
		ids = append(ids, image.DigestOf(l))
	}
	return asJSON(t, map[string]any{"os": "linux", "architecture": arch, "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
}

// manifest adds an image of one layer to a layout.
func (p *packer) manifest(arch string, layer []byte) image.Descriptor {
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Config: p.blob(image.MediaConfig, configOf(p.t, arch, layer)),
		Layers: []image.Descriptor{p.blob(image.MediaLayer, layer)}}
	d := p.blob(image.MediaManifest, asJSON(p.t, m))
	d.Platform = &image.Platform{OS: "linux", Architecture: arch}
	return d
}

// index ends a layout.
func (p *packer) index(list ...image.Descriptor) {
	p.text("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	p.json("index.json", image.Index{SchemaVersion: 2, Manifests: list})
}

// called gives a descriptor a name.
func called(d image.Descriptor, name string) image.Descriptor {
	d.Annotations = map[string]string{annotationRef: name}
	return d
}

// arch is this machine's.
func arch() string { return image.ThisPlatform().Architecture }

// other is an architecture that this machine's is not.
func other() string {
	if arch() == "s390x" {
		return "ppc64le"
	}
	return "s390x"
}

// written is a file with data.
func written(t testing.TB, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func load(t testing.TB, s *image.Store, data []byte, o Options) ([]Loaded, error) {
	t.Helper()
	if o.Build.Limits.Size == 0 {
		o.Build = limits()
	}
	return Load(context.Background(), s, Input{Path: written(t, data)}, o)
}

// names are those in the store.
func names(t testing.TB, s *image.Store) string {
	t.Helper()
	list, err := s.Entries()
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, e := range list {
		ref, err := e.Ref()
		if err != nil {
			t.Fatal(err)
		}
		words = append(words, ref.String())
	}
	return strings.Join(words, " ")
}

// clean demands that nothing half-made lies about.
func clean(t testing.TB, s *image.Store) {
	t.Helper()
	left, err := os.ReadDir(s.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if !strings.HasPrefix(f.Name(), "blob-") { // a partial blob, for the next attempt
			t.Errorf("%s is left", f.Name())
		}
	}
}
