package trust

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"brig/internal/image"
)

// Attachment is something that is attached to an image: a signature, or something that is said of it.
type Attachment struct {
	// Type is the predicate type of a statement ("https://spdx.dev/Document", "https://slsa.dev/provenance/v1"), or the media type of
	// what is no statement.
	Type string `json:"type"`
	// Signature: it says that the image is signed, and nothing else.
	Signature bool         `json:"signature,omitempty"`
	Subject   image.Digest `json:"subject"` // the manifest or the index that it is attached to
	Artifact  image.Digest `json:"artifact"`
	Blob      image.Digest `json:"blob"`
	Size      int64        `json:"size"` // bytes of the blob
	// Signatures is how many are made over it. What the image's own index has, as buildkit puts it there, has none, and is covered by a
	// signature of the index.
	Signatures int `json:"signatures"`
	// SignedBy are those of the given keys that signed it.
	SignedBy []string `json:"signedBy,omitempty"`
	// Problem is why nobody should believe it: it is of another image, or cannot be read.
	Problem string `json:"problem,omitempty"`

	content []byte // the statement, or the blob
}

// maxType is how long a type may be: some predicate's address.
const maxType = 200

// maxAttachment is how large an attachment may be to be read. Larger ones are listed all the same.
const maxAttachment = 16 << 20

// buildkit puts attestations into the index of the image (buildkit, docs/attestations/attestation-storage.md).
const (
	annotationReferenceType   = "vnd.docker.reference.type"
	annotationReferenceDigest = "vnd.docker.reference.digest"
	referenceAttestation      = "attestation-manifest"
	annotationPredicate       = "in-toto.io/predicate-type"
)

// Embedded gives the attestations of a manifest that lie in the index itself.
func Embedded(x *image.Index, manifest image.Digest) []image.Descriptor {
	var list []image.Descriptor
	for _, d := range x.Manifests {
		if d.IsManifest() && d.Annotations[annotationReferenceType] == referenceAttestation && d.Annotations[annotationReferenceDigest] == string(manifest) {
			list = append(list, d)
		}
	}
	return list
}

// Attachments lists what is attached to a manifest, and to the index that it was chosen from, as far as the store has it. keys may be
// empty: then it is not known who signed what.
func Attachments(s *image.Store, target, manifest image.Digest, keys []Key) ([]Attachment, error) {
	digests, err := subjects(s, target, manifest)
	if err != nil {
		return nil, err
	}
	var list []Attachment
	var errs []error
	for _, subject := range digests {
		artifacts, err := s.Attached(subject)
		errs = append(errs, err)
		for _, a := range artifacts {
			list = append(list, attachmentsOf(s, subject, a.Digest, digests, keys)...)
		}
	}
	if target != "" && target != manifest {
		x, err := s.Index(target)
		errs = append(errs, err)
		if err == nil {
			for _, d := range Embedded(x, manifest) {
				list = append(list, attachmentsOf(s, manifest, d.Digest, digests, keys)...)
			}
		}
	}
	return list, errors.Join(errs...)
}

// attachmentsOf reads the layers of one artifact.
func attachmentsOf(s *image.Store, subject, artifact image.Digest, digests []image.Digest, keys []Key) []Attachment {
	m, err := s.Manifest(artifact)
	if err != nil {
		return []Attachment{{Subject: subject, Artifact: artifact, Problem: err.Error()}}
	}
	var list []Attachment
	for _, l := range m.Layers[:min(len(m.Layers), maxLayers)] {
		a := Attachment{Type: l.MediaType, Subject: subject, Artifact: artifact, Blob: l.Digest, Size: l.Size}
		if m.ArtifactType != "" && a.Type == "application/octet-stream" {
			a.Type = m.ArtifactType
		}
		if err := a.read(s, l, digests, keys); err != nil {
			a.Problem = err.Error()
		}
		list = append(list, a)
	}
	return list
}

