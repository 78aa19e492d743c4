package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"brig/internal/fault"

	"golang.org/x/sys/unix"
)

func (s *Store) blobPath(d Digest) string { return s.path("blobs", "sha256", d.Hex()) }

// HasBlob tells whether a blob is here. size is what it must have; -1 for any. A file of another size is none: it is fetched
// again.
func (s *Store) HasBlob(d Digest, size int64) bool {
	st, err := os.Lstat(s.blobPath(d))
	return err == nil && st.Mode().IsRegular() && (size < 0 || st.Size() == size)
}

// smallBlob is the size up to which a blob that is here is read again before it is taken for what comes: manifests and configurations.
const smallBlob = 1 << 20

// hasGood is HasBlob, and computes the digest of a small one: a damaged one is brought in again.
func (s *Store) hasGood(d Digest, size int64) bool {
	st, err := os.Lstat(s.blobPath(d))
	if err != nil || !st.Mode().IsRegular() || size >= 0 && st.Size() != size {
		return false
	}
	if st.Size() > smallBlob {
		return true
	}
	_, err = s.Blob(d, smallBlob)
	return err == nil
}

// OpenBlob opens a blob; the caller closes it. What is read from it is not checked again: see Blob and VerifiedReader.
func (s *Store) OpenBlob(d Digest) (*os.File, error) {
	f, err := openRegular(s.blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the blob %s is not in the store: %w", d, ErrNotHere)
	}
	return f, err
}

// Blob reads a small blob and checks its digest.
func (s *Store) Blob(d Digest, limit int64) ([]byte, error) {
	f, err := s.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("the blob %s has %d bytes; %d are the most that is read of its kind", d, st.Size(), limit)
	}
	data := make([]byte, st.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err
	}
	if got := DigestOf(data); got != d {
		return nil, s.damagedBlob(d, f, got)
	}
	return data, nil
}

// damagedBlob takes a blob out of use, and gives the error that says so. Whoever wants it next fetches it.
func (s *Store) damagedBlob(d Digest, f *os.File, got Digest) error {
	damage := &CorruptError{s.blobPath(d), "its digest is " + string(got)}
	l, err := s.acquire("blob-"+d.Hex(), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil { // somebody is fetching it, or the store cannot be written
		return damage
	}
	defer l.release()
	return errors.Join(damage, s.setAside(damage.Path, f))
}

// VerifiedReader reads a blob, and gives an error in the place of io.EOF when its digest was another.
func (s *Store) VerifiedReader(d Digest) (io.ReadCloser, error) {
	f, err := s.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	return &verifiedReader{s: s, f: f, h: sha256.New(), want: d}, nil
}

type verifiedReader struct {
	s    *Store
	f    *os.File
	h    hash.Hash
	want Digest
}

func (r *verifiedReader) Read(p []byte) (int, error) {
	n, err := r.f.Read(p)
	r.h.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := DigestOfHash(r.h); got != r.want {
			return n, r.s.damagedBlob(r.want, r.f, got)
		}
	}
	return n, err
}

func (r *verifiedReader) Close() error { return r.f.Close() }

// Partial is a blob on its way into the store. What an earlier, broken attempt brought is kept.
type Partial struct {
	f      *os.File
	h      hash.Hash
	offset int64
	// flushed is up to where the disk was told to write.
	flushed int64
}

// Offset is how many bytes are there already: the next Write goes behind them.
func (p *Partial) Offset() int64 { return p.offset }

// Write appends.
func (p *Partial) Write(b []byte) (int, error) {
	n, err := p.f.Write(b)
	p.h.Write(b[:n])
	p.offset += int64(n)
	if p.offset-p.flushed >= flushEvery {
		flush(p.f, p.flushed)
		p.flushed = p.offset
	}
	return n, err
}

// flushEvery is how much of a blob comes before the disk begins to write it.
const flushEvery = 8 << 20

