package main

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

var mountAttacks = []attack{
	{"mount", func(args []string) verdict {
		kind := argument(args, 0, "tmpfs")
		return judge("mount "+kind+" on /tmp", unix.Mount("none", "/tmp", kind, 0, argument(args, 1, "")))
	}},
	{"mount-bind", func([]string) verdict { return judge("bind / on /tmp", unix.Mount("/", "/tmp", "", unix.MS_BIND, "")) }},
	{"remount", func([]string) verdict {
		return judge("remount / without its flags", unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	}},
	{"propagation", func([]string) verdict {
		return judge("share the root's mount events", unix.Mount("", "/", "", unix.MS_SHARED, ""))
	}},
	{"umount", func(args []string) verdict {
		return judge("unmount", unix.Unmount(argument(args, 0, "/proc"), unix.MNT_DETACH))
	}},
	{"fsopen", func([]string) verdict {
		fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return judge("fsopen tmpfs", err)
		}
		if err := unix.FsconfigCreate(fd); err != nil {
			return judge("fsconfig", err)
		}
		m, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
		if err != nil {
			return judge("fsmount", err)
		}
		return judge("move_mount on /tmp", unix.MoveMount(m, "", unix.AT_FDCWD, "/tmp", unix.MOVE_MOUNT_F_EMPTY_PATH))
	}},
	{"fspick", func([]string) verdict { return try("fspick /", unix.SYS_FSPICK, atFDCWD, cstring("/"), 0) }},
	{"open-tree", func([]string) verdict {
		_, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)
		return judge("open_tree a copy of /", err)
	}},
	{"mount-setattr", func([]string) verdict {
		attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
		return judge("clear the flags of /", unix.MountSetattr(unix.AT_FDCWD, "/", 0, &attr))
	}},
	{"move-mount", func([]string) verdict {
		return judge("move_mount /proc to /tmp", unix.MoveMount(unix.AT_FDCWD, "/proc", unix.AT_FDCWD, "/tmp", 0))
	}},
	{"pivot-root", pivotRoot},
	{"chroot", func([]string) verdict { return judge("chroot /tmp", unix.Chroot("/tmp")) }},
	{"breakout", breakout},
	{"cgroup", cgroup},
	{"open-by-handle", openByHandle},
}

// atFDCWD is AT_FDCWD as a register holds it.
var atFDCWD = uintptr(0xffffff9c)

func pivotRoot([]string) verdict {
	err := unix.PivotRoot("/tmp", "/tmp")
	if err == unix.EINVAL || err == unix.EBUSY { //nolint:errorlint // bare: /tmp must be a mount
		if err := unix.Mount("none", "/tmp", "tmpfs", 0, ""); err != nil {
			return judge("mount a new root", err)
		}
		err = unix.PivotRoot("/tmp", "/tmp")
	}
	return judge("pivot_root", err)
}

// breakout is the classic way out of chroot(2): a second root below the working directory, then up by "..". It looks
// for a file that only the host has.
func breakout(args []string) verdict {
	canary := argument(args, 0, "/nonexistent")
	dir, err := os.MkdirTemp("/tmp", "jail")
	if err != nil {
		dir = "/tmp"
	} else {
		defer func() { _ = os.Remove(dir) }()
	}
	chroot := unix.Chroot(dir)
	for range 64 {
		_ = unix.Chdir("..")
	}
	_ = unix.Chroot(".")
	if _, err := os.Stat(canary); err == nil {
		return escaped("%s of the host is in sight", canary)
	}
	return held("%v the canary is out of sight", chroot)
}

// cgroup looks for a control file that can be written, in the cgroup tree that is there and in one it mounts
// (CVE-2022-0492).
func cgroup(args []string) verdict {
	root := "/sys/fs/cgroup"
	list := []verdict{held("no cgroup file can be written")}
	for _, kind := range []string{"cgroup", "cgroup2"} {
		if err := unix.Mount("none", "/tmp", kind, 0, argument(args, 0, "")); err == nil {
			return escaped("mounted %s", kind)
		}
	}
	_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be read is gone past
		}
		if d.IsDir() {
			if err := os.Mkdir(filepath.Join(path, "brig-attack"), 0o755); err == nil {
				_ = os.Remove(filepath.Join(path, "brig-attack"))
				list = append(list, escaped("made a cgroup in %s", path))
				return filepath.SkipAll
			}
			return nil
		}
		if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Close(fd)
			list = append(list, escaped("opened %s for writing", path))
			return filepath.SkipAll
		}
		return nil
	})
	return worst(list...)
}

// openByHandle is the shocker attack: a file by its inode number, past every root.
func openByHandle([]string) verdict {
	dir, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return broken("%v", err)
	}
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/", 0)
	if err != nil {
		// The handle can be guessed: ext4's and xfs's are inode numbers, 2 for the root.
		handle = unix.NewFileHandle(1, []byte{2, 0, 0, 0, 0, 0, 0, 0})
	}
	_, err = unix.OpenByHandleAt(dir, handle, unix.O_RDONLY)
	if err == unix.ESTALE || err == unix.EOPNOTSUPP { //nolint:errorlint // bare: it was looked for
		return escaped("open_by_handle_at looked it up: %v", err)
	}
	return judge("open_by_handle_at", err)
}
