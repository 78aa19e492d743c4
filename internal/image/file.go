package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"brig/internal/fault"

	"golang.org/x/sys/unix"
)

// maxFile bounds a reference or a record.
const maxFile = 16 << 20

// readFile reads a small file of the store's own: JSON, and a last line with the digest of what is before it, so that a
// damaged one is noticed. fs.ErrNotExist when it is not there.
func readFile(path string, v any) error {
	data, err := readRegular(path, maxFile)
	if err != nil {
		return err
	}
	body, sum, ok := cutLastLine(data)
	if !ok || string(DigestOf(body)) != string(sum) {
		return &CorruptError{path, "its checksum does not fit"}
	}
	if err := json.Unmarshal(body, v); err != nil {
		return &CorruptError{path, err.Error()}
	}
	return nil
}

func cutLastLine(data []byte) (body, last []byte, ok bool) {
	data, ok = bytes.CutSuffix(data, []byte("\n"))
	i := bytes.LastIndexByte(data, '\n')
	if !ok || i < 0 {
		return nil, nil, false
	}
	return data[:i+1], data[i+1:], true
}

// writeFile puts such a file in place, whole or not at all. durable: it survives a power cut, too.
func (s *Store) writeFile(path string, v any, durable bool) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	body = append(body, '\n')
	text := append(body, DigestOf(body)...)
	text = append(text, '\n')
	if len(text) > maxFile { // JSON can be six times what it was before it was read and written
		return fmt.Errorf("write %s: it would have %d bytes, and %d are the most: the image's configuration is too large", path, len(text), maxFile)
	}
	f, err := os.CreateTemp(s.path("tmp"), "file-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(text)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = place(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	if durable {
		return syncPath(filepath.Dir(path))
	}
	return nil
}

// openRegular opens a file of the store's for reading. What is no regular file is damage: a link leads anywhere, a pipe to nowhere.
func openRegular(path string) (*os.File, error) {
	fd, _, err := openFile(path)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), nil //nolint:gosec // a file descriptor
}

// openFile is openRegular with nothing that os.File adds: the start of a sandbox reads two small files.
func openFile(path string) (fd int, size int64, err error) {
	for {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO): // a link, or a socket
		return -1, 0, &CorruptError{path, "it is no regular file"}
	case err != nil:
		return -1, 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = &CorruptError{path, "it is no regular file"}
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, 0, err
	}
	return fd, st.Size, nil
}

// readRegular reads a small file.
func readRegular(path string, limit int64) ([]byte, error) {
	fd, size, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	if size > limit {
		return nil, &CorruptError{path, fmt.Sprintf("it has %d bytes, and a file of its kind has at most %d", size, limit)}
	}
	data := make([]byte, size)
	for at := 0; at < len(data); {
		n, err := unix.Pread(fd, data[at:], int64(at))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return nil, &CorruptError{path, "it has become shorter"}
		default:
			at += n
		}
	}
	return data, nil
}

// place gives a whole file its name, in the place of whatever has it.
func place(tmp, path string) error {
	err := os.Rename(tmp, path)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTEMPTY) {
		// A folder, made by hand. It is nothing, whatever is in it.
		if err = os.RemoveAll(path); err == nil {
			err = os.Rename(tmp, path)
		}
	}
	return err
}

// setAside takes a damaged file out of use, so that the next pull brings it again. It lies in tmp until the next prune. f, if not nil, is
// the file that was found to be damaged: another one that is there by now is let alone.
func (s *Store) setAside(path string, f *os.File) error {
	if f != nil {
		var mine, there unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &mine); err != nil { //nolint:gosec // a file descriptor
			return err
		}
		if err := unix.Lstat(path, &there); err != nil || mine.Ino != there.Ino || mine.Dev != there.Dev {
			return nil //nolint:nilerr // nothing is there, or something else
		}
	}
	to := s.path("tmp", "damaged-"+filepath.Base(filepath.Dir(path))+"-"+filepath.Base(path))
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	err := os.Rename(path, to)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EROFS) {
		return nil
	}
	fault.Point("set aside")
	return err
}

// persist has files, and the folders that name them, written to the disk. What is not there is passed over.
func persist(files, dirs []string) error {
	for _, list := range [][]string{files, dirs} {
		errs := make([]error, len(list))
		var all sync.WaitGroup
		for i, path := range list { // all at once: a file system has one journal for them
			all.Go(func() {
				if errs[i] = syncPath(path); errors.Is(errs[i], fs.ErrNotExist) {
					errs[i] = nil
				}
			})
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

func syncPath(path string) error {
	d, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// remove removes a file that may be gone already.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