// flush has the disk begin to write a file, from an offset on, and waits for nothing: when the reference is made durable, most of what
// it leads to is written already.
func flush(f *os.File, from int64) {
	_ = unix.SyncFileRange(int(f.Fd()), from, 0, unix.SYNC_FILE_RANGE_WRITE) //nolint:gosec // a file descriptor
}

// Reset forgets what is there: the source cannot go on in the middle.
func (p *Partial) Reset() error {
	p.h.Reset()
	p.offset, p.flushed = 0, 0
	if err := p.f.Truncate(0); err != nil {
		return err
	}
	_, err := p.f.Seek(0, io.SeekStart)
	return err
}

// Ingest brings a blob in: fetch writes it, and it is in the store when its size (-1: unknown) and digest are right. Of many
// that want one blob at once, one fetches, and the others wait for it. When it is here already fetch is not called. After
// an error what came stays for the next attempt, unless it was wrong.
func (s *Store) Ingest(d Digest, size int64, fetch func(*Partial) error) error {
	if s.hasGood(d, size) {
		return nil
	}
	l, err := s.acquire("blob-"+d.Hex(), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer l.release()
	if s.hasGood(d, size) {
		return nil
	}
	p, err := s.partial(d, size)
	if err != nil {
		return err
	}
	defer p.f.Close() //nolint:errcheck // nothing is lost: it is only used when complete
	fault.Point("blob begun")
	if err := fetch(p); err != nil {
		return s.full(err)
	}
	fault.Point("blob fetched")
	if got := DigestOfHash(p.h); got != d || size >= 0 && p.offset != size {
		return errors.Join(&DigestError{Want: d, Got: got, Size: p.offset, WantSize: size}, remove(p.f.Name()))
	}
	flush(p.f, p.flushed)
	if err := place(p.f.Name(), s.blobPath(d)); err != nil {
		return s.full(fmt.Errorf("put blob %s in its place: %w", d, err))
	}
	fault.Point("blob in place")
	return nil
}

// partial opens what there is of a blob, and reads it for the digest.
func (s *Store) partial(d Digest, size int64) (*Partial, error) {
	f, err := os.OpenFile(s.path("tmp", "blob-"+d.Hex()), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, s.full(fmt.Errorf("begin blob %s: %w", d, err))
	}
	p := &Partial{f: f, h: sha256.New()}
	if p.offset, err = io.Copy(p.h, f); err == nil && size >= 0 && p.offset > size {
		err = p.Reset()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read what there is of blob %s: %w", d, err), f.Close())
	}
	return p, nil
}

// full says more when the disk is.
func (s *Store) full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("the disk of %s is full; `brig image prune` removes what nothing uses: %w", s.dir, err)
	}
	return err
}

// Put brings in a blob that is in memory, and gives its digest.
func (s *Store) Put(data []byte) (Digest, error) {
	d := DigestOf(data)
	return d, s.Ingest(d, int64(len(data)), func(p *Partial) error {
		if err := p.Reset(); err != nil {
			return err
		}
		_, err := p.Write(data)
		return err
	})
}

// Manifest reads the manifest of a digest.
func (s *Store) Manifest(d Digest) (*Manifest, error) {
	data, err := s.Blob(d, MaxManifest)
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", d, err)
	}
	return m, nil
}

// Index reads the index of a digest.
func (s *Store) Index(d Digest) (*Index, error) {
	data, err := s.Blob(d, MaxManifest)
	if err != nil {
		return nil, err
	}
	x, err := ParseIndex(data)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", d, err)
	}
	return x, nil
}

// ImageConfig reads the configuration of a manifest.
func (s *Store) ImageConfig(m *Manifest) (*Config, error) {
	data, err := s.Blob(m.Config.Digest, MaxConfig)
	if err != nil {
		return nil, err
	}
	c, err := ParseConfig(data)
	if err != nil {
		return nil, err
	}
	return c, nil
}
