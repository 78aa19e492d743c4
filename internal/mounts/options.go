// Package mounts turns the option strings of a spec's mount (runtime-spec config.md, "Mounts"; mount(8)) into what the
// mount system calls take.
//
// Its place on the road: package plan asks it while compiling a spec; policy asks it to check what a person wrote. It
// is pure.
package mounts

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Options are a mount's options, understood.
type Options struct {
	Bind      bool
	Recursive bool // rbind
	// Set and Clear are MOUNT_ATTR_* for the mount itself, RecursiveSet and RecursiveClear for the mounts below it too.
	Set, Clear                   uint64
	RecursiveSet, RecursiveClear uint64
	// Remount is the same of a bind mount, as runc understands it.
	Remount Remount
	// Propagation is MS_PRIVATE and its like, 0 for private; PropagationRecursive applies it to the mounts below.
	Propagation          uint64
	PropagationRecursive bool
	// IDMap asks for the user namespace's own map when the mount has no mapping of its own (crun's "idmap");
	// IDMapRecursive for the mounts below too.
	IDMap, IDMapRecursive bool
	// UID and GID are the ranges of an idmap option that carries them.
	UID, GID     []IDRange
	CopySymlink  bool // crun: recreate the link that the source is
	Optional     bool // crun's and util-linux' nofail: a missing source is no error
	SrcNoFollow  bool
	DestNoFollow bool
	TmpCopyUp    bool
	// Data are the file system's own options, KEY or KEY=VALUE, in their order.
	Data []string
}

// ReadOnly tells whether the mount itself ends up read-only.
func (o *Options) ReadOnly() bool { return (o.Set|o.RecursiveSet)&unix.MOUNT_ATTR_RDONLY != 0 }

type attribute struct {
	name  string
	set   uint64
	clear uint64
}

// attributes are the per-mount flags. The access-time modes exclude each other: all bits of _ATIME are cleared and
// then one is set (mount_setattr(2)).
var attributes = []attribute{
	{"ro", unix.MOUNT_ATTR_RDONLY, 0}, {"rw", 0, unix.MOUNT_ATTR_RDONLY},
	{"nosuid", unix.MOUNT_ATTR_NOSUID, 0}, {"suid", 0, unix.MOUNT_ATTR_NOSUID},
	{"nodev", unix.MOUNT_ATTR_NODEV, 0}, {"dev", 0, unix.MOUNT_ATTR_NODEV},
	{"noexec", unix.MOUNT_ATTR_NOEXEC, 0}, {"exec", 0, unix.MOUNT_ATTR_NOEXEC},
	{"nodiratime", unix.MOUNT_ATTR_NODIRATIME, 0}, {"diratime", 0, unix.MOUNT_ATTR_NODIRATIME},
	{"noatime", unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME}, {"atime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
	{"relatime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME}, {"norelatime", unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME},
	{"strictatime", unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME}, {"nostrictatime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
	{"nosymfollow", unix.MOUNT_ATTR_NOSYMFOLLOW, 0}, {"symfollow", 0, unix.MOUNT_ATTR_NOSYMFOLLOW},
}

var propagations = []struct {
	name string
	flag uint64
}{{"private", unix.MS_PRIVATE}, {"slave", unix.MS_SLAVE}, {"shared", unix.MS_SHARED}, {"unbindable", unix.MS_UNBINDABLE}}

// Parse understands the options of a mount. What is no option of the mount is the file system's own data; it is for
// the kernel to refuse.
func Parse(options []string) (Options, error) {
	var o Options
	for _, opt := range options {
		if strings.IndexByte(opt, 0) >= 0 {
			return o, fmt.Errorf("mount option %q has a NUL byte", opt)
		}
		if name, maps, ok := strings.Cut(opt, "="); ok && (name == "idmap" || name == "ridmap") {
			o.word(name)
			if err := o.idmap(opt, maps); err != nil {
				return o, err
			}
			continue
		}
		if !o.word(opt) && !o.attribute(opt) && !o.propagation(opt) {
			o.Data = append(o.Data, opt)
		}
	}
	return o, nil
}

func (o *Options) word(opt string) bool {
	switch opt {
	case "", "defaults", "async", "silent", "loud", "mand", "nomand":
	case "bind":
		o.Bind = true
	case "rbind":
		o.Bind, o.Recursive = true, true
	case "idmap":
		o.IDMap = true
	case "ridmap":
		o.IDMap, o.IDMapRecursive = true, true
	case "copy-symlink":
		o.CopySymlink = true
	case "nofail":
		o.Optional = true
	case "src-nofollow":
		o.SrcNoFollow = true
	case "dest-nofollow":
		o.DestNoFollow = true
	case "tmpcopyup":
		o.TmpCopyUp = true
	default:
		return false
	}
	return true
}

func (o *Options) attribute(opt string) bool {
	for _, a := range attributes {
		switch {
		case opt == a.name:
			o.Set, o.Clear = o.Set&^a.clear|a.set, o.Clear&^a.set|a.clear
			o.Remount.name(opt, a.set, a.clear)
			return true
		case opt == "r"+a.name:
			o.RecursiveSet, o.RecursiveClear = o.RecursiveSet&^a.clear|a.set, o.RecursiveClear&^a.set|a.clear
			return true
		}
	}
	return false
}

func (o *Options) propagation(opt string) bool {
	for _, p := range propagations {
		if opt == p.name || opt == "r"+p.name {
			o.Propagation, o.PropagationRecursive = p.flag, opt[0] == 'r'
			return true
		}
	}
	return false
}

// Known lists the options that Parse understands, for an engine's question after them.
func Known() []string {
	list := []string{"async", "bind", "copy-symlink", "defaults", "dest-nofollow", "idmap", "loud", "mand", "nofail", "nomand", "rbind", "ridmap", "silent", "src-nofollow", "tmpcopyup"}
	for _, a := range attributes {
		list = append(list, a.name, "r"+a.name)
	}
	for _, p := range propagations {
		list = append(list, p.name, "r"+p.name)
	}
	slices.Sort(list)
	return list
}
