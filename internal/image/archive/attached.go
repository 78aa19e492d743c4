package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"brig/internal/image"
	"brig/internal/image/trust"
)

// An image takes its signatures and attestations along, so that they can be demanded where there is no network. The layout has no place
// for them that other tools pass over: docker takes everything in index.json for images. So they are blobs like any other, and
// an annotation of the image says which: one index a subject, as a registry lists referrers (distribution-spec, "Listing
// Referrers").
const (
	annotationAttached = "run.brig.attached" // digests of such indexes, between commas
	// What `cosign save` writes beside an image (cosign, pkg/oci/layout).
	annotationKind = "kind"
	kindSignatures = "dev.cosignproject.cosign/sigs"
	kindAttested   = "dev.cosignproject.cosign/atts"
)

// Limits on what an archive can bring along.
const (
	maxLists        = 64
	maxArtifacts    = 100
	maxArtifactBlob = 16 << 20
)

// attach notes what is attached to an image that is saved: to what its name points to, and to the manifests of it.
func (w *saver) attach(target image.Digest, manifests []image.Digest) error {
	if w.o.Docker {
		return nil // docker's own archives have no place for it
	}
	if err := w.embedded(target, manifests); err != nil {
		return err
	}
	slices.Sort(manifests)
	var lists []string
	for _, subject := range slices.Compact(append(manifests, target)) {
		list, err := w.attached(subject)
		if err != nil {
			return err
		}
		if list != "" {
			lists = append(lists, string(list))
		}
	}
	if len(lists) == 0 {
		return nil
	}
	for i, d := range w.index.Manifests {
		if d.Digest == target {
			notes := maps.Clone(d.Annotations)
			if notes == nil {
				notes = map[string]string{}
			}
			notes[annotationAttached] = strings.Join(lists, ",")
			w.index.Manifests[i].Annotations = notes
		}
	}
	return nil
}

// embedded has the attestations written that an index itself has of the manifests.
func (w *saver) embedded(target image.Digest, manifests []image.Digest) error {
	about, err := w.descriptor(target)
	if err != nil || !about.IsIndex() {
		return err
	}
	x, err := w.s.Index(target)
	if err != nil {
		return err
	}
	for _, m := range manifests {
		for _, d := range trust.Embedded(x, m) {
			w.need(w.present(d, "")...)
		}
	}
	return nil
}

