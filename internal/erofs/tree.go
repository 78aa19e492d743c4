package erofs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// node is an inode that has its place in the tree.
type node struct {
	inode  *Inode
	name   string // the first of its names
	parent *node
	links  uint32
	// entries are a folder's, sorted, with "." and "..".
	entries []entry

	xattrs *xattrBody
	// What layout.go finds out.
	layout uint16
	size   int64
	union  uint32 // i_u: a block, a device number or the form of the chunks
	offset int64  // in the inode area
}

type entry struct {
	name string
	node *node
}

// number is the node's number on disk.
func (n *node) number() uint64 {
	return uint64(n.offset / slotSize) //nolint:gosec // not negative
}

// wrong is an error that names the path.
func (n *node) wrong(err error) error {
	var names []string
	for ; n.parent != n; n = n.parent {
		names = append(names, n.name)
	}
	slices.Reverse(names)
	return fmt.Errorf("%q: %w", "/"+strings.Join(names, "/"), err)
}

// walk gives every inode once, a folder before what is in it and the entries of a folder together: what ls -l asks for lies side
// by side.
func walk(root *Inode, blocks uint64) ([]*node, error) {
	if root == nil || root.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, errors.New(`"/": it is no folder`)
	}
	first := &node{inode: root}
	first.parent = first
	seen := map[*Inode]*node{root: first}
	nodes := []*node{first}
	for at := 0; at < len(nodes); at++ {
		n := nodes[at]
		if err := check(n.inode, blocks); err != nil {
			return nil, n.wrong(err)
		}
		if n.inode.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		n.links += 2
		n.entries = make([]entry, 0, len(n.inode.Children)+2)
		n.entries = append(n.entries, entry{".", n}, entry{"..", n.parent})
		for _, name := range slices.Sorted(maps.Keys(n.inode.Children)) {
			child := n.inode.Children[name]
			c, err := link(n, name, child, seen[child])
			if err != nil {
				return nil, err
			}
			if seen[child] == nil {
				seen[child] = c
				nodes = append(nodes, c)
			}
			n.entries = append(n.entries, entry{name, c})
		}
		// The two first are not the smallest: "-" is before ".".
		slices.SortFunc(n.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	}
	return nodes, nil
}

// link makes a name of a child, which has been seen at the node known or nowhere.
func link(parent *node, name string, child *Inode, known *node) (*node, error) {
	c := &node{inode: child, name: name, parent: parent}
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return nil, parent.wrong(fmt.Errorf("%q cannot be the name of an entry", name))
	case len(name) > maxName:
		return nil, parent.wrong(fmt.Errorf("the name %.40q… has %d bytes; %d are the most", name, len(name), maxName))
	case child == nil:
		return nil, c.wrong(errors.New("it has no inode"))
	case child.Mode&unix.S_IFMT == unix.S_IFDIR && known != nil:
		return nil, c.wrong(fmt.Errorf("a folder has one name, and this one has another: %w", known.wrong(errors.New("the same folder"))))
	case child.Mode&unix.S_IFMT == unix.S_IFDIR:
		parent.links++
		return c, nil
	case known != nil:
		known.links++
		return known, nil
	}
	c.links++
	return c, nil
}

// check says what of an inode cannot be stored, apart from its attributes.
func check(i *Inode, blocks uint64) error {
	kind := i.Mode & unix.S_IFMT
	if _, ok := fileType(i.Mode); !ok || i.Mode >= 1<<16 {
		return fmt.Errorf("mode %#o is of no type of file", i.Mode)
	}
	if i.MtimeNsec >= 1e9 {
		return fmt.Errorf("its time has %d nanoseconds", i.MtimeNsec)
	}
	switch {
	case i.UID == noID || i.GID == noID:
		return fmt.Errorf("its owner is %d:%d; %d is nobody's number (credentials of the kernel, INVALID_UID)", i.UID, i.GID, uint32(noID))
	case kind != unix.S_IFDIR && len(i.Children) > 0:
		return errors.New("it has entries and is no folder")
	case kind != unix.S_IFLNK && i.Target != "":
		return errors.New("it has a target and is no symbolic link")
	case kind != unix.S_IFREG && i.Data.Size != 0:
		return errors.New("it has data and is no regular file")
	}
	switch kind {
	case unix.S_IFLNK:
		if i.Target == "" || len(i.Target) > maxTarget || strings.Contains(i.Target, "\x00") {
			return fmt.Errorf("the target of a symbolic link has no NUL and 1 to %d bytes; this has %d", maxTarget, len(i.Target))
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		_, err := encodeDevice(i.Rdev)
		return err
	case unix.S_IFREG:
		return i.Data.check(blocks)
	}
	return nil
}

// check refuses data that lie outside the image, as those of another Writer may.
func (d *Data) check(blocks uint64) error {
	if err := checkSize(d.Size); err != nil {
		return err
	}
	for _, r := range d.extents() {
		if r.block == 0 || r.end(d.Size, d.chunkBits) > blocks {
			return errors.New("its data are not of this image")
		}
	}
	return nil
}
