package archive

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brig/internal/image"
)

// artifact adds one to a layout: its manifest, which refers to a subject if there is one, and its blob.
func (p *packer) artifact(subject *image.Descriptor, text string) image.Descriptor {
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, ArtifactType: "application/vnd.test", Config: p.blob("application/vnd.oci.empty.v1+json", []byte("{}")),
		Layers: []image.Descriptor{p.blob("application/vnd.test", []byte(text))}, Subject: subject}
	return p.blob(image.MediaManifest, asJSON(p.t, m))
}

// attachedTo are the blobs of what is attached to an image in a store.
func attachedTo(t *testing.T, s *image.Store, subject image.Digest) []string {
	t.Helper()
	list, err := s.Attached(subject)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, d := range list {
		m, err := s.Manifest(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		data, err := s.Blob(m.Layers[0].Digest, 100)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(data))
	}
	slices.Sort(texts)
	return texts
}

// TestAttachedTravel: what is attached to an image, and the index that it was chosen from, are saved with it and loaded with it, and the
// archive of what was loaded is the same.
func TestAttachedTravel(t *testing.T) {
	t.Parallel()
	p := newPacker(t)
	d := p.manifest(arch(), layer(t, "a", "1"))
	absent := image.Descriptor{MediaType: image.MediaManifest, Digest: image.DigestOf([]byte("not here")), Size: 8, Platform: &image.Platform{OS: "linux", Architecture: other()}}
	inner := p.blob(image.MediaIndex, asJSON(t, image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: []image.Descriptor{d, absent}}))
	inner.Platform = d.Platform
	outer := p.blob(image.MediaIndex, asJSON(t, image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: []image.Descriptor{inner}}))
	one, two := p.artifact(&outer, "of the index"), p.artifact(&d, "of the manifest")
	one.ArtifactType = "application/vnd.test"
	p.index(called(outer, "example.test/a:1"), one, two, p.artifact(nil, "of nothing"))
	s := newStore(t)
	var saved [][]byte
	data := p.bytes()
	for range 2 {
		list, err := load(t, s, data, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != 1 || list[0].Target.Digest != outer.Digest || list[0].Manifest != d.Digest {
			t.Fatalf("loaded are %+v", list)
		}
		for subject, want := range map[image.Digest]string{outer.Digest: "of the index", d.Digest: "of the manifest"} {
			if got := attachedTo(t, s, subject); !slices.Equal(got, []string{want}) {
				t.Errorf("attached to %s are %q, want %q", subject, got, want)
			}
		}
		clean(t, s)
		file := filepath.Join(t.TempDir(), "saved")
		if err := save(s, file, SaveOptions{}, "example.test/a:1"); err != nil {
			t.Fatal(err)
		}
		if data, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		saved = append(saved, data)
		s = newStore(t)
	}
	if !bytes.Equal(saved[0], saved[1]) {
		t.Error("what was loaded from an archive is saved as another")
	}
}

// TestAttachedByCosign: signatures that `cosign save` puts beside an image are no images, and belong to that.
func TestAttachedByCosign(t *testing.T) {
	t.Parallel()
	p := newPacker(t)
	d := p.manifest(arch(), layer(t, "a", "1"))
	sig := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Config: p.blob(image.MediaConfig, []byte("{}")), Layers: []image.Descriptor{p.blob("application/vnd.test", []byte("signature"))}}
	sigs := p.blob(image.MediaManifest, asJSON(t, sig))
	sigs.Annotations = map[string]string{"kind": "dev.cosignproject.cosign/sigs"}
	d.Annotations = map[string]string{"kind": "dev.cosignproject.cosign/image"}
	d.ArtifactType, sigs.ArtifactType, d.Platform = image.MediaConfig, image.MediaConfig, nil
	p.index(d, sigs)
	s := newStore(t)
	if _, err := load(t, s, p.bytes(), Options{Name: "a:1"}); err != nil {
		t.Fatal(err)
	}
	if got := attachedTo(t, s, d.Digest); !slices.Equal(got, []string{"signature"}) {
		t.Errorf("attached are %q", got)
	}
}

// TestAttachedHostile: annotations of an archive are no more to be believed than the rest of it.
func TestAttachedHostile(t *testing.T) {
	t.Parallel()
	l := layer(t, "a", "1")
	for name, c := range map[string]struct {
		note  func(p *packer, d image.Descriptor) map[string]string
		words string
	}{
		"a list that is not there": {func(*packer, image.Descriptor) map[string]string {
			return map[string]string{annotationAttached: string(image.DigestOf(nil))}
		}, "not exist"},
		"a list without a subject": {func(p *packer, _ image.Descriptor) map[string]string {
			x := p.blob(image.MediaIndex, asJSON(t, image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: []image.Descriptor{}}))
			return map[string]string{annotationAttached: string(x.Digest)}
		}, "no subject"},
		"a list under another digest": {func(p *packer, _ image.Descriptor) map[string]string {
			d := image.DigestOf([]byte("another"))
			p.text(blobName(d), "{}")
			return map[string]string{annotationAttached: string(d)}
		}, "it is not used"},
		"too many lists": {func(*packer, image.Descriptor) map[string]string {
			return map[string]string{annotationAttached: strings.Repeat(string(image.DigestOf(nil))+",", maxLists) + "x"}
		}, "more than 64"},
		"an artifact that is not there": {func(p *packer, d image.Descriptor) map[string]string {
			x := p.blob(image.MediaIndex, asJSON(t, image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Subject: &d,
				Manifests: []image.Descriptor{{MediaType: image.MediaManifest, Digest: image.DigestOf(nil), Size: 2}}}))
			return map[string]string{annotationAttached: string(x.Digest)}
		}, "lacks the manifest"},
		"a huge blob": {func(p *packer, d image.Descriptor) map[string]string {
			m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Config: p.blob("", []byte("{}")), Layers: []image.Descriptor{{Digest: image.DigestOf(nil), Size: maxArtifactBlob + 1}}}
			x := p.blob(image.MediaIndex, asJSON(t, image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Subject: &d, Manifests: []image.Descriptor{p.blob(image.MediaManifest, asJSON(t, m))}}))
			return map[string]string{annotationAttached: string(x.Digest)}
		}, "more than 16777216 are refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, s := newPacker(t), newStore(t)
			d := p.manifest(arch(), l)
			d.Annotations = c.note(p, d)
			p.index(d)
			if list, err := load(t, s, p.bytes(), Options{Name: "a:1"}); err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%+v, %v, want … %s", list, err, c.words)
			}
			if got := names(t, s); got != "" {
				t.Errorf("there is %s", got)
			}
		})
	}
}

// TestAttachedByTag: a signature that was copied out of a registry has the tag that cosign gave it there, and the configuration of an image.
func TestAttachedByTag(t *testing.T) {
	t.Parallel()
	p := newPacker(t)
	d := p.manifest(arch(), layer(t, "a", "1"))
	sig := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Config: p.blob(image.MediaConfig, []byte("{}")), Layers: []image.Descriptor{p.blob("application/vnd.test", []byte("signature"))}}
	sigs := p.blob(image.MediaManifest, asJSON(t, sig))
	p.index(called(sigs, "example.test/a:sha256-"+d.Digest.Hex()+".sig"), called(d, "example.test/a:1"))
	s := newStore(t)
	if _, err := load(t, s, p.bytes(), Options{}); err != nil {
		t.Fatal(err)
	}
	if got := attachedTo(t, s, d.Digest); !slices.Equal(got, []string{"signature"}) || names(t, s) != "example.test/a:1" {
		t.Errorf("attached are %q; the names are %q", got, names(t, s))
	}
}
