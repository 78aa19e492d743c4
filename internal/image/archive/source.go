package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of an archive's own index. Docker writes three entries a layer.
const (
	maxEntries = 1 << 18
	maxNames   = 64 << 20 // bytes of all names
	maxHops    = 10
)

// source gives the regular files of an archive by their names.
type source interface {
	// open gives a file that the caller closes, or fs.ErrNotExist.
	open(name string) (*file, error)
	close() error
}

// file is one of them.
type file struct {
	io.ReadSeeker
	name  string
	size  int64
	close func() error
}

// read gives all of a small file.
func read(s source, name string, limit int64) ([]byte, error) {
	f, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer f.close() //nolint:errcheck // read only
	if f.size > limit {
		return nil, fmt.Errorf("%s has %d bytes, and %d are the most that is read of its kind", quote(name), f.size, limit)
	}
	data := make([]byte, f.size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", quote(name), err)
	}
	return data, nil
}

func has(s source, name string) bool {
	f, err := s.open(name)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	_ = f.close()
	return true
}

// folder is an archive that lies unpacked in a folder.
type folder struct{ root *os.Root }

// openFolder opens one. os.Root keeps links in it from leading out of it.
func openFolder(dir string) (*folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &folder{root}, nil
}

func (d *folder) open(name string) (*file, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would have us wait
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", quote(name))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &file{ReadSeeker: f, name: name, size: st.Size(), close: f.Close}, nil
}

func (d *folder) close() error { return d.root.Close() }

// tarball is a tar archive whose regular files are known by where their bytes lie.
type tarball struct {
	f     *os.File
	files map[string]entry
	names int // bytes
}

// entry is a regular file, or a link to one.
type entry struct {
	offset, size int64
	link         string // by its name in the archive
	unusable     string // why it cannot be read
}

// indexTar reads the headers of an uncompressed archive.
func indexTar(ctx context.Context, f *os.File) (*tarball, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	t := &tarball{f: f, files: map[string]entry{}}
	// The reader takes no byte more than it needs: after a header the file stands at the data.
	r := tar.NewReader(f)
	for count := 0; ; count++ {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if count == 0 && errors.Is(err, tar.ErrHeader) {
			return nil, errors.New("this is no tar archive, nor one that gzip or zstd has compressed")
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, fmt.Errorf("read the tar archive: %w", err)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if count == maxEntries {
			return nil, fmt.Errorf("the archive has more than %d entries", maxEntries)
		}
		if err := t.add(hdr); err != nil {
			return nil, err
		}
	}
}

// add notes an entry. What is no file and no link, or has a name outside, is nothing that anybody could ask for.
func (t *tarball) add(hdr *tar.Header) error {
	name, ok := inside(hdr.Name)
	if !ok {
		return nil
	}
	var e entry
	switch hdr.Typeflag {
	case tar.TypeReg:
		at, err := t.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		e = entry{offset: at, size: hdr.Size}
		if sparse(hdr) {
			e = entry{unusable: "is stored with holes; make the archive without --sparse"}
		}
	case tar.TypeGNUSparse:
		e = entry{unusable: "is stored with holes; make the archive without --sparse"}
	case tar.TypeSymlink:
		e = entry{link: path.Join(path.Dir(name), hdr.Linkname), unusable: "is a link out of the archive"}
		if path.IsAbs(hdr.Linkname) {
			e.link = hdr.Linkname
		}
		e = linked(e)
	case tar.TypeLink:
		e = linked(entry{link: hdr.Linkname, unusable: "is a link out of the archive"})
	default:
		return nil
	}
	old, twice := t.files[name]
	if !twice {
		if t.names += len(name) + len(e.link); t.names > maxNames {
			return fmt.Errorf("the names in the archive have more than %d MiB together", maxNames>>20)
		}
		t.files[strings.Clone(name)] = e
		return nil
	}
	return t.same(name, old, e)
}

func linked(e entry) entry {
	target, ok := inside(e.link)
	if !ok || path.IsAbs(e.link) {
		return entry{unusable: e.unusable}
	}
	return entry{link: strings.Clone(target)}
}

// same refuses a name that is there twice with two contents: of two readers one might take the first, the other the last.
func (t *tarball) same(name string, a, b entry) error {
	equal := a == b
	if a.link == "" && b.link == "" && a.unusable == "" && b.unusable == "" && a.size == b.size {
		var err error
		if equal, err = equalReaders(io.NewSectionReader(t.f, a.offset, a.size), io.NewSectionReader(t.f, b.offset, b.size)); err != nil {
			return err
		}
	}
	if !equal {
		return fmt.Errorf("the archive has %s twice, and not the same", quote(name))
	}
	return nil
}

func equalReaders(a, b io.Reader) (bool, error) {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, end := io.ReadFull(a, x)
		m, other := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		for _, err := range []error{end, other} {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				return errors.Is(other, end), nil
			}
			if err != nil {
				return false, err
			}
		}
	}
}

// sparse tells PAX's forms of a file with holes, which archive/tar shows as the file that it stands for.
func sparse(hdr *tar.Header) bool {
	for k := range hdr.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// inside cleans a name, and tells whether it stays within the archive.
func inside(name string) (string, bool) {
	clean := path.Clean(strings.TrimPrefix(name, "/"))
	return clean, fs.ValidPath(clean) && clean != "."
}

func (t *tarball) open(name string) (*file, error) {
	at, ok := inside(name)
	if !ok || path.IsAbs(name) {
		return nil, fmt.Errorf("the name %s leads out of the archive", quote(name))
	}
	for range maxHops {
		e, ok := t.files[at]
		switch {
		case !ok:
			return nil, fmt.Errorf("%s is not in the archive: %w", quote(at), fs.ErrNotExist)
		case e.unusable != "":
			return nil, fmt.Errorf("%s %s", quote(at), e.unusable)
		case e.link == "":
			return &file{ReadSeeker: io.NewSectionReader(t.f, e.offset, e.size), name: name, size: e.size, close: func() error { return nil }}, nil
		}
		at = e.link
	}
	return nil, fmt.Errorf("%s is a link that leads to no file", quote(name))
}

func (t *tarball) close() error { return t.f.Close() }

// quote shows a name of a stranger's choosing: escaped, and its beginning only when it is long.
func quote(name string) string {
	const shown = 200
	if len(name) > shown {
		return fmt.Sprintf("%q… (%d bytes)", name[:shown], len(name))
	}
	return fmt.Sprintf("%q", name)
}
