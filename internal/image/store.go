package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Store is a folder of images. It may be opened by many processes at once.
type Store struct {
	dir string
	// mounts is where the images are mounted.
	mounts string
}

// Folders of root's store.
const (
	machineDir = "/var/lib/brig/images"
	mountDir   = "/run/brig/images"
)

// DefaultDir is root's store, or that of the user, by the XDG base directory specification.
func DefaultDir() (string, error) {
	if os.Geteuid() == 0 {
		return machineDir, nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "brig/images"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the folder for images: %w; set XDG_DATA_HOME", err)
	}
	return filepath.Join(home, ".local/share/brig/images"), nil
}

// Open opens the store in dir, DefaultDir when it is "", and makes it when there is none.
func Open(dir string) (*Store, error) {
	if dir == "" {
		var err error
		if dir, err = DefaultDir(); err != nil {
			return nil, err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, mounts: mountDir}
	if dir != machineDir {
		// Another store may have another file for the same manifest, so its mounts are apart.
		s.mounts = filepath.Join(mountDir, "of-"+DigestOf([]byte(dir)).Short())
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

// check makes what is missing of the folders, and refuses a store that somebody else could write to: who owns the store
// owns what runs from it.
func (s *Store) check() error {
	var st unix.Stat_t
	err := unix.Stat(s.dir+"/locks", &st)
	if errors.Is(err, unix.ENOENT) {
		for _, sub := range []string{"blobs/sha256", "refs", "roots", "tmp", "locks"} {
			if err := os.MkdirAll(s.path(sub), 0o700); err != nil {
				return fmt.Errorf("make the store of images: %w", err)
			}
		}
	} else if err != nil {
		return fmt.Errorf("open the store of images: %w", err)
	}
	if err := unix.Stat(s.dir, &st); err != nil {
		return fmt.Errorf("open the store of images %s: %w", s.dir, err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("the store of images %s belongs to user %d with mode %#o; it must be yours, and nobody else may write it", s.dir, st.Uid, st.Mode&0o7777)
	}
	return nil
}

// Dir is the store's folder.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// TempDir is a folder in the store for what is half-made; what is left in it is removed by the next prune.
func (s *Store) TempDir() string { return s.path("tmp") }

// Room tells whether need bytes more find room on the store's disk, before they are fetched. A margin is left for everybody else.
func (s *Store) Room(need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return fmt.Errorf("see how much room %s has: %w", s.dir, err)
	}
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:gosec,unconvert // a number of bytes; 32 bits elsewhere
	if need > 0 && need > free {
		return &SpaceError{s.dir, need, free}
	}
	return nil
}

// lock is a flock(2) of the store. It ends with the process, however that ends.
type lock struct{ f *os.File }

// acquire takes a lock by name: LOCK_SH or LOCK_EX, with LOCK_NB or waiting.
func (s *Store) acquire(name string, how int) (*lock, error) {
	for {
		f, err := os.OpenFile(s.path("locks", name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock the store of images: %w", err)
		}
		if err := flock(f, how); err != nil {
			_ = f.Close()
			return nil, err
		}
		// prune removes lock files, while it holds them: then this one is a file that nobody else sees.
		var mine, there unix.Stat_t
		err = unix.Fstat(int(f.Fd()), &mine) //nolint:gosec // a file descriptor
		if err == nil && unix.Stat(f.Name(), &there) == nil && mine.Ino == there.Ino {
			return &lock{f}, nil
		}
		_ = f.Close()
		if err != nil {
			return nil, err
		}
	}
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how) //nolint:gosec // a file descriptor
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (l *lock) release() {
	if l != nil {
		_ = l.f.Close()
	}
}

// Session is the time in which somebody adds to the store: nothing is pruned meanwhile.
type Session struct{ l *lock }

// Begin starts a session. It waits for a prune to end.
func (s *Store) Begin() (*Session, error) {
	l, err := s.acquire("store", unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	return &Session{l}, nil
}

// End ends it.
func (x *Session) End() { x.l.release() }

// exists tells whether a file is there.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
