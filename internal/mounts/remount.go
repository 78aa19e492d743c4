package mounts

import "golang.org/x/sys/unix"

// Remount is what the options of a bind mount say about its flags when they are taken as runc takes them: as soon as one of
// them is named, the mount has those that are named and no other, by the rules of mount(2) for MS_BIND|MS_REMOUNT.
type Remount struct {
	Named   bool
	set     uint64 // named, without access times
	cleared uint64 // named with their opposite
	times   uint64 // access-time flags that are named: MOUNT_ATTR_NOATIME and its like, relative for RELATIME, whose value is zero
	untimed uint64 // named with their opposite
}

// relative stands for MOUNT_ATTR_RELATIME, whose value is zero.
const relative = 1 << 63

// plainFlags are those that have nothing to do with access times; all but the last are locked in a user namespace that did not
// set them (mount_namespaces(7)).
const (
	lockedFlags = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	plainFlags  = lockedFlags | unix.MOUNT_ATTR_NOSYMFOLLOW
	timeFlags   = unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME
)

var timeWords = map[string]struct {
	flag uint64
	off  bool
}{
	"noatime": {unix.MOUNT_ATTR_NOATIME, false}, "atime": {unix.MOUNT_ATTR_NOATIME, true},
	"nodiratime": {unix.MOUNT_ATTR_NODIRATIME, false}, "diratime": {unix.MOUNT_ATTR_NODIRATIME, true},
	"relatime": {relative, false}, "norelatime": {relative, true},
	"strictatime": {unix.MOUNT_ATTR_STRICTATIME, false}, "nostrictatime": {unix.MOUNT_ATTR_STRICTATIME, true},
}

// name takes one option, which sets and clears attributes.
func (r *Remount) name(opt string, set, unset uint64) {
	r.Named = true
	switch t, ok := timeWords[opt]; {
	case !ok:
		r.set, r.cleared = r.set&^unset|set, r.cleared&^set|unset
	case t.off:
		r.times, r.untimed = r.times&^t.flag, r.untimed|t.flag
	default:
		r.times, r.untimed = r.times|t.flag, r.untimed&^t.flag
	}
}

// Attributes are what mount_setattr(2) is to set and unset. Without a word on access times theirs stay; with one, the rest of
// them is the kernel's default, relatime.
func (r *Remount) Attributes() (set, unset uint64) {
	set, unset = r.set, plainFlags&^r.set
	if r.times == 0 {
		return set, unset
	}
	mode, dir := r.mode()
	set |= mode | dir
	return set, unset | unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME&^dir
}

func (r *Remount) mode() (mode, dir uint64) {
	dir = r.times & unix.MOUNT_ATTR_NODIRATIME
	switch {
	case r.times&unix.MOUNT_ATTR_STRICTATIME != 0:
		return unix.MOUNT_ATTR_STRICTATIME, dir
	case r.times&unix.MOUNT_ATTR_NOATIME != 0:
		return unix.MOUNT_ATTR_NOATIME, dir
	}
	return unix.MOUNT_ATTR_RELATIME, dir
}

// Only is for a mount some of whose flags cannot be taken away: what nobody names stays then.
func (r *Remount) Only() (set, unset uint64) {
	set, unset = r.Attributes()
	return set, unset&^lockedFlags | r.cleared
}

// Locked is the same for a mount whose flags a user namespace locks, and that has these. Where they cannot be as named, it is
// not ok.
func (r *Remount) Locked(has uint64) (set, unset uint64, ok bool) {
	set, unset = r.Attributes()
	mode, dir := r.mode()
	timed := r.times == 0 || has&timeFlags == mode|dir
	if has&unset&lockedFlags == 0 && timed {
		return set, unset, true
	}
	// The old flags stay then, except that none may be which is named with its opposite.
	was := has & unix.MOUNT_ATTR_NODIRATIME
	switch has & unix.MOUNT_ATTR__ATIME {
	case unix.MOUNT_ATTR_NOATIME:
		was |= unix.MOUNT_ATTR_NOATIME
	case unix.MOUNT_ATTR_RELATIME:
		was |= relative
	}
	if has&r.cleared&lockedFlags != 0 || was&r.untimed != 0 || r.times != 0 && r.times != was {
		return 0, 0, false
	}
	set |= has & lockedFlags
	return set, unset &^ set, true
}
