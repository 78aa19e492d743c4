package apparmor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// openCache opens the folder of compiled profiles. What lies in it is given to the kernel as it is, so nobody but its owner,
// who calls, may be able to put anything there; and a link in its place is not followed.
func openCache(dir string) (*os.Root, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of compiled profiles: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the folder of compiled profiles: %w", err)
	}
	var named unix.Stat_t
	if err := unix.Lstat(dir, &named); err != nil {
		return nil, fmt.Errorf("look at the folder of compiled profiles %s: %w", dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder of compiled profiles: %w", err)
	}
	info, err := root.Stat(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Ino != named.Ino || !owned(st.Uid, st.Mode) {
		return nil, errors.Join(fmt.Errorf("the folder of compiled profiles %s is a link, not yours, or may be written by others: remove it", dir), root.Close())
	}
	return root, nil
}

func owned(uid uint32, mode uint32) bool { return int(uid) == os.Geteuid() && mode&0o022 == 0 }

// openBlob opens a compiled profile, if it is a plain file that its owner alone can write.
func openBlob(dir *os.Root, name string) (*os.File, error) {
	named, err := dir.Lstat(name)
	if err != nil {
		return nil, err
	}
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	opened, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	st, ok := opened.Sys().(*syscall.Stat_t)
	if !ok || !os.SameFile(named, opened) || st.Mode&unix.S_IFMT != unix.S_IFREG || !owned(st.Uid, st.Mode) {
		return nil, errors.Join(fmt.Errorf("the compiled profile %s is no plain file that you alone can write: remove it", filepath.Join(dir.Name(), name)), f.Close())
	}
	return f, nil
}

// keepBlob compiles a profile and puts it into the folder, whole or not at all. Of two that do it at once the first counts:
// the other's file would have another lock.
func keepBlob(dir *os.Root, name string, compile func() ([]byte, error)) error {
	data, err := compile()
	if err != nil {
		return err
	}
	prune(dir)
	temporary := fmt.Sprintf(".%s.%d", name, os.Getpid())
	err = dir.WriteFile(temporary, data, 0o600)
	if err == nil {
		err = dir.Link(temporary, name)
	}
	if rerr := dir.Remove(temporary); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep the compiled profile: %w", err)
	}
	return nil
}

// prune removes the compiled profiles that were not used for longest, and that no sandbox holds.
func prune(dir *os.Root) {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return
	}
	var files []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), prefix) {
			files = append(files, info)
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int {
		return cmp.Or(b.ModTime().Compare(a.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	for _, old := range files[min(keep-1, len(files)):] {
		f, err := openBlob(dir, old.Name())
		if err != nil {
			continue
		}
		if flock(f, unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = dir.Remove(old.Name())
		}
		_ = f.Close()
	}
}
