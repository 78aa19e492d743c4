package image

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"brig/internal/fault"

	"golang.org/x/sys/unix"
)

// Entry is a reference that the store knows: a name and what it points to.
type Entry struct {
	Name   string     `json:"name"`   // Ref.Name
	Target Descriptor `json:"target"` // an index or a manifest
	Since  time.Time  `json:"since"`
	// Platforms are the manifests that are here, by platform.
	Platforms map[string]Digest `json:"platforms"`
}

func (s *Store) refPath(name string) string { return s.path("refs", DigestOf([]byte(name)).Hex()) }

// Tag makes name point to target, whose chosen manifest for platform p is in the store with its root. What the name pointed to before
// stays until prune. Platforms of the same target that were there before are kept.
func (s *Store) Tag(ref Ref, target Descriptor, p Platform, manifest Digest) error {
	l, err := s.acquire("refs", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer l.release()
	e := &Entry{Name: ref.Name(), Target: target, Since: time.Now().UTC(), Platforms: map[string]Digest{}}
	var old Entry
	err = readFile(s.refPath(e.Name), &old)
	if err == nil && old.Target.Digest == target.Digest {
		for k, v := range old.Platforms {
			e.Platforms[k] = v
		}
	}
	e.Platforms[p.String()] = manifest
	if err := s.persistImage(target.Digest, manifest); err != nil {
		return s.full(fmt.Errorf("write image %s to the disk: %w", ref, err))
	}
	fault.Point("before the reference")
	if err := s.writeFile(s.refPath(e.Name), e, true); err != nil {
		return s.full(err)
	}
	fault.Point("reference in place")
	return nil
}

// persistImage has all of an image on the disk before a reference says that it is here: a power cut takes back the reference first.
func (s *Store) persistImage(target, manifest Digest) error {
	files := []string{s.blobPath(target), s.blobPath(manifest), s.imagePath(manifest), s.recordPath(manifest)}
	if m, err := s.Manifest(manifest); err == nil {
		for _, d := range append([]Descriptor{m.Config}, m.Layers...) {
			files = append(files, s.blobPath(d.Digest))
		}
	}
	return persist(files, []string{s.path("blobs", "sha256"), s.path("roots")})
}

// Alias gives an entry another name.
func (s *Store) Alias(e *Entry, ref Ref) error {
	l, err := s.acquire("refs", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer l.release()
	other := *e
	other.Name, other.Since = ref.Name(), time.Now().UTC()
	fault.Point("before the reference")
	if err := s.writeFile(s.refPath(other.Name), &other, true); err != nil {
		return s.full(err)
	}
	fault.Point("reference in place")
	return nil
}

// Untag removes a reference, and nothing of what it points to.
func (s *Store) Untag(ref Ref) error {
	l, err := s.acquire("refs", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer l.release()
	if err := os.Remove(s.refPath(ref.Name())); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", ref, ErrNotHere)
	} else if err != nil {
		return err
	}
	return syncPath(s.path("refs"))
}

// Entry is what the store knows of a reference; ErrNotHere when it knows nothing.
func (s *Store) Entry(ref Ref) (*Entry, error) {
	e, err := s.readEntry(s.refPath(ref.Name()))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", ref, ErrNotHere)
	case err != nil:
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return e, nil
}

func (s *Store) readEntry(path string) (*Entry, error) {
	var e Entry
	if err := readFile(path, &e); err != nil {
		return nil, err
	}
	if s.refPath(e.Name) != path {
		return nil, &CorruptError{path, fmt.Sprintf("it is of %q", e.Name)}
	}
	return &e, nil
}

// Entries lists the references by name. Those that cannot be read are in the error; the others are given all the same.
func (s *Store) Entries() ([]*Entry, error) {
	files, err := os.ReadDir(s.path("refs"))
	if err != nil {
		return nil, fmt.Errorf("list the images: %w", err)
	}
	var list []*Entry
	var errs []error
	for _, f := range files {
		switch e, err := s.readEntry(s.path("refs", f.Name())); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		default:
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
	return list, errors.Join(errs...)
}

// Ref is the entry's name, parsed.
func (e *Entry) Ref() (Ref, error) { return ParseRef(e.Name) }

// Find finds an image by a reference, a digest of an index or a manifest, or the beginning of one (at least 6 digits).
func (s *Store) Find(text string) (*Entry, error) {
	if IsDigest(text) {
		return s.findHex(text, strings.TrimPrefix(text, algorithm))
	}
	ref, err := ParseRef(text)
	if err == nil {
		e, err := s.Entry(ref)
		if !errors.Is(err, ErrNotHere) {
			return e, err
		}
	}
	hex, isHex := text, beginsDigest(text)
	if d := ref.Digest(); d != "" {
		hex, isHex = d.Hex(), true
	}
	if !isHex {
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w", text, ErrNotHere)
	}
	return s.findHex(text, hex)
}

// IsDigest tells whether a word means a digest or the beginning of one and nothing else, though the grammar of references has it for a
// name, too: an archive could give that name to an image, which would then be taken for the one that has the digest. docker refuses to
// give such names for the same reason (its reference store: "ambiguous tag using digest algorithm as name").
func IsDigest(text string) bool {
	hex, ok := strings.CutPrefix(text, algorithm)
	return (ok || len(text) == 64) && beginsDigest(hex)
}

// beginsDigest tells whether a word can be the beginning of a digest. It can be a name as well.
func beginsDigest(text string) bool {
	return len(text) >= 6 && len(text) <= 64 && strings.Trim(text, "0123456789abcdef") == ""
}

func (s *Store) findHex(text, hex string) (*Entry, error) {
	list, err := s.Entries()
	if err != nil && len(list) == 0 {
		return nil, err
	}
	var found *Entry
	for _, e := range list {
		match := strings.HasPrefix(e.Target.Digest.Hex(), hex)
		for _, d := range e.Platforms {
			if strings.HasPrefix(d.Hex(), hex) {
				match = true
				if d != e.Target.Digest && !strings.HasPrefix(e.Target.Digest.Hex(), hex) && len(hex) == 64 {
					// That manifest alone, not what else the index has.
					e = &Entry{Name: e.Name, Target: Descriptor{Digest: d, MediaType: MediaManifest}, Since: e.Since, Platforms: e.only(d)}
				}
			}
		}
		if !match {
			continue
		}
		if found != nil && found.Target.Digest != e.Target.Digest {
			return nil, fmt.Errorf("%q is the beginning of more than one image's digest; give more of it", text)
		}
		if found == nil {
			found = e
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%s: %w", text, ErrNotHere)
	}
	return found, nil
}

func (e *Entry) only(d Digest) map[string]Digest {
	for p, have := range e.Platforms {
		if have == d {
			return map[string]Digest{p: d}
		}
	}
	return nil
}

// Manifest is the manifest that is here for a platform, or ErrNotHere.
func (e *Entry) Manifest(want Platform) (Digest, error) {
	var best Digest
	score := 0
	for text, d := range e.Platforms {
		p, err := ParsePlatform(text)
		if err != nil {
			continue
		}
		if n := p.serves(want); n > score || n == score && n > 0 && d < best {
			best, score = d, n
		}
	}
	if score == 0 {
		name := e.Name
		if ref, err := e.Ref(); err == nil {
			name = ref.String()
		}
		return "", fmt.Errorf("%s is here for %s; for %s %w", name, strings.Join(slices.Sorted(maps.Keys(e.Platforms)), ", "), want, ErrNotHere)
	}
	return best, nil
}
