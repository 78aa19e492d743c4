package plan

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"brig/internal/annotation"
	"brig/internal/launch"

	"golang.org/x/sys/unix"
)

// Overlay is an overlayfs as the root: the root folder below, which stays as it is, and above it a place to write that ends with
// the sandbox. The parent configures it, with the host's rights: in a user namespace overlayfs would have to keep its notes in
// "user." attributes, which a tmpfs has since Linux 6.6 only, and anybody inside could forge. The child makes the mount.
type Overlay struct {
	Reg launch.Reg // the configuration, as fsopen(2) gives it
	// Lower is the root folder, without the mounts in it. Its Reg is none: the child never has it.
	Lower Bind
	// Disk: the place is on disk, not in RAM.
	Disk bool
	// Size and Inodes cap the place; on disk the file system has its own number of inodes.
	Size, Inodes int64
	// Data are further options of the mount.
	Data []string
}

// What a small overlay has that only has to hold the places where mounts go.
const (
	placesSize   = 1 << 20
	placesInodes = 1024
)

// overlay makes the root such a mount, if the spec asks for it or nothing else will do: in a read-only file system no place can be
// made for a mount.
func (b *builder) overlay() (bool, error) {
	o := &Overlay{Size: placesSize, Inodes: placesInodes}
	kind := b.spec.Annotations[annotation.RootWritable]
	switch kind {
	case "":
		if !b.facts.Privileged || !b.missingPlace() {
			return false, nil
		}
		b.p.Step(launch.Root, fmt.Sprintf("%s, read-only, and over it the places that it lacks", b.spec.Root.Path))
	case "ram", "disk":
		size, err := strconv.ParseInt(b.spec.Annotations[annotation.RootWritableSize], 10, 64)
		if err != nil || size < placesSize {
			return false, &UnsupportedError{annotation.RootWritableSize, fmt.Sprintf("must be a number of bytes, at least %d", placesSize)}
		}
		if !b.facts.Privileged {
			return false, &UnsupportedError{annotation.RootWritable, "needs root; as another user make the root read-only and give a tmpfs for what is written"}
		}
		o.Disk, o.Size, o.Inodes = kind == "disk", size, max(placesInodes, size/bytesPerInode)
		b.p.Step(launch.Root, fmt.Sprintf("%s, and over it %d MiB to write (%s)", b.spec.Root.Path, size>>20, kind))
	default:
		return false, &UnsupportedError{annotation.RootWritable, fmt.Sprintf("unknown value %q; there are ram and disk", kind)}
	}
	o.Lower = Bind{Source: b.spec.Root.Path, OwnIDs: b.annotated(annotation.RootIDMap, "true")}
	if b.mountLabel != "" {
		o.Data = append(o.Data, "context="+b.mountLabel)
	}
	o.Reg = b.p.Input("overlay")
	b.plan.Overlay = o
	b.root = b.p.Fsmount("root", o.Reg, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	return true, nil
}

// bytesPerInode is the share of a tmpfs that the kernel gives one inode when nobody says (a page; tmpfs(5), "nr_inodes").
const bytesPerInode = 4096

// missingPlace tells whether a mount goes where the root folder has nothing, or the program begins there, and nothing can be made.
func (b *builder) missingPlace() bool {
	if b.facts.Attributes == nil || b.facts.Attributes(b.spec.Root.Path)&unix.MOUNT_ATTR_RDONLY == 0 {
		return false
	}
	var above []string
	missing := func(name string) bool {
		in := slices.ContainsFunc(above, func(dir string) bool { return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/") })
		return path.IsAbs(name) && !in && b.facts.InRoot(name) == Missing
	}
	for i := range b.spec.Mounts {
		name := path.Clean(b.spec.Mounts[i].Destination)
		if missing(name) {
			return true
		}
		above = append(above, name)
	}
	for i := range b.linux.Devices {
		if missing(path.Clean(b.linux.Devices[i].Path)) {
			return true
		}
	}
	cwd := b.beginning()
	return cwd != "" && missing(path.Clean(cwd))
}
