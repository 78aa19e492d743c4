package layers

import (
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/internal/erofs"
)

const (
	// maxLinks is how many symbolic links the way to a name may lead through: the kernel's MAXSYMLINKS (path_resolution(7)).
	maxLinks = 40
	// maxSteps is how many names those links may have together. Only a tree built to cost time has more.
	maxSteps = unix.PathMax
	// maxDepth is how many folders may lie in one another: what a path of PATH_MAX bytes can name.
	maxDepth = unix.PathMax / 2
)

// errNotFolder is a name below something that is no folder.
var errNotFolder = errors.New("is no folder")

// clean takes a path of an archive apart: no part is empty, "." or "..", and none is longer than a name can be.
func clean(name string) ([]string, error) {
	switch {
	case len(name) >= unix.PathMax:
		return nil, refuse("its name has %d bytes, and a path has at most %d", len(name), unix.PathMax-1)
	case strings.IndexByte(name, 0) >= 0:
		return nil, refuse("its name has a NUL byte")
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			if len(parts) == 0 {
				return nil, refuse("its name leads out of the image")
			}
			parts = parts[:len(parts)-1]
		case len(part) > unix.NAME_MAX:
			return nil, refuse("its name has a part of %d bytes, and a file name has at most %d", len(part), unix.NAME_MAX)
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// step is a folder on the way to a name. It need not be there yet: at is nil then.
type step struct {
	name string
	at   *erofs.Inode
}

// resolve walks from the root along parts and gives the folders passed, the root first. Symbolic links are followed inside the
// tree. What it gives is good until it is called again.
func (m *Merger) resolve(parts []string) ([]step, error) {
	stack := append(m.stack[:0], step{at: m.root})
	todo := append(m.todo[:0], parts...)
	slices.Reverse(todo)
	links := 0
	for steps := 0; len(todo) > 0; steps++ {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if steps > maxSteps {
			return nil, refuse("the way to it leads through too many symbolic links: %w", unix.ELOOP)
		}
		switch {
		case name == "" || name == ".":
			continue
		case name == "..":
			// As below a chroot: the root's parent is the root.
			stack = stack[:max(len(stack)-1, 1)]
			continue
		case len(name) > unix.NAME_MAX:
			return nil, refuse("the way to it leads through a link to a name of %d bytes: %w", len(name), unix.ENAMETOOLONG)
		}
		var next *erofs.Inode
		if top := stack[len(stack)-1].at; top != nil {
			next = top.Children[name]
		}
		switch {
		case next == nil || isFolder(next):
			stack = append(stack, step{name, next})
		case isSymlink(next):
			if links++; links > maxLinks {
				return nil, refuse("the way to it leads through too many symbolic links: %w", unix.ELOOP)
			}
			if strings.HasPrefix(next.Target, "/") {
				stack = stack[:1]
			}
			from := len(todo)
			todo = append(todo, strings.Split(next.Target, "/")...)
			if err := m.takeDetour(len(todo) - from); err != nil {
				return nil, err
			}
			slices.Reverse(todo[from:])
		default:
			return nil, refuse("%s, on the way to it, %w", quote(name), errNotFolder)
		}
	}
	m.stack, m.todo = stack, todo
	if len(stack) > maxDepth {
		return nil, refuse("it lies in %d folders, and a path has at most %d", len(stack), maxDepth)
	}
	return stack, nil
}

// makeParents resolves and makes what is missing. It leaves the way in m.stack, for touch.
func (m *Merger) makeParents(parts []string) (*erofs.Inode, error) {
	stack, err := m.resolve(parts)
	if err != nil {
		return nil, err
	}
	for i := 1; i < len(stack); i++ {
		if stack[i].at != nil {
			continue
		}
		name := strings.Clone(stack[i].name)
		if err := m.takeEntry(len(name)); err != nil {
			return nil, err
		}
		stack[i] = step{name, newFolder()}
		put(stack[i-1].at, name, stack[i].at)
	}
	m.way = append(m.way[:0], stack...)
	return stack[len(stack)-1].at, nil
}

// touch notes that this layer has something of that name in the folder that makeParents came to, and in all folders above.
func (m *Merger) touch(name string) {
	if m.touched == nil {
		return
	}
	for i := len(m.way) - 1; i >= 0; i-- {
		at := place{m.way[i].at, name}
		// Where this was noted, what lies above was, too.
		if _, ok := m.touched[at]; ok {
			return
		}
		m.touched[at] = struct{}{}
		name = m.way[i].name
	}
}
