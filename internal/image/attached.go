package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"brig/internal/fault"

	"golang.org/x/sys/unix"
)

// What is attached to an image are artifacts of their own, which point to it: signatures, attestations, bills of materials. A registry
// lists them by the digest of the image (distribution-spec, "Listing Referrers", and cosign's tags). The store keeps the list beside the
// blobs, so that what was demanded of an image when it came can be demanded again with no network.

// maxAttached is how many artifacts are kept of one manifest or index. A registry can make up any number.
const maxAttached = 100

// attached is the file of one subject.
type attached struct {
	Subject   Digest       `json:"subject"`
	Artifacts []Descriptor `json:"artifacts"`
}

func (s *Store) attachedPath(d Digest) string { return s.path("attached", d.Hex()) }

// Attach notes the manifests of artifacts that belong to subject, an index or a manifest. They, their configs and their layers must be
// in the store. Those of before stay: a registry that has lost a signature, or withholds it, does not undo it. When there are too many, the
// new ones and then the latest of before are kept.
func (s *Store) Attach(subject Digest, artifacts []Descriptor) error {
	if len(artifacts) == 0 {
		return nil
	}
	for _, d := range artifacts {
		if d.Digest == "" || !d.IsManifest() && d.MediaType != "" {
			return fmt.Errorf("what is attached to %s is no manifest: %s %q", subject, d.Digest, d.MediaType)
		}
	}
	l, err := s.acquire("refs", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer l.release()
	before, err := s.Attached(subject)
	var damaged *CorruptError
	if err != nil && !errors.As(err, &damaged) { // a damaged list is mended by what comes
		return err
	}
	a := attached{Subject: subject}
	for _, d := range slices.Concat(artifacts, before) {
		if len(a.Artifacts) < maxAttached && !slices.ContainsFunc(a.Artifacts, func(o Descriptor) bool { return o.Digest == d.Digest }) {
			a.Artifacts = append(a.Artifacts, d)
		}
	}
	fault.Point("before the attachments")
	return s.full(s.writeFile(s.attachedPath(subject), &a, true))
}

// Attached lists what is attached to an index or a manifest, as far as the store has it; nothing is no error.
func (s *Store) Attached(subject Digest) ([]Descriptor, error) {
	var a attached
	path := s.attachedPath(subject)
	switch err := readFile(path, &a); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case a.Subject != subject:
		return nil, &CorruptError{path, "it is of " + string(a.Subject)}
	}
	return a.Artifacts, nil
}

// markAttached keeps what is attached to all that is kept. A list that cannot be read keeps nothing: its image is unsigned then, which
// no demand takes, until it is pulled again.
func (s *Store) markAttached(keep map[Digest]bool) error {
	files, err := s.attachedFiles()
	if err != nil {
		return err
	}
	for _, subject := range files {
		if !keep[subject] {
			continue
		}
		list, _ := s.Attached(subject)
		for _, d := range list {
			s.markManifest(d.Digest, keep)
		}
	}
	return nil
}

// sweepAttached removes the lists of what is not kept.
func (s *Store) sweepAttached(keep map[Digest]bool) error {
	files, err := s.attachedFiles()
	if err != nil {
		return err
	}
	for _, subject := range files {
		if !keep[subject] {
			if err := remove(s.attachedPath(subject)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) attachedFiles() ([]Digest, error) {
	files, err := os.ReadDir(s.path("attached"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []Digest
	for _, f := range files {
		if d, err := ParseDigest(algorithm + f.Name()); err == nil {
			list = append(list, d)
		}
	}
	return list, err
}
