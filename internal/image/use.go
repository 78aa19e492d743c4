package image

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Image is an image in use. Until it is closed, in every process that has its lock, neither prune nor rm takes it away.
type Image struct {
	// Ref is the reference it was asked for by, as people write it.
	Ref string
	// Name is the reference that the store knows it by, in full. It is another than Ref when that is a digest, or the beginning of one.
	Name string
	// Digest is the manifest's; Target is what the reference points to: the same, or the index that it was chosen from.
	Digest, Target Digest
	Config         *Config

	store  *Store
	record *Record
	lock   *lock
}

// Use takes an image that is in the store into use. ErrNotHere when it has to be pulled first.
func (s *Store) Use(text string, platform Platform) (*Image, error) {
	session, err := s.Begin() // between the look and the lock nothing may be pruned
	if err != nil {
		return nil, err
	}
	defer session.End()
	e, err := s.Find(text)
	if err != nil {
		return nil, err
	}
	manifest, err := e.Manifest(platform)
	if err != nil {
		return nil, err
	}
	l, err := s.acquire("root-"+manifest.Hex(), unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	r, err := s.Record(manifest)
	if err != nil {
		l.release()
		return nil, fmt.Errorf("image %s: %w", text, err)
	}
	return &Image{Ref: text, Name: e.Name, Digest: manifest, Target: e.Target.Digest, Config: &r.Config, store: s, record: r, lock: l}, nil
}

// Lock is the lock that keeps the image: whoever has the file open, or a copy of it, uses the image. It is Image's.
func (i *Image) Lock() *os.File { return i.lock.f }

// Close ends the use, if no copy of the lock is elsewhere.
func (i *Image) Close() error { return i.lock.f.Close() }

// Verify computes the digest of the root file system, whatever is known of it (`--verify-image always`).
func (i *Image) Verify() error { return i.store.verifyRoot(i.record) }

// unused tells whether nobody uses a manifest's root, and keeps it from being used until the lock is released. The caller has the
// store alone: so where there is no lock nobody can take one, and none is made, for which a full disk may have no room.
func (s *Store) unused(d Digest) (*lock, error) {
	name := "root-" + d.Hex()
	if !exists(s.path("locks", name)) {
		return nil, nil //nolint:nilnil // a lock that is not needed
	}
	l, err := s.acquire(name, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrInUse
	}
	return l, err
}
