package archive

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"brig/internal/fault"

	"golang.org/x/sys/unix"
)

// Output is where an archive goes: a path, which is a folder's when it ends in a slash, or an open file such as standard output.
type Output struct {
	Path string   // "" for File
	File *os.File // stays the caller's
}

// sink takes the files of an archive.
type sink interface {
	put(name string, size int64, r io.Reader) error
	// finish has the whole archive in its place, or, without keep, nothing.
	finish(keep bool) error
}

func (o Output) create() (sink, error) {
	if o.Path == "" {
		return newTar(o.File, ""), nil
	}
	if strings.HasSuffix(o.Path, "/") {
		return newFolder(filepath.Clean(o.Path))
	}
	// What is there and is no file (a pipe, a device) is written to as it is.
	switch st, err := os.Stat(o.Path); {
	case err == nil && st.IsDir():
		return nil, fmt.Errorf("%s is a folder; with a slash at its end, an image layout is written there", o.Path)
	case err == nil && !st.Mode().IsRegular():
		f, err := os.OpenFile(o.Path, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		t := newTar(f, "")
		t.own = true
		return t, nil
	}
	f, err := pending(o.Path)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", o.Path, err)
	}
	fault.Point("save begun")
	t := newTar(f, o.Path)
	t.own = true
	return t, nil
}

// tarSink writes a tar archive whose bytes depend on nothing but what is put.
type tarSink struct {
	f     *os.File
	own   bool   // f is closed at the end
	final string // the name that f gets when it is whole; "" when it has its own
	b     *bufio.Writer
	t     *tar.Writer
	dirs  map[string]bool
}

func newTar(f *os.File, final string) *tarSink {
	b := bufio.NewWriterSize(f, 256<<10)
	return &tarSink{f: f, final: final, b: b, t: tar.NewWriter(b), dirs: map[string]bool{".": true}}
}

// epoch is the time of all that is saved.
var epoch = time.Unix(0, 0)

func (t *tarSink) put(name string, size int64, r io.Reader) error {
	if err := t.parents(path.Dir(name)); err != nil {
		return err
	}
	if err := t.t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: epoch}); err != nil {
		return err
	}
	n, err := io.Copy(t.t, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes, and %d were announced", name, n, size)
	}
	return err
}

func (t *tarSink) parents(dir string) error {
	if t.dirs[dir] {
		return nil
	}
	t.dirs[dir] = true
	if err := t.parents(path.Dir(dir)); err != nil {
		return err
	}
	return t.t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: epoch})
}

func (t *tarSink) finish(keep bool) error {
	var err error
	if keep {
		err = errors.Join(t.t.Close(), t.b.Flush())
	}
	if t.final != "" && keep && err == nil {
		err = t.f.Sync()
	}
	fault.Point("save written")
	if t.final != "" {
		err = errors.Join(err, settle(t.f, t.final, keep && err == nil))
	}
	if t.own {
		err = errors.Join(err, t.f.Close())
	}
	return err
}

// pending is a new file in the folder of final: one without a name, of which nothing is left whatever happens, where the file system
// has that (open(2), O_TMPFILE).
func pending(final string) (*os.File, error) {
	dir := filepath.Dir(final)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		if st, missing := os.Stat(dir); missing == nil && st.IsDir() {
			return os.CreateTemp(dir, "."+filepath.Base(final)+".")
		}
		return nil, fmt.Errorf("the folder %s: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), ""), nil //nolint:gosec // a file descriptor
}

// settle gives a pending file its final name, or takes it away.
func settle(f *os.File, final string, keep bool) error {
	name := f.Name()
	if name == "" {
		if !keep {
			return nil
		}
		// link(2) replaces nothing, so that there is another name on the way.
		name = filepath.Join(filepath.Dir(final), fmt.Sprintf(".%s.%d", filepath.Base(final), os.Getpid()))
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a save that was killed, and had our pid
			return fmt.Errorf("write %s: %w", final, err)
		}
		if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW); err != nil {
			return fmt.Errorf("write %s: %w", final, err)
		}
		fault.Point("save named")
	}
	if !keep {
		return os.Remove(name)
	}
	if err := os.Rename(name, final); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// folderSink writes into a folder beside the final one, which it becomes when it is whole.
type folderSink struct{ tmp, final string }

func newFolder(final string) (*folderSink, error) {
	// rename(2) puts a folder in the place of an empty one only.
	if list, err := os.ReadDir(final); err == nil && len(list) > 0 {
		return nil, fmt.Errorf("%s is not empty; images are saved into a folder that is new or empty", final)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(final), "."+filepath.Base(final)+".")
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", final, err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil { //nolint:gosec // as mkdir(1) makes it
		return nil, errors.Join(err, os.Remove(tmp))
	}
	return &folderSink{tmp, final}, nil
}

func (d *folderSink) put(name string, size int64, r io.Reader) error {
	at := filepath.Join(d.tmp, name)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil { //nolint:gosec // as mkdir(1) makes it
		return err
	}
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // the same
	if err != nil {
		return err
	}
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes, and %d were announced", name, n, size)
	}
	return errors.Join(err, f.Close())
}

func (d *folderSink) finish(keep bool) error {
	var err error
	if keep {
		if err = unix.Rename(d.tmp, d.final); err == nil { // os.Rename takes no folder for a target, empty or not
			return nil
		}
	}
	return errors.Join(err, os.RemoveAll(d.tmp))
}
