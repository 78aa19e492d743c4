package layers

import (
	"archive/tar"
	"math"
	"strings"

	"golang.org/x/sys/unix"

	"brig/internal/erofs"
)

// describe gives node the attributes that its header has.
func (m *Merger) describe(node *erofs.Inode, format uint32, hdr *tar.Header) error {
	uid, err := owner("user", hdr.Uid)
	if err != nil {
		return err
	}
	gid, err := owner("group", hdr.Gid)
	if err != nil {
		return err
	}
	xattrs, size, err := xattrsOf(format, hdr.PAXRecords)
	if err != nil {
		return err
	}
	if err := m.takeMetadata(size + len(xattrs)*xattrCost); err != nil {
		return err
	}
	node.Mode = format | uint32(hdr.Mode)&0o7777 //nolint:gosec // twelve bits
	node.UID, node.GID = uid, gid
	node.Mtime, node.MtimeNsec = hdr.ModTime.Unix(), uint32(hdr.ModTime.Nanosecond()) //nolint:gosec // below a billion
	node.Xattrs = xattrs
	return nil
}

// owner is a number of a user or group. The last one, 2^32-1, is chown(2)'s word for "as it is".
func owner(whose string, id int) (uint32, error) {
	if id < 0 || int64(id) >= math.MaxUint32 {
		return 0, refuse("its %s is %d, and numbers of owners are from 0 to %d", whose, id, uint32(math.MaxUint32-1))
	}
	return uint32(id), nil
}

// symlink makes a symbolic link. Where it leads is not looked at: it is followed in the sandbox's root, or by resolve in the tree.
func (m *Merger) symlink(node *erofs.Inode, hdr *tar.Header) error {
	switch {
	case hdr.Linkname == "":
		return refuse("is a symbolic link to nothing")
	case len(hdr.Linkname) >= unix.PathMax:
		return refuse("is a symbolic link to a path of %d bytes, and a path has at most %d", len(hdr.Linkname), unix.PathMax-1)
	case strings.IndexByte(hdr.Linkname, 0) >= 0:
		return refuse("is a symbolic link to a path with a NUL byte")
	}
	if err := m.describe(node, unix.S_IFLNK, hdr); err != nil {
		return err
	}
	// Linux's symbolic links have no permissions of their own (symlink(7)).
	node.Mode = unix.S_IFLNK | 0o777
	node.Target = hdr.Linkname
	return m.takeMetadata(len(hdr.Linkname))
}

// device makes a device's node.
func (m *Merger) device(node *erofs.Inode, format uint32, hdr *tar.Header) error {
	if m.devices == RefuseDevices {
		return refuse("is a device, and devices are refused")
	}
	// The kernel's dev_t on disk: 12 bits of major number, 20 of minor (include/linux/kdev_t.h, new_encode_dev).
	if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
		return refuse("is a device of numbers %d:%d, and they are at most 4095:1048575", hdr.Devmajor, hdr.Devminor)
	}
	node.Rdev = unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)) //nolint:gosec // looked at above
	return m.describe(node, format, hdr)
}

// Bounds of extended attributes. The kernel's are 255 and 65536 (xattr(7)), EROFS has 16 bits for a value's length, and listxattr(2)
// gives up when the names of one file have more than 64 KiB.
const (
	xattrRecord    = "SCHILY.xattr."
	maxXattrName   = 255
	maxXattrValue  = math.MaxUint16
	maxXattrsOfOne = 64 << 10
)

// xattrCost is what an attribute takes of memory beside its bytes, here and while the image is written. A layer of very many that have but
// a byte each would else take twenty times the limit.
const xattrCost = 160

// xattrsOf gives the extended attributes among an entry's PAX records, and how many bytes they have.
func xattrsOf(format uint32, records map[string]string) (map[string]string, int, error) {
	var kept map[string]string
	size := 0
	for record, value := range records {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if !ok || !KeepXattr(format, name) {
			continue
		}
		switch {
		case strings.HasSuffix(name, ".") && strings.Count(name, ".") == 1:
			return nil, 0, refuse("has an extended attribute %s without a name", quote(name))
		case len(name) > maxXattrName:
			return nil, 0, refuse("has an extended attribute whose name has %d bytes; %d is the most: %s", len(name), maxXattrName, quote(name))
		case len(value) > maxXattrValue:
			return nil, 0, refuse("its extended attribute %s has %d bytes; %d is the most", quote(name), len(value), maxXattrValue)
		}
		if size += len(name) + len(value); size > maxXattrsOfOne {
			return nil, 0, refuse("has more than %d bytes of extended attributes", maxXattrsOfOne)
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[name] = value
	}
	return kept, size, nil
}

// KeepXattr says which extended attributes an image keeps. Left out, in silence as other engines do, is what would be read as a
// word of the host's own and what the kernel would not show:
//
//   - labels of security modules (security.selinux, SMACK's, AppArmor's): the host says what label an image has.
//   - trusted.overlay.* and user.overlay.*: the image may become the lower layer of an overlay, and there they redirect names, hide
//     files and change where data comes from (the kernel's Documentation/filesystems/overlayfs.rst).
//   - system.*, except POSIX ACLs: NFSv4's are words of one server's.
//   - user.* on what is neither a file nor a folder, and ACLs on symbolic links (xattr(7)).
//   - namespaces that Linux does not have.
func KeepXattr(format uint32, name string) bool {
	switch {
	case name == "system.posix_acl_access":
		return format != unix.S_IFLNK
	case name == "system.posix_acl_default":
		return format == unix.S_IFDIR
	case name == "security.selinux" || name == "security.apparmor" || strings.HasPrefix(name, "security.SMACK64"):
		return false
	case strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "user."):
		return format == unix.S_IFREG || format == unix.S_IFDIR
	}
	return strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "security.")
}
