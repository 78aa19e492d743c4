package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"brig/internal/fault"

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
	s := &Store{mounts: mountDir}
	if s.dir, err = trodden(dir); err != nil {
		return nil, err
	}
	st, err := s.check()
	if err != nil {
		return nil, err
	}
	if dir != machineDir {
		s.mounts = mountsOf(st)
	}
	return s, nil
}

// mountsOf is where the images of a store are mounted that is not the machine's. Another store may have another file for the same
// manifest, so they are apart. The name is from what the folder is, not from its path: a store that was moved keeps its mounts, and one that
// was put in its place has none.
func mountsOf(st *unix.Stat_t) string {
	return mountDir + "/of-" + strconv.FormatUint(uint64(st.Dev), 16) + "-" + strconv.FormatUint(st.Ino, 16) //nolint:unconvert // 32 bits elsewhere
}

// folders are those of a store.
var folders = []string{"blobs", "blobs/sha256", "refs", "attached", "roots", "tmp", "locks"}

// check makes what is missing of the folders, and refuses a store that somebody else could write to: who owns the store
// owns what runs from it.
func (s *Store) check() (*unix.Stat_t, error) {
	var st, sub unix.Stat_t
	err := unix.Stat(s.dir, &st)
	if errors.Is(err, unix.ENOENT) {
		if err = os.MkdirAll(s.dir, 0o700); err == nil {
			err = unix.Stat(s.dir, &st)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the store of images %s: %w", s.dir, s.full(err))
	}
	if err := ours(s.dir, &st); err != nil {
		return nil, err
	}
	for _, name := range folders {
		err := unix.Lstat(s.dir+"/"+name, &sub)
		if errors.Is(err, unix.ENOENT) {
			if err = s.makeFolders(); err == nil {
				err = unix.Lstat(s.dir+"/"+name, &sub)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("open the store of images: %w", err)
		}
		if err := ours(s.dir+"/"+name, &sub); err != nil {
			return nil, err
		}
	}
	return &st, nil
}

func ours(dir string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%s, of the store of images, is no folder", dir)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s, of the store of images, belongs to user %d with mode %#o; it must be yours, and nobody else may write it", dir, st.Uid, st.Mode&0o7777)
	}
	return nil
}

// makeFolders makes a store. The locks that removing things needs are made with it: on a full disk there may be no room for them.
func (s *Store) makeFolders() error {
	for _, name := range folders {
		if err := os.Mkdir(s.path(name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return s.full(err)
		}
		fault.Point("folder made")
	}
	for _, name := range []string{"store", "refs"} {
		l, err := s.acquire(name, unix.LOCK_SH)
		if err != nil {
			return err
		}
		l.release()
	}
	return nil
}

// trodden gives the way to root's store without links, each folder of which nobody else can put another in the place of: what is checked of
// the store and what is used then is the same. $BRIG_STORE may be another person's word, by sudo. Users may keep theirs as they
// like.
func trodden(dir string) (string, error) {
	if os.Geteuid() != 0 {
		return dir, nil
	}
	there := dir
	for !exists(there) {
		there = filepath.Dir(there)
	}
	resolved, err := filepath.EvalSymlinks(there)
	if err != nil {
		return "", fmt.Errorf("open the store of images: %w", err)
	}
	for up := resolved; ; up = filepath.Dir(up) {
		var st unix.Stat_t
		if err := unix.Lstat(up, &st); err != nil {
			return "", fmt.Errorf("open the store of images: %s: %w", up, err)
		}
		if st.Uid != 0 || st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
			return "", fmt.Errorf("the store of images %s is in %s, which belongs to user %d with mode %#o: "+
				"it must be root's, and nobody else may write it; another one is given with BRIG_STORE or --store", dir, up, st.Uid, st.Mode&0o7777)
		}
		if up == "/" {
			return filepath.Join(resolved, strings.TrimPrefix(dir, there)), nil
		}
	}
}

// Dir is the store's folder.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// TempDir is a folder in the store for what is half-made; what is left in it is removed by the next prune.
func (s *Store) TempDir() string { return s.path("tmp") }

// Room tells whether need bytes more find room on the store's disk, before they are fetched. What the file system reserves for root
// is left for everybody else. A quota may be narrower: then writing fails.
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
	l, err := acquire(s.path("locks", name), how, func(path string) (*os.File, error) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, unix.EROFS) {
			// What is in a store that cannot be written can be used all the same. flock(2) asks for no right to write.
			if have, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0); err == nil {
				return have, nil
			}
		}
		return f, err
	})
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock the store of images: %w", s.full(err))
	}
	return l, err
}

// acquire takes a lock on a file that may be removed and made anew by whoever holds its lock.
func acquire(path string, how int, open func(string) (*os.File, error)) (*lock, error) {
	for {
		f, err := open(path)
		if err != nil {
			return nil, err
		}
		if err := flock(f, how); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// If it was removed meanwhile, this is a file that nobody else sees.
		var mine, there unix.Stat_t
		err = unix.Fstat(int(f.Fd()), &mine) //nolint:gosec // a file descriptor
		if err == nil && unix.Lstat(path, &there) == nil && mine.Ino == there.Ino && mine.Dev == there.Dev {
			return &lock{f}, nil
		}
		if err = errors.Join(err, f.Close()); err != nil {
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
