// Package walk tells a tree of files entry by entry, so that two trees can be compared by two programs: what a tool unpacked on the host, what
// Brig mounted, and what a sandbox sees of it.
package walk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Entry is all that a file is to a program: what stat(2), readlink(2), listxattr(2) and reading it give.
type Entry struct {
	Path  string            `json:"path"`
	Type  string            `json:"type"`
	Mode  string            `json:"mode"`
	UID   uint32            `json:"uid"`
	GID   uint32            `json:"gid"`
	Mtime string            `json:"mtime"`           // seconds.nanoseconds
	Size  int64             `json:"size"`            // of a file or a symlink
	Links uint64            `json:"links,omitempty"` // of anything but a folder
	First string            `json:"first,omitempty"` // the first name of a file that has several
	Rdev  string            `json:"rdev,omitempty"`
	To    string            `json:"to,omitempty"` // of a symlink
	Hash  string            `json:"hash,omitempty"`
	Xattr map[string]string `json:"xattr,omitempty"` // hexadecimal
}

// types are the words for S_IFMT.
var types = map[uint32]string{
	unix.S_IFREG: "file", unix.S_IFDIR: "folder", unix.S_IFLNK: "symlink", unix.S_IFCHR: "char", unix.S_IFBLK: "block", unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket",
}

// Walk tells the tree at root in the order of filepath.WalkDir. What skip names (by the path from root, with a leading slash) is left out with
// all that is below it: the mounts of a sandbox.
func Walk(root string, skip func(path string) bool, tell func(Entry) error) error {
	first := map[[2]uint64]*Entry{}
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path := "/" + strings.TrimPrefix(strings.TrimPrefix(name, root), "/")
		if path != "/" && skip != nil && skip(path) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		e, err := look(name, path, first)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		e.Path, e.First, e.To = text(e.Path), text(e.First), text(e.To)
		return tell(*e)
	})
}

// text is a name for JSON, which has no bytes that are no characters.
func text(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return strconv.Quote(name)
}

// look tells one entry. first has the first names of files that have several.
func look(name, path string, first map[[2]uint64]*Entry) (*Entry, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return nil, err
	}
	e := &Entry{
		Path: path, Type: types[st.Mode&unix.S_IFMT], Mode: fmt.Sprintf("%04o", st.Mode&0o7777), UID: st.Uid, GID: st.Gid,
		Mtime: fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec),
	}
	if e.Type != "folder" {
		e.Links = uint64(st.Nlink) //nolint:unconvert // 32 bits on other architectures
		if e.Links > 1 {
			at := [2]uint64{uint64(st.Dev), st.Ino} //nolint:unconvert // the same
			if first[at] == nil {
				first[at] = e
			}
			e.First = first[at].Path
		}
	}
	var err error
	switch e.Type {
	case "file":
		e.Size = st.Size
		if same := first[[2]uint64{uint64(st.Dev), st.Ino}]; same != nil && same.Hash != "" { //nolint:unconvert // the same
			e.Hash = same.Hash // of the same file
			break
		}
		e.Hash, err = hash(name)
	case "symlink":
		e.Size = st.Size
		e.To, err = os.Readlink(name)
	case "char", "block":
		e.Rdev = fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))) //nolint:unconvert // the same
	}
	if err == nil {
		e.Xattr, err = xattrs(name)
	}
	return e, err
}

func hash(name string) (string, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func xattrs(name string) (map[string]string, error) {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(name, list)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("llistxattr: %w", err)
	}
	all := map[string]string{}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for key := range bytes.SplitSeq(bytes.TrimSuffix(list[:n], []byte{0}), []byte{0}) {
		n, err := unix.Lgetxattr(name, string(key), value)
		if err != nil {
			return nil, fmt.Errorf("lgetxattr %s: %w", key, err)
		}
		all[string(key)] = hex.EncodeToString(value[:n])
	}
	return all, nil
}
