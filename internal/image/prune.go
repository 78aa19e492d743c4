package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"brig/internal/fault"

	"golang.org/x/sys/unix"
)

// Pruned is what a prune took away.
type Pruned struct {
	Roots, Blobs int
	Bytes        int64 // that the disk has again
	InUse        int   // images without a name that sandboxes still use: a later prune takes them
}

// Remove removes references and then what nothing refers to any more, unless somebody is adding to the store: then that is left for
// the next prune. Images that sandboxes use stay, and are removed by a later prune.
func (s *Store) Remove(refs ...Ref) (Pruned, error) {
	for _, r := range refs {
		if err := s.Untag(r); err != nil {
			return Pruned{}, err
		}
		fault.Point("reference removed")
	}
	l, err := s.acquire("store", unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return Pruned{}, nil
	}
	if err != nil {
		return Pruned{}, err
	}
	defer l.release()
	return s.sweep(false)
}

// Prune removes every blob and root that no reference leads to, what is half-made, and mounts that nothing uses. With all, the references
// that no sandbox uses go before. It waits until nobody is adding to the store.
func (s *Store) Prune(all bool) (Pruned, error) {
	l, err := s.acquire("store", unix.LOCK_EX)
	if err != nil {
		return Pruned{}, err
	}
	defer l.release()
	if all {
		if err := s.untagUnused(); err != nil {
			return Pruned{}, err
		}
	}
	p, err := s.sweep(true)
	return p, errors.Join(err, forsaken())
}

// Busy tells whether somebody is adding to the store, so that Prune would wait.
func (s *Store) Busy() bool {
	l, err := s.acquire("store", unix.LOCK_EX|unix.LOCK_NB)
	l.release()
	return errors.Is(err, unix.EWOULDBLOCK)
}

// untagUnused removes the references none of whose images is used.
func (s *Store) untagUnused() error {
	list, err := s.readable()
	if err != nil {
		return err
	}
	for _, e := range list {
		used := false
		for _, d := range e.Platforms {
			l, err := s.unused(d)
			if err != nil {
				used = true
				continue
			}
			l.release()
		}
		if used {
			continue
		}
		ref, err := e.Ref()
		if err != nil {
			return err
		}
		if err := s.Untag(ref); err != nil {
			return err
		}
	}
	return nil
}

// readable gives all references. One that cannot be read stops who would remove something: what it leads to is not known.
func (s *Store) readable() ([]*Entry, error) {
	list, err := s.Entries()
	if err != nil {
		return nil, fmt.Errorf("nothing is removed while a reference cannot be read, after `brig image verify` it is set aside: %w", err)
	}
	return list, nil
}

// sweep removes what is not marked. The caller has the store alone.
func (s *Store) sweep(everything bool) (Pruned, error) {
	var p Pruned
	keep, err := s.mark()
	if err != nil {
		return p, err
	}
	if err := s.sweepRoots(keep, everything, &p); err != nil {
		return p, err
	}
	if err := errors.Join(s.sweepBlobs(keep, &p), s.sweepAttached(keep)); err != nil || !everything {
		return p, err
	}
	return p, errors.Join(s.sweepMounts(), s.sweepTemp(&p), s.sweepLocks())
}

func (s *Store) sweepRoots(keep map[Digest]bool, everything bool, p *Pruned) error {
	files, err := os.ReadDir(s.path("roots"))
	if err != nil {
		return err
	}
	roots := map[Digest]bool{}
	for _, f := range files {
		d, err := ParseDigest(algorithm + strings.TrimSuffix(f.Name(), ".erofs"))
		switch {
		case err == nil:
			roots[d] = true
		case everything: // nobody's
			if err := os.RemoveAll(s.path("roots", f.Name())); err != nil {
				return err
			}
		}
	}
	for d := range roots {
		if keep[d] {
			continue
		}
		if err := s.sweepRoot(d, p, keep); err != nil {
			return err
		}
	}
	return nil
}

// sweepMounts unmounts what no sandbox uses, also of images that stay, or that were removed by hand.
func (s *Store) sweepMounts() error {
	return s.eachMount(func(d Digest) bool {
		l, err := s.unused(d)
		l.release() // nobody takes it into use while the store is the caller's
		return err == nil
	})
}

