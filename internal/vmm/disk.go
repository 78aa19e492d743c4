package vmm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"brig/internal/erofs"

	"golang.org/x/sys/unix"
)

// folderImage writes a folder of the host as an EROFS image into to. Everything belongs to root inside: what is carried in
// are the host's files, not its users.
func folderImage(dir string, to *os.File) error {
	w, err := erofs.NewWriter(to)
	if err != nil {
		return err
	}
	root, err := tree(w, dir)
	if err != nil {
		return fmt.Errorf("carry %s into the machine: %w", dir, err)
	}
	_, err = w.Close(root)
	return err
}

func tree(w *erofs.Writer, name string) (*erofs.Inode, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	n := &erofs.Inode{Mode: st.Mode, Mtime: int64(st.Mtim.Sec), MtimeNsec: uint32(st.Mtim.Nsec)} //nolint:gosec,unconvert // below 10⁹, and 32 bits on arm
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.Children, err = children(w, name)
	case unix.S_IFLNK:
		n.Target, err = os.Readlink(name)
	case unix.S_IFREG:
		n.Data, err = content(w, name)
	default:
		err = errors.New(name + " is neither a file, a folder nor a symbolic link")
	}
	return n, err
}

func children(w *erofs.Writer, dir string) (map[string]*erofs.Inode, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*erofs.Inode, len(entries))
	for _, e := range entries {
		if out[e.Name()], err = tree(w, filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func content(w *erofs.Writer, name string) (erofs.Data, error) {
	f, err := os.Open(name)
	if err != nil {
		return erofs.Data{}, err
	}
	defer f.Close()
	return w.Copy(f)
}
