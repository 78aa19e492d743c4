package erofs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// xattrNamespaces are the prefixes that have a number; a name with another one cannot be stored. What is left of the name of
// an ACL is nothing.
var xattrNamespaces = []struct {
	prefix string
	index  byte
	whole  bool
}{
	{"user.", 1, false},
	{"system.posix_acl_access", 2, true},
	{"system.posix_acl_default", 3, true},
	{"trusted.", 4, false},
	{"security.", 6, false},
}

// splitXattr gives the number of the namespace, and the rest of the name.
func splitXattr(name string) (byte, string, error) {
	if len(name) > maxName || strings.Contains(name, "\x00") {
		return 0, "", fmt.Errorf("extended attribute %q: a name has no NUL and up to %d bytes", name, maxName)
	}
	for _, n := range xattrNamespaces {
		if n.whole && name == n.prefix {
			return n.index, "", nil
		}
		if rest, ok := strings.CutPrefix(name, n.prefix); ok && !n.whole && rest != "" {
			return n.index, rest, nil
		}
	}
	return 0, "", fmt.Errorf("extended attribute %q: EROFS has user, trusted, security and POSIX ACLs", name)
}

// xattrBody is what an inode has of extended attributes: some are in the shared area, by their numbers, the others follow.
type xattrBody struct {
	shared []uint32
	inline []string
	size   int64
}

// count gives the i_xattr_icount of the inode.
func (b *xattrBody) count() uint16 {
	if b == nil {
		return 0
	}
	return uint16((b.size-xattrHeaderSize)/4 + 1) //nolint:gosec // checked
}

func (b *xattrBody) encode() []byte {
	out := make([]byte, xattrHeaderSize, b.size)
	out[4] = byte(len(b.shared))
	for _, id := range b.shared {
		out = le.AppendUint32(out, id)
	}
	for _, e := range b.inline {
		out = append(out, e...)
	}
	return out
}

// encodeXattrs gives the entries of an inode as they are on disk, sorted by name.
func encodeXattrs(attrs map[string]string) ([]string, error) {
	entries := make([]string, 0, len(attrs))
	list := 0
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		value := attrs[name]
		index, rest, err := splitXattr(name)
		if err == nil && len(value) > maxXattrValue {
			err = fmt.Errorf("extended attribute %q: its %d bytes are more than EROFS can hold, %d", name, len(value), maxXattrValue)
		}
		if err != nil {
			return nil, err
		}
		if list += len(name) + 1; list > maxXattrList {
			return nil, fmt.Errorf("the names of its extended attributes are more than listxattr(2) can tell, %d bytes", maxXattrList)
		}
		e := make([]byte, 0, align(int64(xattrEntrySize+len(rest)+len(value)), 4))
		e = append(e, byte(len(rest)), index)
		e = le.AppendUint16(e, uint16(len(value))) //nolint:gosec // checked
		e = append(append(e, rest...), value...)
		entries = append(entries, string(e[:cap(e)]))
	}
	return entries, nil
}

// shareXattrs gives every inode its attributes, and what the shared area holds: what several inodes have and is longer than the four
// bytes of its number, so that it pays.
func shareXattrs(nodes []*node) ([]byte, error) {
	entries := make(map[*node][]string)
	uses := make(map[string]int64)
	for _, n := range nodes {
		if len(n.inode.Xattrs) == 0 {
			continue
		}
		list, err := encodeXattrs(n.inode.Xattrs)
		if err != nil {
			return nil, n.wrong(err)
		}
		entries[n] = list
		for _, e := range list {
			uses[e]++
		}
	}
	var area []byte
	ids := make(map[string]uint32)
	for _, n := range nodes {
		list, ok := entries[n]
		if !ok {
			continue
		}
		b := &xattrBody{size: xattrHeaderSize}
		for _, e := range list {
			size := int64(len(e))
			if pays := uses[e]*size > size+4*uses[e]; !pays || len(b.shared) == maxShared {
				b.inline = append(b.inline, e)
				b.size += size
				continue
			}
			id, ok := ids[e]
			if !ok {
				id = uint32(len(area) / 4) //nolint:gosec // less than memory
				ids[e] = id
				area = append(area, e...)
			}
			b.shared = append(b.shared, id)
			b.size += 4
		}
		if b.size > maxXattrBody {
			return nil, n.wrong(fmt.Errorf("%d bytes of extended attributes are more than EROFS can hold, %d", b.size, maxXattrBody))
		}
		n.xattrs = b
	}
	return area, nil
}
