package erofs

import "iter"

// blockGroups gives what fits into each block of a folder: the entries, then their names.
func blockGroups(entries []entry) iter.Seq[[]entry] {
	return func(yield func([]entry) bool) {
		size, from := 0, 0
		for i, e := range entries {
			if one := direntSize + len(e.name); size+one <= blockSize {
				size += one
				continue
			}
			if !yield(entries[from:i]) {
				return
			}
			size, from = direntSize+len(e.name), i
		}
		yield(entries[from:])
	}
}

func groupSize(group []entry) int {
	size := direntSize * len(group)
	for _, e := range group {
		size += len(e.name)
	}
	return size
}

// encodeGroup gives a block of a folder without the zeros behind it. The offset of the first name is also what tells the number of
// entries; the last name ends with the block, the folder or a zero.
func encodeGroup(group []entry) []byte {
	out := make([]byte, 0, groupSize(group))
	name := direntSize * len(group)
	for _, e := range group {
		kind, _ := fileType(e.node.inode.Mode)
		out = le.AppendUint64(out, e.node.number())
		out = le.AppendUint16(out, uint16(name)) //nolint:gosec // less than a block
		out = append(out, kind, 0)
		name += len(e.name)
	}
	for _, e := range group {
		out = append(out, e.name...)
	}
	return out
}
