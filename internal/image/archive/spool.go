package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"brig/internal/fault"
	"brig/internal/image"
	"brig/internal/layers"

	"golang.org/x/sys/unix"
)

// Input is where an archive comes from: a path, or an open file such as standard input.
type Input struct {
	Path string   // "" for File
	File *os.File // stays the caller's
}

// open gives the input as a file of our own, and tells what it is.
func (in Input) open() (*os.File, os.FileInfo, error) {
	f := in.File
	if in.Path != "" {
		var err error
		var path *fs.PathError
		if f, err = os.Open(in.Path); errors.As(err, &path) {
			return nil, nil, path.Err // the caller names it
		} else if err != nil {
			return nil, nil, err
		}
	} else {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", f.Name(), err)
		}
		f = os.NewFile(uintptr(fd), f.Name()) //nolint:gosec // a file descriptor
	}
	st, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, st, nil
}

// openSource opens an archive as a folder or a tar. A tar that is compressed, or cannot be read at any place, is copied into the
// store's temporary folder first: what says how to read it may be its last entry.
func openSource(ctx context.Context, s *image.Store, in Input, l layers.Limits, progress func(want, done int64)) (source, error) {
	f, st, err := in.open()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return openFolderOf(f, in)
	}
	plain, err := seekable(ctx, s, f, st, l, progress)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if plain != f {
		_ = f.Close()
	}
	t, err := indexTar(ctx, plain)
	if err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	return t, nil
}

func openFolderOf(f *os.File, in Input) (source, error) {
	if err := f.Close(); err != nil {
		return nil, err
	}
	if in.Path == "" {
		return nil, errors.New("standard input is a folder; give its path")
	}
	return openFolder(in.Path)
}

// seekable gives the archive uncompressed, in a file that can be read at any place: the same one, if it is that.
func seekable(ctx context.Context, s *image.Store, f *os.File, st os.FileInfo, l layers.Limits, progress func(want, done int64)) (*os.File, error) {
	if st.Mode().IsRegular() {
		packing, err := packingOf(f, l)
		if err != nil {
			return nil, unread(packing, err)
		}
		if packing == layers.None {
			return f, nil
		}
	}
	r, packing, err := layers.Decompress(&coming{reader{ctx, f}, progress}, l)
	if err != nil {
		return nil, unread(packing, err)
	}
	defer r.Close() //nolint:errcheck // read only
	return spool(s, r, l.Size)
}

// unread says of a compression that is told but not undone what to do.
func unread(packing layers.Compression, err error) error {
	if packing == "" || packing == layers.Gzip || packing == layers.Zstd {
		return err
	}
	return fmt.Errorf("the archive is compressed with %s; gzip and zstd are undone here: decompress it, and give it to standard input", packing)
}

// spool copies r into a file that has no name any more, so that nothing is left of it whatever happens. It stays within limit and
// within the room that the disk has.
func spool(s *image.Store, r io.Reader, limit int64) (*os.File, error) {
	f, err := temporary(s)
	if err != nil {
		return nil, err
	}
	fault.Point("archive begun")
	const step = 64 << 20
	var size int64
	for {
		if err = s.Room(step); err != nil {
			break
		}
		var n int64
		n, err = io.CopyN(f, r, step)
		if size += n; size > limit {
			err = fmt.Errorf("the archive has more than %d bytes", limit)
		}
		if err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the archive: %w", err), f.Close())
	}
	fault.Point("archive read")
	return f, nil
}

// temporary is a file without a name in the store's temporary folder.
func temporary(s *image.Store) (*os.File, error) {
	f, err := os.CreateTemp(s.TempDir(), "archive-")
	if err != nil {
		return nil, fmt.Errorf("make room for the archive: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// reader stops when the context ends.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// meter tells of bytes whose number was told before.
type meter struct {
	reader
	progress func(want, done int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.reader.Read(p)
	m.progress(0, int64(n))
	return n, err
}

// coming tells of bytes whose number nobody knows before.
type coming struct {
	reader
	progress func(want, done int64)
}

func (c *coming) Read(p []byte) (int, error) {
	n, err := c.reader.Read(p)
	c.progress(int64(n), int64(n))
	return n, err
}
