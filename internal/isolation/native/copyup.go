package native

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"brig/internal/idmap"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// copyUp makes a tmpfs and copies a folder into it, by file descriptors all the way: nothing in the folder, which is the
// sandbox's, leads out of it.
func (l *launching) copyUp(c *plan.CopyUp) error {
	fail := func(err error) error { return fmt.Errorf("copy %s up into a tmpfs: %w", c.Path, err) }
	root, err := unix.Open(c.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(&os.PathError{Op: "open", Path: c.Root, Err: err})
	}
	defer unix.Close(root) //nolint:errcheck // a place only
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	name := c.Path
	if name == "" {
		name = "."
	}
	from, err := unix.Openat2(root, name, &how)
	if err != nil {
		return fail(err)
	}
	mount, err := newTmpfs(c)
	if err != nil {
		return fail(errors.Join(err, unix.Close(from)))
	}
	l.own(c.Reg, os.NewFile(uintptr(mount), "tmpfs"))
	to, err := unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // a mount's own descriptor is O_PATH
	if err != nil {
		return fail(errors.Join(err, unix.Close(from)))
	}
	var st unix.Stat_t
	if err = unix.Fstat(from, &st); err == nil {
		copies := l.room()
		copies.uid, copies.gid = c.UID, c.GID
		err = copies.folder(from, to, &st, given(c.Data))
	} else {
		err = errors.Join(err, unix.Close(from), unix.Close(to))
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// copying is what may still be copied, in bytes, and the maps of owners of the copy in hand.
type copying struct {
	left     int64
	uid, gid []specs.LinuxIDMapping
}

// nobody has what belongs to an id that the sandbox has not (user_namespaces(7), overflowuid).
const nobody = 65534

// owner gives the owner of a copy. In a tmpfs of the host's an id of the image has to be its host id to be the same inside.
func (c *copying) owner(st *unix.Stat_t) (uid, gid int) {
	if c.uid == nil {
		return int(st.Uid), int(st.Gid)
	}
	mapped := func(m []specs.LinuxIDMapping, id uint32) int {
		for _, try := range []uint32{id, nobody} {
			if host, ok := idmap.HostID(m, try); ok {
				return int(host)
			}
		}
		return nobody
	}
	return mapped(c.uid, st.Uid), mapped(c.gid, st.Gid)
}

// room is the copies' of all tmpfs of a sandbox: its limit on memory. What the parent copies is not charged to the sandbox's group, so
// that an image with much in such a folder, in a few bytes of a layer, could fill the machine's memory all the same.
func (l *launching) room() *copying {
	if l.copies == nil {
		l.copies = &copying{left: math.MaxInt64}
		if r := l.spec.Linux.Resources; r != nil && r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 {
			l.copies.left = *r.Memory.Limit
		}
	}
	return l.copies
}

// take counts an entry and what is in it.
func (c *copying) take(size int64) error {
	const page = 4096 // the least that something costs
	if c.left -= max(size, 0) + page; c.left < 0 {
		return errNoRoom
	}
	return nil
}

var errNoRoom = errors.New("there is more in it than the sandbox's memory limit (linux.resources.memory.limit) lets it have")

// given tells which of owner and mode the options of the mount set: they win over the folder's.
func given(data []string) (g struct{ owner, mode bool }) {
	for _, d := range data {
		g.owner = g.owner || strings.HasPrefix(d, "uid=") || strings.HasPrefix(d, "gid=")
		g.mode = g.mode || strings.HasPrefix(d, "mode=")
	}
	return g
}

func newTmpfs(c *plan.CopyUp) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs) //nolint:errcheck // the mount is what is kept
	if err := unix.FsconfigSetString(fs, "source", c.Source); err != nil {
		return -1, err
	}
	if err := setOptions(fs, c.Data); err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(c.Attrs)) //nolint:gosec // flags
}

func setOptions(fs int, data []string) (err error) {
	for _, d := range data {
		key, value, ok := strings.Cut(d, "=")
		if ok {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return fmt.Errorf("option %s: %w", d, err)
		}
	}
	return nil
}

// folder copies what is in the folder from into the folder to, and its own attributes. It closes both.
func (c *copying) folder(from, to int, st *unix.Stat_t, keep struct{ owner, mode bool }) error {
	source, target := os.NewFile(uintptr(from), "source"), os.NewFile(uintptr(to), "copy")
	defer source.Close() //nolint:errcheck // read only
	defer target.Close() //nolint:errcheck // a folder
	names, err := source.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.entry(from, to, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := copyAttributes(from, to); err != nil {
		return err
	}
	if !keep.owner {
		uid, gid := c.owner(st)
		if err := unix.Fchown(to, uid, gid); err != nil {
			return err
		}
	}
	if !keep.mode {
		if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(to, "", times(st), unix.AT_EMPTY_PATH)
}

func times(st *unix.Stat_t) []unix.Timespec { return []unix.Timespec{st.Atim, st.Mtim} }

func (c *copying) entry(from, to int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := c.take(0); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return c.subfolder(from, to, name, &st)
	case unix.S_IFREG:
		return c.file(from, to, name, &st)
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(from, name, target)
		if err == nil {
			err = unix.Symlinkat(string(target[:n]), to, name)
		}
		if err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(to, name, st.Mode, int(st.Rdev)); err != nil { //nolint:gosec // a device number
			return err
		}
		if err := unix.Fchmodat(to, name, st.Mode&0o7777, 0); err != nil { // of our own, made a moment ago where nobody else is
			return err
		}
	}
	uid, gid := c.owner(&st)
	if err := unix.Fchownat(to, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.UtimesNanoAt(to, name, times(&st), unix.AT_SYMLINK_NOFOLLOW)
}

func (c *copying) subfolder(from, to int, name string, st *unix.Stat_t) error {
	in, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return errors.Join(err, unix.Close(in))
	}
	out, err := unix.Openat(to, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.Join(err, unix.Close(in))
	}
	return c.folder(in, out, st, struct{ owner, mode bool }{})
}

func (c *copying) file(from, to int, name string, st *unix.Stat_t) error {
	// O_NONBLOCK: what was a file a moment ago may be a pipe that nobody writes to.
	fd, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	in := os.NewFile(uintptr(fd), name)
	defer in.Close() //nolint:errcheck // read only
	if info, err := in.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, errSwapped)
	}
	if err := c.take(st.Size); err != nil {
		return err
	}
	fd, err = unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), name)
	defer out.Close()                                                                //nolint:errcheck // in RAM: nothing is written later
	if _, err := io.CopyN(out, in, st.Size); err != nil && !errors.Is(err, io.EOF) { // no more than was counted
		return err
	}
	uid, gid := c.owner(st)
	if err := unix.Fchown(int(out.Fd()), uid, gid); err != nil {
		return err
	}
	// After the change of owner, which takes file capabilities and set-id bits away.
	if err := copyAttributes(int(in.Fd()), int(out.Fd())); err != nil {
		return err
	}
	if err := unix.Fchmod(int(out.Fd()), st.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(out.Fd()), "", times(st), unix.AT_EMPTY_PATH)
}

// errSwapped is a file that another container with the same files has put something else in place of: a pipe with a writer would keep
// the copy waiting for good.
var errSwapped = errors.New("it is no regular file any more")

// copyAttributes copies the extended attributes that a tmpfs takes.
func copyAttributes(from, to int) error {
	list := make([]byte, 1<<16) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(from, list)
	if errors.Is(err, unix.EOPNOTSUPP) || n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		value := make([]byte, 1<<16) // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(from, name, value)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if err := unix.Fsetxattr(to, name, value[:n], 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}