// attached has the artifacts of a subject written, and gives the digest of their list; "" for none.
func (w *saver) attached(subject image.Digest) (image.Digest, error) {
	list, err := w.s.Attached(subject)
	if err != nil || len(list) == 0 {
		return "", err
	}
	about, err := w.descriptor(subject)
	if err != nil {
		return "", err
	}
	x := image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Subject: &about, Manifests: []image.Descriptor{}}
	for _, a := range list {
		d, err := w.descriptor(a.Digest)
		if err != nil {
			return "", err
		}
		blobs := w.present(d, "")
		if blobs == nil {
			continue // it was too large to be fetched
		}
		w.need(blobs...)
		x.Manifests = append(x.Manifests, d)
	}
	slices.SortFunc(x.Manifests, func(a, b image.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	if len(x.Manifests) == 0 {
		return "", nil
	}
	data, err := json.Marshal(x)
	if err != nil {
		return "", err
	}
	d := image.Descriptor{MediaType: image.MediaIndex, Digest: image.DigestOf(data), Size: int64(len(data))}
	w.lists[d.Digest] = data
	w.need(d)
	return d.Digest, nil
}

// note keeps what a layout has that is no image, for the image that it refers to.
func (l *loader) note(d image.Descriptor) error {
	if !d.IsManifest() {
		return nil
	}
	data, err := l.document(d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	m, err := image.ParseManifest(data)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if subject := subjectOf(d, m); subject != "" {
		if l.referrers == nil {
			l.referrers = map[image.Digest][]image.Descriptor{}
		}
		l.referrers[subject] = append(l.referrers[subject], d)
	}
	return nil
}

// subjectOf gives what an artifact belongs to: what it says itself, or, of one that was copied from under cosign's tag in a registry, what
// that says (sha256-HEX.sig); "" when nobody says.
func subjectOf(d image.Descriptor, m *image.Manifest) image.Digest {
	if m.Subject != nil {
		return m.Subject.Digest
	}
	name := d.Annotations[annotationRef]
	hex, _, ok := strings.Cut(strings.TrimPrefix(name[strings.LastIndexByte(name, ':')+1:], "sha256-"), ".")
	if subject, err := image.ParseDigest("sha256:" + hex); ok && err == nil {
		return subject
	}
	return ""
}

// bringAttached brings in what is attached to an image: to what its name points to, and to the manifest.
func (f *found) bringAttached(target, manifest image.Digest) error {
	lists, err := f.attachedLists()
	if err != nil {
		return err
	}
	for _, subject := range []image.Digest{target, manifest} {
		artifacts := slices.Concat(lists[subject], f.referrers[subject], f.loose)
		if len(artifacts) > maxArtifacts {
			return fmt.Errorf("%d artifacts are attached to it; more than %d are refused", len(artifacts), maxArtifacts)
		}
		for _, a := range artifacts {
			if err := f.bringArtifact(a); err != nil {
				return fmt.Errorf("what is attached to %s: %w", subject, err)
			}
		}
		if err := f.s.Attach(subject, artifacts); err != nil {
			return err
		}
		if target == manifest {
			return nil
		}
	}
	x, err := f.s.Index(target)
	if err != nil {
		return err
	}
	for _, d := range trust.Embedded(x, manifest) {
		if !has(f.src, blobName(d.Digest)) {
			continue // most archives have the images of an index alone
		}
		if err := f.bringArtifact(d); err != nil {
			return fmt.Errorf("what its index attests of %s: %w", manifest, err)
		}
	}
	return nil
}

// list reads an index of the archive by its digest alone.
func (f *found) list(d image.Digest) (*image.Index, []byte, error) {
	data, err := read(f.src, blobName(d), image.MaxManifest)
	if err != nil {
		return nil, nil, err
	}
	if got := image.DigestOf(data); got != d {
		return nil, nil, &image.DigestError{Want: d, Got: got, Size: int64(len(data)), WantSize: -1}
	}
	x, err := image.ParseIndex(data)
	return x, data, err
}

// attachedLists reads the lists that the image's annotation names.
func (f *found) attachedLists() (map[image.Digest][]image.Descriptor, error) {
	text := f.target.Annotations[annotationAttached]
	if text == "" {
		return nil, nil
	}
	words := strings.Split(text, ",")
	if len(words) > maxLists {
		return nil, fmt.Errorf("it has %d lists of what is attached; more than %d are refused", len(words), maxLists)
	}
	lists := map[image.Digest][]image.Descriptor{}
	for _, w := range words {
		d, err := image.ParseDigest(w)
		if err != nil {
			return nil, err
		}
		x, _, err := f.list(d)
		if err != nil {
			return nil, err
		}
		if x.Subject == nil {
			return nil, fmt.Errorf("the list %s of what is attached has no subject", d)
		}
		lists[x.Subject.Digest] = append(lists[x.Subject.Digest], x.Manifests...)
	}
	return lists, nil
}

// bringArtifact brings in the manifest of an artifact and its blobs.
func (f *found) bringArtifact(d image.Descriptor) error {
	data, err := f.document(d)
	if err != nil {
		return err
	}
	m, err := image.ParseManifest(data)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if err := m.CheckLayers(); err != nil {
		return err
	}
	for _, b := range needed(m) {
		if b.Size > maxArtifactBlob {
			return fmt.Errorf("blob %s has %d bytes; more than %d are refused", b.Digest, b.Size, maxArtifactBlob)
		}
		if err := f.ingest(blobName(b.Digest), b.Digest, b.Size); err != nil {
			return err
		}
	}
	_, err = f.s.Put(data)
	return err
}
