package sandbox

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// keyFile holds the key that a user's checkpoints are sealed with.
const keyFile = "checkpoint.key"

const keySize = 32

// defaultKeys is the folder of the key where no other state folder was asked for.
func defaultKeys() string {
	if os.Geteuid() == 0 {
		return "/var/lib/brig"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "brig")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local/share/brig")
	}
	return ""
}

// key reads the key, and makes it where there is none and one is to be made.
func (s *Store) key(create bool) ([]byte, error) {
	dir := s.keys
	if dir == "" {
		dir = s.root
	}
	path := filepath.Join(dir, keyFile)
	f, err := openOwn(unix.AT_FDCWD, path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if !create {
			return nil, fmt.Errorf("no checkpoint has been made with this state folder: there is no %s to hold its seal against", path)
		}
		if err := makeKey(dir, path); err != nil {
			return nil, fmt.Errorf("make the key of checkpoints: %w", err)
		}
		f, err = openOwn(unix.AT_FDCWD, path, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("the key of checkpoints: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	key, err := io.ReadAll(io.LimitReader(f, keySize+1))
	if err == nil && len(key) != keySize {
		err = fmt.Errorf("%s has not %d bytes", path, keySize)
	}
	if err != nil {
		return nil, fmt.Errorf("the key of checkpoints: %w", err)
	}
	return key, nil
}

// makeKey puts a new key in place, whole or not at all. Where another process is faster, its key is the one.
func makeKey(dir, path string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // it never fails
	f, err := os.CreateTemp(dir, "."+keyFile+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(key)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		if err = os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// write puts the manifest in place: a line of JSON, and one with its seal.
func (m *manifest) write(folder *os.File, key []byte) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := unnamed(folder)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // synced
	if _, err := fmt.Fprintf(f, "%s\n%s\n", body, seal(body, key)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return errors.Join(name(f, folder, manifestFile), folder.Sync())
}

func seal(body, key []byte) string {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// unseal gives what is sealed.
func unseal(text, key []byte) ([]byte, error) {
	body, sum, ok := bytes.Cut(text, []byte("\n"))
	if sum = bytes.TrimSpace(sum); !ok || !hmac.Equal(sum, []byte(seal(body, key))) {
		return nil, errors.New("it was not written by you on this machine, or was changed since: its seal is broken, and the policy in it is not followed")
	}
	return body, nil
}
