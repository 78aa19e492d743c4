package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"brig/internal/image"
	"brig/internal/layers"

	"golang.org/x/sys/unix"
)

// tree writes a folder of the host's as a layer. Names are sorted, links are not followed, and every name is looked up in the open
// folder that it is in, so that nothing outside gets in while somebody moves things about.
type tree struct {
	ctx      context.Context
	t        *tar.Writer
	b        *bufio.Writer    // what t writes to
	device   uint64           // other file systems are left out
	links    map[inode]string // the first name of a file that has several
	notice   func(text string)
	size     int64
	limit    int64
	room     func(int64) error
	progress func(want, done int64)
}

type inode struct{ device, number uint64 }

// writeTree writes the folder root as a tar archive into to.
func writeTree(ctx context.Context, s *image.Store, root, to *os.File, o ImportOptions, progress func(want, done int64)) error {
	b := bufio.NewWriterSize(to, 256<<10)
	w := &tree{ctx: ctx, t: tar.NewWriter(b), b: b, links: map[inode]string{}, notice: o.Notice, limit: o.Build.Limits.Size, room: s.Room, progress: progress}
	if w.notice == nil {
		w.notice = func(string) {}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil { //nolint:gosec // a file descriptor
		return err
	}
	w.device = uint64(st.Dev) //nolint:unconvert // 32 bits elsewhere
	hdr, err := w.header("./", fmt.Sprintf("/proc/self/fd/%d/.", root.Fd()), &st)
	if err != nil {
		return err
	}
	if err := w.t.WriteHeader(hdr); err != nil {
		return err
	}
	if err := w.folder(root, ""); err != nil {
		return err
	}
	return errors.Join(w.t.Close(), b.Flush())
}

// folder writes what is in a folder.
func (w *tree) folder(dir *os.File, prefix string) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if err := w.entry(dir, n, prefix+n); err != nil {
			return fmt.Errorf("%s: %w", quote(prefix+n), err)
		}
	}
	return nil
}

// entry writes what has a name in a folder, with all that is below it.
func (w *tree) entry(dir *os.File, name, full string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil { //nolint:gosec // a file descriptor
		return err
	}
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFSOCK:
		w.notice(quote(full) + " is left out: it is a socket")
		return nil
	case strings.HasPrefix(name, ".wh."):
		return errors.New("its name would be read as a whiteout (image-spec, layer.md); an image cannot have it")
	case kind != unix.S_IFDIR && uint64(st.Dev) != w.device: //nolint:unconvert // 32 bits elsewhere
		w.notice(quote(full) + " is left out: it is on another file system")
		return nil
	}
	f, err := open(dir, name, kind, &st)
	if err != nil {
		return err
	}
	if f != nil {
		defer f.Close() //nolint:errcheck // read only
	}
	hdr, err := w.header(full, fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name), &st)
	if err != nil {
		return err
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // 32 bits elsewhere
		if first, ok := w.links[id]; ok {
			// The attributes are the first name's.
			return w.t.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: full, Linkname: first, Mode: hdr.Mode, Uid: hdr.Uid, Gid: hdr.Gid, ModTime: hdr.ModTime, Format: tar.FormatPAX})
		}
		w.links[id] = full
	}
	switch kind {
	case unix.S_IFLNK:
		return w.symlink(dir, name, hdr)
	case unix.S_IFREG:
		return w.file(f, hdr)
	case unix.S_IFDIR:
		return w.below(f, full, hdr, &st)
	}
	return w.t.WriteHeader(hdr)
}

// open opens what has content, and sees that it is what st was of. For everything else it gives nil.
func open(dir *os.File, name string, kind uint32, st *unix.Stat_t) (*os.File, error) {
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil, nil
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) //nolint:gosec // a file descriptor
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name) //nolint:gosec // a file descriptor
	was := *st
	if err := unix.Fstat(fd, st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if st.Ino != was.Ino || st.Dev != was.Dev || st.Mode&unix.S_IFMT != kind {
		return nil, errors.Join(errors.New("it was replaced while it was read"), f.Close())
	}
	return f, nil
}

// header describes what is at path, whose name in the image is name.
func (w *tree) header(name, path string, st *unix.Stat_t) (*tar.Header, error) {
	hdr := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX, // which has fractions of seconds, owners of 32 bits and attributes
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		hdr.Typeflag = tar.TypeDir
		if !strings.HasSuffix(name, "/") {
			hdr.Name += "/"
		}
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		hdr.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		hdr.Typeflag = tar.TypeBlock
	default:
		return nil, fmt.Errorf("it is of the unknown type %#o", st.Mode&unix.S_IFMT)
	}
	if hdr.Typeflag == tar.TypeChar || hdr.Typeflag == tar.TypeBlock {
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev))) //nolint:unconvert // 32 bits elsewhere
	}
	var err error
	hdr.PAXRecords, err = xattrs(path, st.Mode&unix.S_IFMT)
	return hdr, err
}

// xattrs are the extended attributes that an image keeps.
func xattrs(path string, kind uint32) (map[string]string, error) {
	list := make([]byte, math.MaxUint16+1) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, list)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list its extended attributes: %w", err)
	}
	records := map[string]string{}
	value := make([]byte, math.MaxUint16+1) // XATTR_SIZE_MAX
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if !layers.KeepXattr(kind, name) {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read its extended attribute %s: %w", quote(name), err)
		}
		if strings.Contains(name, "=") {
			return nil, fmt.Errorf("the name of its extended attribute %s has a \"=\", which no archive can have", quote(name))
		}
		records["SCHILY.xattr."+name] = string(value[:n])
	}
	return records, nil
}

func (w *tree) symlink(dir *os.File, name string, hdr *tar.Header) error {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, target) //nolint:gosec // a file descriptor
	if err != nil {
		return err
	}
	hdr.Linkname = string(target[:n])
	return w.t.WriteHeader(hdr)
}

func (w *tree) file(f *os.File, hdr *tar.Header) error {
	if w.size += hdr.Size; w.size > w.limit || w.size < 0 {
		return &layers.LimitError{Limit: "Size", Max: w.limit, What: "the files of the folder have more bytes than they may"}
	}
	list, err := w.segments(f, hdr.Size)
	if err != nil {
		return err
	}
	if list != nil {
		return w.sparse(f, hdr, list)
	}
	if err := w.room(hdr.Size); err != nil {
		return err
	}
	if err := w.t.WriteHeader(hdr); err != nil {
		return err
	}
	n, err := io.Copy(w.t, &coming{reader{w.ctx, io.NewSectionReader(f, 0, hdr.Size)}, w.progress})
	if err == nil && n != hdr.Size {
		err = errors.New("it became shorter while it was read")
	}
	return err
}

// below writes a folder and what is in it. Of one that another file system is mounted on, that file system's root is all.
func (w *tree) below(f *os.File, full string, hdr *tar.Header, st *unix.Stat_t) error {
	if err := w.t.WriteHeader(hdr); err != nil {
		return err
	}
	if uint64(st.Dev) != w.device { //nolint:unconvert // 32 bits elsewhere
		w.notice("what is below " + quote(full) + " is left out: it is on another file system")
		return nil
	}
	return w.folder(f, full+"/")
}
