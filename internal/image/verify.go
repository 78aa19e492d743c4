package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Check reads the whole store, computes every digest, and gives what is damaged or missing: a *CorruptError each, joined. What is damaged is
// set aside, so that nothing uses it any more and the next pull brings it again. each is called with every file before it is
// read, and its size.
func (s *Store) Check(each func(path string, size int64)) error {
	session, err := s.Begin()
	if err != nil {
		return err
	}
	defer session.End()
	refs, err := s.checkFolder("refs", func(path string) error { _, err := s.readEntry(path); return err })
	if err != nil {
		return err
	}
	attached, err := s.checkFolder("attached", s.checkAttached)
	if err != nil {
		return err
	}
	// What is missing before what is damaged, which is missing afterwards.
	return errors.Join(refs, attached, s.checkComplete(), s.checkBlobs(each), s.checkRoots(each))
}

// checkFolder reads small files, and sets aside those that are damaged.
func (s *Store) checkFolder(name string, read func(path string) error) (damaged, err error) {
	files, err := os.ReadDir(s.path(name))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, f := range files {
		path := s.path(name, f.Name())
		err := read(path)
		var damage *CorruptError
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case errors.As(err, &damage):
			err = s.setAsideIf(path, "refs", read)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...), nil
}

// setAsideIf sets a file aside if it is still damaged once its lock is there: it may have been written anew.
func (s *Store) setAsideIf(path, lock string, read func(string) error) error {
	l, err := s.acquire(lock, unix.LOCK_EX)
	if err != nil {
		return errors.Join(read(path), err)
	}
	defer l.release()
	var damage *CorruptError
	if err := read(path); !errors.As(err, &damage) {
		return nil
	}
	return errors.Join(damage, s.setAside(path, nil))
}

// checkAttached reads one list of artifacts.
func (s *Store) checkAttached(path string) error {
	d, err := ParseDigest(algorithm + path[strings.LastIndexByte(path, '/')+1:])
	if err != nil {
		return &CorruptError{path, "its name is no digest"}
	}
	_, err = s.Attached(d)
	return err
}

// checkComplete tells what is not here of what references lead to.
func (s *Store) checkComplete() error {
	list, _ := s.Entries()
	told := map[string]bool{}
	var errs []error
	need := func(e *Entry, path string) bool {
		here := exists(path)
		if !here && !told[path] {
			told[path] = true
			errs = append(errs, &CorruptError{path, "it is gone, and " + e.Name + " needs it"})
		}
		return here
	}
	for _, e := range list {
		need(e, s.blobPath(e.Target.Digest))
		for _, d := range e.Platforms {
			if need(e, s.recordPath(d)) {
				need(e, s.imagePath(d))
			}
			if !need(e, s.blobPath(d)) {
				continue
			}
			m, err := s.peekManifest(d)
			if err != nil {
				continue // it is among the damaged blobs
			}
			for _, b := range append([]Descriptor{m.Config}, m.Layers...) {
				need(e, s.blobPath(b.Digest))
			}
		}
	}
	return errors.Join(errs...)
}

// peekManifest reads a manifest, and leaves a damaged one where it is.
func (s *Store) peekManifest(d Digest) (*Manifest, error) {
	data, err := readRegular(s.blobPath(d), MaxManifest)
	if err != nil {
		return nil, err
	}
	if DigestOf(data) != d {
		return nil, ErrNotHere
	}
	return ParseManifest(data)
}

func (s *Store) checkBlobs(each func(string, int64)) error {
	files, err := os.ReadDir(s.path("blobs", "sha256"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		path := s.path("blobs", "sha256", f.Name())
		d, err := ParseDigest(algorithm + f.Name())
		if err != nil {
			errs = append(errs, errors.Join(&CorruptError{path, "its name is no digest"}, s.setAside(path, nil)))
			continue
		}
		if st, err := f.Info(); err == nil {
			each(path, st.Size())
		}
		err = s.checkBlob(d)
		if errors.Is(err, ErrNotHere) {
			continue // pruned in between
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *Store) checkBlob(d Digest) error {
	r, err := s.VerifiedReader(d)
	var damage *CorruptError
	if errors.As(err, &damage) { // no file at all
		return s.setAsideIf(damage.Path, "blob-"+d.Hex(), func(string) error {
			f, err := s.OpenBlob(d)
			if err != nil {
				return err
			}
			return f.Close()
		})
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	if err != nil && !errors.As(err, &damage) {
		err = &CorruptError{s.blobPath(d), fmt.Sprintf("it cannot be read: %v", err)}
	}
	return errors.Join(err, r.Close())
}

func (s *Store) checkRoots(each func(string, int64)) error {
	files, err := os.ReadDir(s.path("roots"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		path := s.path("roots", f.Name())
		name, image := strings.CutSuffix(f.Name(), ".erofs")
		d, err := ParseDigest(algorithm + name)
		switch {
		case err != nil:
			errs = append(errs, errors.Join(&CorruptError{path, "its name is no digest"}, s.setAside(path, nil)))
		case image && !exists(s.recordPath(d)): // a making that was killed; prune takes it
		case !image:
			errs = append(errs, s.checkRoot(d, each))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) checkRoot(d Digest, each func(string, int64)) error {
	r, err := s.Record(d)
	var damage *CorruptError
	switch {
	case errors.Is(err, ErrNotHere):
		return nil
	case errors.As(err, &damage):
		return s.setAsideIf(s.recordPath(d), "make-"+d.Hex(), func(string) error { _, err := s.Record(d); return err })
	case err != nil:
		return err
	case !exists(s.imagePath(d)):
		return nil // told by who looks for what is missing, if a reference needs it
	}
	each(s.imagePath(d), r.Size)
	return s.verifyRoot(r)
}