// sweepLocks removes the locks of what is not here. The caller has the store alone, so that only images in use have some that are taken.
func (s *Store) sweepLocks() error {
	files, err := os.ReadDir(s.path("locks"))
	if err != nil {
		return err
	}
	for _, f := range files {
		kind, hex, _ := strings.Cut(f.Name(), "-")
		d, err := ParseDigest(algorithm + hex)
		if err != nil || kind == "blob" && s.HasBlob(d, -1) || kind != "blob" && exists(s.recordPath(d)) {
			continue
		}
		if kind == "root" {
			if l, err := s.unused(d); err != nil {
				continue
			} else { //nolint:revive // l is only here
				defer l.release()
			}
		}
		if err := remove(s.path("locks", f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// sweepRoot removes a root, or marks all that its manifest needs when a sandbox uses it.
func (s *Store) sweepRoot(d Digest, p *Pruned, keep map[Digest]bool) error {
	l, err := s.unused(d)
	if errors.Is(err, ErrInUse) {
		s.markManifest(d, keep)
		p.InUse++
		return nil
	}
	if err != nil {
		return err
	}
	defer l.release()
	if err := s.unmount(d); err != nil {
		return err
	}
	// The record first: an image without one is nothing, and the next sweep finds it.
	for _, path := range []string{s.recordPath(d), s.imagePath(d)} {
		p.Bytes += diskSize(path)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		fault.Point("root removed")
	}
	p.Roots++
	for _, kind := range []string{"make-", "root-"} {
		if err := remove(s.path("locks", kind+d.Hex())); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) sweepBlobs(keep map[Digest]bool, p *Pruned) error {
	files, err := os.ReadDir(s.path("blobs", "sha256"))
	if err != nil {
		return err
	}
	for _, f := range files {
		path := s.path("blobs", "sha256", f.Name())
		if d, err := ParseDigest(algorithm + f.Name()); err == nil && keep[d] {
			continue
		}
		p.Bytes += diskSize(path)
		p.Blobs++
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		fault.Point("blob removed")
		if err := remove(s.path("locks", "blob-"+f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// sweepTemp removes what is half-made: nobody is at it, for the caller has the store alone.
func (s *Store) sweepTemp(p *Pruned) error {
	files, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return err
	}
	for _, f := range files {
		path := s.path("tmp", f.Name())
		p.Bytes += diskSize(path)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// diskSize is what a file, or all that is in a folder, takes of the disk.
func diskSize(path string) int64 {
	var sum int64
	_ = filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && unix.Lstat(path, &st) == nil {
			sum += st.Blocks * 512 // stat(2)
		}
		return nil
	})
	return sum
}

// mark finds all that references lead to.
func (s *Store) mark() (map[Digest]bool, error) {
	list, err := s.readable()
	if err != nil {
		return nil, err
	}
	keep := map[Digest]bool{}
	for _, e := range list {
		keep[e.Target.Digest] = true
		s.markTarget(e.Target.Digest, keep, 0)
		for _, d := range e.Platforms {
			s.markManifest(d, keep)
		}
	}
	return keep, s.markAttached(keep)
}

// markTarget follows an index: the manifests of it that are here stay, and what is attached to them.
func (s *Store) markTarget(d Digest, keep map[Digest]bool, depth int) {
	x, err := s.Index(d)
	if err != nil {
		s.markManifest(d, keep)
		return
	}
	keep[d] = true
	for _, m := range x.Manifests {
		if keep[m.Digest] || depth > 4 || !s.HasBlob(m.Digest, -1) {
			continue
		}
		keep[m.Digest] = true
		if m.IsIndex() {
			s.markTarget(m.Digest, keep, depth+1)
		} else {
			s.markManifest(m.Digest, keep)
		}
	}
}

func (s *Store) markManifest(d Digest, keep map[Digest]bool) {
	keep[d] = true
	m, err := s.Manifest(d)
	if err != nil {
		return
	}
	keep[m.Config.Digest] = true
	for _, l := range m.Layers {
		keep[l.Digest] = true
	}
}
