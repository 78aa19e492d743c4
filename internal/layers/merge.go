package layers

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"brig/internal/erofs"
)

// DevicePolicy says what becomes of character and block devices.
type DevicePolicy int

const (
	// KeepDevices keeps them as nodes. Images are mounted nodev, so that nothing can be opened through them.
	KeepDevices DevicePolicy = iota
	// RefuseDevices refuses a layer that has one.
	RefuseDevices
)

// Merger merges layers into one tree. Once Apply has failed, it is of no use any more.
type Merger struct {
	w       *erofs.Writer
	limits  Limits
	devices DevicePolicy
	used    used
	// unpacked is of all layers so far.
	unpacked unpacked

	root *erofs.Inode
	// names counts the names of regular files that have more than one.
	names map[*erofs.Inode]int
	// touched are the places this layer has put something into, with all folders above them: what whiteouts leave alone. Nil
	// in the lowest layer, where there is nothing for a whiteout to hide.
	touched map[place]struct{}
	// swept are the folders that have nothing of lower layers left, because this layer has hidden it.
	swept map[*erofs.Inode]struct{}

	way   []step   // the folders from the root to the entry at hand
	stack []step   // of resolve, kept for its memory
	todo  []string // of resolve, kept for its memory
}

// place is where something is: a name in a folder. An inode would not do, since a hard link to a lower layer's file is this
// layer's and the file's other name is not.
type place struct {
	dir  *erofs.Inode
	name string
}

// NewMerger gives a merger whose tree is an empty root folder: mode 0755, owner 0:0, time 0, until a layer has an entry for it.
// Data of files goes to w.
func NewMerger(w *erofs.Writer, l Limits, devices DevicePolicy) *Merger {
	return &Merger{w: w, limits: l, devices: devices, root: newFolder(), names: map[*erofs.Inode]int{}}
}

// newFolder is a folder that no entry has described.
func newFolder() *erofs.Inode { return &erofs.Inode{Mode: unix.S_IFDIR | 0o755} }

// Root is the tree of all layers applied, for [erofs.Writer.Close].
func (m *Merger) Root() *erofs.Inode { return m.root }

// Apply puts one layer, an uncompressed tar archive, on top of the tree. It reads r to its end, past the end of the archive, so
// that a digest of what was read is one of the whole layer. What is wrong with an entry is an [*EntryError].
func (m *Merger) Apply(r io.Reader) error {
	m.touched, m.swept = nil, nil
	if len(m.root.Children) > 0 {
		m.touched, m.swept = map[place]struct{}{}, map[*erofs.Inode]struct{}{}
	}
	buffered := bufio.NewReaderSize(r, 256<<10)
	archive := tar.NewReader(buffered)
	last := ""
	for {
		hdr, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if last == "" && errors.Is(err, tar.ErrHeader) {
			return errors.New("it is no tar archive")
		}
		// Insecure in the sense of archive/tar are names that we see to ourselves.
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return fmt.Errorf("read the layer's tar archive after %s: %w", after(last), err)
		}
		if err := m.entry(hdr, archive); err != nil {
			return named(hdr.Name, err)
		}
		last = hdr.Name
	}
	if _, err := io.Copy(io.Discard, buffered); err != nil {
		return fmt.Errorf("read the layer to its end, past its tar archive: %w", err)
	}
	return nil
}

// after says how far an archive was read.
func after(last string) string {
	if last == "" {
		return "the beginning"
	}
	return "entry " + quote(last)
}

// entry merges one entry, whose data, if it is a regular file, is in data.
func (m *Merger) entry(hdr *tar.Header, data io.Reader) error {
	// Defaults for later entries of the archive, such as git archive's comment: no engine heeds them.
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	parts, err := clean(hdr.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return m.rootEntry(hdr)
	}
	parents, name := parts[:len(parts)-1], parts[len(parts)-1]
	if hidden, err := markers(parents, name); hidden || err != nil {
		return err
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return m.whiteout(parents, name)
	}
	dir, err := m.makeParents(parents)
	if err != nil {
		return err
	}
	// A name in memory is a copy: a part of the archive's whole path would keep all of it.
	name = strings.Clone(name)
	if err := m.takeEntry(len(name)); err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeDir {
		err = m.folder(dir, name, hdr)
	} else {
		m.remove(dir, name)
		err = m.add(dir, name, hdr, data)
	}
	if err != nil {
		return err
	}
	m.touch(name)
	return nil
}