func (a *Attachment) read(s *image.Store, l image.Descriptor, digests []image.Digest, keys []Key) error {
	if t := l.Annotations[annotationPredicate]; t != "" {
		a.Type = t[:min(len(t), maxType)]
	}
	if l.Size > maxAttachment || !s.HasBlob(l.Digest, -1) {
		return errors.New("it is not here, or too large to be read")
	}
	if l.MediaType == mediaSimpleSigning {
		return a.readSignature(s, l, digests, keys)
	}
	data, err := s.Blob(l.Digest, maxAttachment)
	if err != nil {
		return err
	}
	a.content = data
	var c candidate
	switch {
	case l.MediaType == mediaEnvelope || strings.HasPrefix(l.MediaType, mediaBundle):
		c.read(data, l.MediaType)
		if c.err != nil {
			return c.err
		}
		a.sign(&c, keys)
		a.content = c.envelope.payload
		st, err := c.envelope.parseSigned()
		return a.describe(st, err, digests)
	case l.MediaType == mediaStatement:
		st, err := parseStatement(data)
		return a.describe(st, err, digests)
	}
	return nil
}

func (a *Attachment) readSignature(s *image.Store, l image.Descriptor, digests []image.Digest, keys []Key) error {
	a.Signature = true
	c, _ := newCandidate(s, l)
	if c.err != nil {
		return c.err
	}
	a.sign(&c, keys)
	a.content = c.message
	said, err := c.claim()
	if err != nil {
		return err
	}
	return about(said.digest, digests)
}

// describe takes over what a statement says.
func (a *Attachment) describe(st statement, err error, digests []image.Digest) error {
	if err != nil {
		return err
	}
	a.Type, a.Signature = st.predicate[:min(len(st.predicate), maxType)], st.predicate == predicateSign
	return about(st.has, digests)
}

// about tells whether what was signed or said is of one of the digests.
func about(has func(image.Digest) bool, digests []image.Digest) error {
	if !slices.ContainsFunc(digests, has) {
		return errors.New("it is of another image")
	}
	return nil
}

func (a *Attachment) sign(c *candidate, keys []Key) {
	a.Signatures = len(c.sigs)
	for _, k := range keys {
		if c.signedBy(k) {
			a.SignedBy = append(a.SignedBy, k.Name)
		}
	}
}

// Find gives the one attestation that a word means: its type, a part of that, or the beginning of its blob's digest. With keys
// only those count that one of them signed.
func Find(list []Attachment, word string, signed bool) (*Attachment, error) {
	var found, types []string
	var one *Attachment
	for i := range list {
		a := &list[i]
		if a.Signature {
			continue
		}
		types = append(types, a.Type)
		exact := a.Type == word
		if !exact && !strings.Contains(strings.ToLower(a.Type), strings.ToLower(word)) && (len(word) < 6 || !strings.HasPrefix(a.Blob.Hex(), strings.TrimPrefix(word, "sha256:"))) {
			continue
		}
		if signed && len(a.SignedBy) == 0 {
			found = append(found, a.Blob.Short()+" is signed by none of the keys")
			continue
		}
		if a.Problem != "" {
			found = append(found, a.Blob.Short()+": "+a.Problem)
			continue
		}
		if one != nil && one.Blob != a.Blob {
			return nil, fmt.Errorf("%q means more than one attestation (%q %s, %q %s); say more, or the beginning of a digest", word, one.Type, one.Blob.Short(), a.Type, a.Blob.Short())
		}
		one = a
	}
	switch {
	case one != nil:
		return one, nil
	case len(found) > 0:
		return nil, fmt.Errorf("no attestation %q can be believed: %s", word, strings.Join(found, "; "))
	case len(types) > 0:
		return nil, fmt.Errorf("there is no attestation %q; there are %q", word, types)
	}
	return nil, errors.New("nothing is attested of the image")
}

// Content is the statement, without the envelope that it was signed in; of what is no statement, the blob.
func (a *Attachment) Content() []byte { return a.content }

// SignedBy gives those of the keys that have signed an image under a name, as Check would count them.
func SignedBy(s *image.Store, ref image.Ref, target, manifest image.Digest, keys []Key) ([]string, error) {
	digests, err := subjects(s, target, manifest)
	if err != nil {
		return nil, err
	}
	list, err := candidates(s, digests)
	var names []string
	for _, k := range keys {
		if (Demand{Ref: ref}).signed(k, list, digests, &findings{}) {
			names = append(names, k.Name)
		}
	}
	return names, err
}
