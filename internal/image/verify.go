package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Check reads the whole store, computes every digest, and gives what is damaged. each is called with every file before it
// is read, and its size.
func (s *Store) Check(each func(path string, size int64)) error {
	session, err := s.Begin()
	if err != nil {
		return err
	}
	defer session.End()
	_, err = s.Entries()
	return errors.Join(err, s.checkAttached(), s.checkBlobs(each), s.checkRoots(each))
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
			errs = append(errs, &CorruptError{path, "its name is no digest"})
			continue
		}
		if st, err := f.Info(); err == nil {
			each(path, st.Size())
		}
		r, err := s.VerifiedReader(d)
		if errors.Is(err, ErrNotHere) {
			continue // pruned in between
		}
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			err = errors.Join(err, r.Close())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *Store) checkRoots(each func(string, int64)) error {
	files, err := os.ReadDir(s.path("roots"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		name, image := strings.CutSuffix(f.Name(), ".erofs")
		d, err := ParseDigest(algorithm + name)
		switch {
		case err != nil:
			errs = append(errs, &CorruptError{s.path("roots", f.Name()), "its name is no digest"})
		case image && !exists(s.recordPath(d)): // a making that was killed; prune takes it
		case !image:
			errs = append(errs, s.checkRoot(d, each))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) checkRoot(d Digest, each func(string, int64)) error {
	r, err := s.Record(d)
	if errors.Is(err, ErrNotHere) {
		return nil
	}
	if err != nil {
		return err
	}
	each(s.imagePath(d), r.Size)
	f, err := os.Open(s.imagePath(d))
	if err != nil {
		return &CorruptError{s.imagePath(d), fmt.Sprintf("it cannot be opened: %v", err)}
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return checkDigest(f, st.Size(), r)
}
