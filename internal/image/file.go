package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFile bounds a reference or a record.
const maxFile = 16 << 20

// readFile reads a small file of the store's own: JSON, and a last line with the digest of what is before it, so that a
// damaged one is noticed. fs.ErrNotExist when it is not there.
func readFile(path string, v any) error {
	f, err := os.Open(path) //nolint:gosec // the store's
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() > maxFile {
		return &CorruptError{path, "it is too large"}
	}
	data := make([]byte, st.Size())
	if _, err := f.ReadAt(data, 0); err != nil && st.Size() > 0 {
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
	f, err := os.CreateTemp(s.path("tmp"), "file-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(text)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	if durable {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the store's
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