// rootEntry gives the root folder its attributes.
func (m *Merger) rootEntry(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return refuse("the root of the image can only be a folder")
	}
	if err := m.takeEntry(0); err != nil {
		return err
	}
	return m.describe(m.root, unix.S_IFDIR, hdr)
}

// folder makes the folder, or gives the one that is there its new attributes.
func (m *Merger) folder(dir *erofs.Inode, name string, hdr *tar.Header) error {
	node := dir.Children[name]
	if node == nil || !isFolder(node) {
		m.remove(dir, name)
		node = newFolder()
		put(dir, name, node)
	}
	return m.describe(node, unix.S_IFDIR, hdr)
}

// add puts what is no folder into a place that is free.
func (m *Merger) add(dir *erofs.Inode, name string, hdr *tar.Header, data io.Reader) error {
	if hdr.Typeflag == tar.TypeLink {
		node, err := m.linked(hdr.Linkname)
		if err != nil {
			return err
		}
		if isRegular(node) {
			m.names[node] = max(m.names[node], 1) + 1
		}
		put(dir, name, node)
		return nil
	}
	node := &erofs.Inode{}
	var err error
	switch hdr.Typeflag {
	// Type S is a file with holes in GNU tar's old form; holes in PAX's form are in type 0.
	case tar.TypeReg, tar.TypeGNUSparse:
		if err = m.describe(node, unix.S_IFREG, hdr); err == nil {
			err = m.copy(node, hdr.Size, data)
		}
	case tar.TypeSymlink:
		err = m.symlink(node, hdr)
	case tar.TypeChar:
		err = m.device(node, unix.S_IFCHR, hdr)
	case tar.TypeBlock:
		err = m.device(node, unix.S_IFBLK, hdr)
	case tar.TypeFifo:
		err = m.describe(node, unix.S_IFIFO, hdr)
	default:
		err = refuse("type %q is none that an image's layer can have", hdr.Typeflag)
	}
	if err != nil {
		return err
	}
	put(dir, name, node)
	return nil
}

// copy brings a file's bytes into the image.
func (m *Merger) copy(node *erofs.Inode, size int64, data io.Reader) error {
	if err := m.takeSize(size); err != nil {
		return err
	}
	if size == 0 {
		return nil
	}
	d, err := m.w.CopySize(data, size)
	if err != nil {
		return fmt.Errorf("copy its data into the image: %w", err)
	}
	node.Data = d
	return nil
}

// linked finds what a hard link leads to.
func (m *Merger) linked(target string) (*erofs.Inode, error) {
	parts, err := clean(target)
	if err != nil {
		return nil, refuse("is a hard link to %s: %w", quote(target), err)
	}
	if len(parts) == 0 {
		return nil, refuse("is a hard link to the root")
	}
	steps, err := m.resolve(parts[:len(parts)-1])
	if err != nil {
		return nil, refuse("is a hard link to %s: %w", quote(target), err)
	}
	var node *erofs.Inode
	if dir := steps[len(steps)-1].at; dir != nil {
		node = dir.Children[parts[len(parts)-1]]
	}
	switch {
	case node == nil:
		return nil, refuse("is a hard link to %s, which is not there before it", quote(target))
	case isFolder(node):
		return nil, refuse("is a hard link to %s, which is a folder", quote(target))
	}
	return node, nil
}

// put gives node a name.
func put(dir *erofs.Inode, name string, node *erofs.Inode) {
	if dir.Children == nil {
		dir.Children = map[string]*erofs.Inode{}
	}
	dir.Children[name] = node
}

// remove takes a name away, with everything below it, and gives data back to the disk that has no name any more.
func (m *Merger) remove(dir *erofs.Inode, name string) {
	node := dir.Children[name]
	if node == nil {
		return
	}
	delete(dir.Children, name)
	switch {
	case isFolder(node):
		for child := range node.Children {
			m.remove(node, child)
		}
	case isRegular(node):
		if n := m.names[node]; n > 1 {
			m.names[node] = n - 1
			return
		}
		delete(m.names, node)
		m.w.Discard(node.Data)
	}
}

func isFolder(n *erofs.Inode) bool  { return n.Mode&unix.S_IFMT == unix.S_IFDIR }
func isRegular(n *erofs.Inode) bool { return n.Mode&unix.S_IFMT == unix.S_IFREG }
func isSymlink(n *erofs.Inode) bool { return n.Mode&unix.S_IFMT == unix.S_IFLNK }
