package layers

import (
	"errors"
	"strings"

	"brig/internal/erofs"
)

// The names that hide (image-spec, layer.md, "Whiteouts"), and the prefix of AUFS's own files, which layers of its time have.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	opaque         = ".wh..wh..opq"
)

// markers looks at the reserved names in an entry's path. Hidden is what is AUFS's own and not of the image.
func markers(parents []string, name string) (hidden bool, err error) {
	for _, part := range parents {
		switch {
		case strings.HasPrefix(part, whiteoutMeta):
			return true, nil
		case strings.HasPrefix(part, whiteoutPrefix):
			return false, refuse("it lies below %s, which is a whiteout", quote(part))
		}
	}
	switch {
	case strings.HasPrefix(name, whiteoutMeta):
		return name != opaque, nil
	case strings.HasPrefix(name, whiteoutPrefix):
		// The folder itself and its parent are not what a whiteout can mean.
		if of := name[len(whiteoutPrefix):]; of == "" || of == "." || of == ".." {
			return false, refuse("it is a whiteout of %s", quote(of))
		}
	}
	return false, nil
}

// whiteout hides what lower layers have. To hide what is not there is nothing.
func (m *Merger) whiteout(parents []string, name string) error {
	if err := m.takeEntry(0); err != nil {
		return err
	}
	steps, err := m.resolve(parents)
	if errors.Is(err, errNotFolder) {
		return nil
	}
	if err != nil {
		return err
	}
	dir := steps[len(steps)-1].at
	if dir == nil || m.touched == nil {
		return nil
	}
	if name != opaque {
		m.hide(dir, name[len(whiteoutPrefix):])
		return nil
	}
	m.sweep(dir)
	return nil
}

// sweep hides what lower layers have in a folder. Once is enough for a layer, and more would cost a stranger's layer of many
// whiteouts and many files the product of both.
func (m *Merger) sweep(dir *erofs.Inode) {
	if _, done := m.swept[dir]; done {
		return
	}
	m.swept[dir] = struct{}{}
	for child := range dir.Children {
		m.hide(dir, child)
	}
}

// hide removes a name and what is below it, except what this layer has put there.
func (m *Merger) hide(dir *erofs.Inode, name string) {
	node := dir.Children[name]
	if node == nil {
		return
	}
	if _, ours := m.touched[place{dir, name}]; !ours {
		m.remove(dir, name)
		return
	}
	if isFolder(node) {
		m.sweep(node)
	}
}
