package trust

import (
	"errors"
	"fmt"
	"strings"

	"brig/internal/image"
)

// Limits on what is looked at for one image. Whoever can attach to an image can attach anything.
const (
	maxPayload    = 64 << 10
	maxBundle     = 1 << 20
	maxCandidates = 100 // signatures
	maxLayers     = 100 // of one artifact
)

// candidate is what could be a signature of an image, before any key was tried.
type candidate struct {
	artifact image.Digest // the manifest that it was found in
	message  []byte       // what was signed
	sigs     [][]byte
	envelope *envelope // nil for a simple signature
	keyless  bool      // it has a certificate
	err      error     // why it cannot be one
}

// claim is what a good signature says.
type claim struct {
	digest    func(image.Digest) bool
	reference string // "" in a statement, which names nothing
}

// candidates gives what is attached to any of the digests.
func candidates(s *image.Store, digests []image.Digest) ([]candidate, error) {
	var list []candidate
	var errs []error
	for _, subject := range digests {
		artifacts, err := s.Attached(subject)
		errs = append(errs, err)
		for _, a := range artifacts {
			m, err := s.Manifest(a.Digest)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			for _, l := range m.Layers[:min(len(m.Layers), maxLayers)] {
				if c, ok := newCandidate(s, l); ok && len(list) < maxCandidates {
					c.artifact = a.Digest
					list = append(list, c)
				}
			}
		}
	}
	return list, errors.Join(errs...)
}

// newCandidate reads one layer of an artifact. The media type says no more than how to read it.
func newCandidate(s *image.Store, l image.Descriptor) (c candidate, ok bool) {
	kind := l.MediaType
	switch {
	case kind == mediaSimpleSigning:
		c.keyless = l.Annotations[annotationCertificate] != ""
		c.message, c.err = s.Blob(l.Digest, maxPayload)
		if sig, err := decodeBase64(l.Annotations[annotationSignature]); err != nil {
			c.err = errors.Join(c.err, fmt.Errorf("its signature: %w", err))
		} else {
			c.sigs = [][]byte{sig}
		}
		return c, true
	case kind == mediaEnvelope || strings.HasPrefix(kind, mediaBundle):
		if l.Size > maxBundle {
			return c, false // an attestation
		}
		var data []byte
		if data, c.err = s.Blob(l.Digest, maxBundle); c.err != nil {
			return c, true
		}
		c.read(data, kind)
		return c, true
	}
	return c, false
}

func (c *candidate) read(data []byte, kind string) {
	if kind == mediaEnvelope {
		var o object
		if o, c.err = parseObject(data); c.err == nil {
			c.envelope, c.err = parseEnvelope(o)
		}
	} else {
		c.envelope, c.keyless, c.err = parseBundle(data)
	}
	if c.err == nil {
		c.message, c.sigs = c.envelope.signed(), c.envelope.sigs
	}
}

// signedBy tells whether one of the signatures is the key's.
func (c *candidate) signedBy(k Key) bool {
	if c.err != nil {
		return false
	}
	for _, sig := range c.sigs {
		if k.verify(c.message, sig) {
			return true
		}
	}
	return false
}

// claim reads what was signed. It is read after the signature was found good, so nobody but the signer has a say in it.
func (c *candidate) claim() (claim, error) {
	if c.envelope == nil {
		p, err := parsePayload(c.message)
		return claim{func(d image.Digest) bool { return d == p.digest }, p.reference}, err
	}
	st, err := c.envelope.parseSigned()
	if err != nil {
		return claim{}, err
	}
	if st.predicate != predicateSign {
		return claim{}, &attestationError{st.predicate}
	}
	return claim{digest: st.has}, nil
}

// attestationError is a statement that is signed and is no signature of an image.
type attestationError struct{ predicate string }

func (e *attestationError) Error() string {
	return fmt.Sprintf("it is an attestation (%.80q), which does not say that the image may be run", e.predicate)
}
