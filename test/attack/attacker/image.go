package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var imageAttacks = []attack{{"image-write", imageWrite}}

// imageWrite tries to change a file of an image that is the root, by every way that may lead to the file system below: the
// mounts' flags, copies of the mount, the layers of an overlay, files that other processes have open, the block device.
// Where the root has a place to write over it, a change that stays there is none of the image, and only the host can tell;
// then "HELD" is all that this can say.
func imageWrite(args []string) verdict {
	name := argument(args, 0, "/etc/passwd")
	written := argument(args, 1, "") == "writable"
	list := []verdict{
		judge("write to the superblock's root", unix.Mount("", "/", "", unix.MS_REMOUNT, "")),
		remounted(name), copied(name), blocks(),
	}
	for _, way := range []string{name, "/proc/1/root" + name, "/proc/self/root" + name, "/proc/thread-self/cwd/.." + name} {
		list = append(list, overwrite(way, written))
	}
	list = append(list, openFiles(), overlayLayers())
	return worst(list...)
}

// overwrite writes a file's first byte again, so that nothing is lost where it works.
func overwrite(name string, allowed bool) verdict {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return judge("open "+name+" to write", bare(err))
	}
	defer f.Close() //nolint:errcheck // a test
	b := make([]byte, 1)
	if _, err = f.ReadAt(b, 0); err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil && allowed {
		return held("%s was written, over the image", name)
	}
	return judge("write "+name, bare(err))
}

// bare is the number in an error of package os.
func bare(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// remounted takes the flag off the mount first. Whoever has the right to that must meet a file system that is read-only itself.
func remounted(name string) verdict {
	attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &attr); err != nil {
		return judge("clear the flags of /", err)
	}
	return overwrite(name, isOverlay("/"))
}

func isOverlay(name string) bool {
	var st unix.Statfs_t
	return unix.Statfs(name, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// copied writes through a copy of the mount that has no flags.
func copied(name string) verdict {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)
	if err != nil {
		return judge("open_tree a copy of /", err)
	}
	attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return judge("clear the flags of a copy of /", err)
	}
	return overwrite("/proc/self/fd/"+strconv.Itoa(fd)+name, isOverlay("/"))
}

// blocks opens every block device there is, and makes nodes of those that a mount may be on.
func blocks() verdict {
	list := []verdict{held("no block device")}
	_ = filepath.WalkDir("/dev", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeDevice != 0 && d.Type()&fs.ModeCharDevice == 0 {
			fd, err := unix.Open(name, unix.O_RDWR, 0)
			list = append(list, judge("open "+name, err))
			_ = unix.Close(fd)
		}
		return nil
	})
	var st unix.Stat_t
	_ = unix.Stat("/", &st)
	numbers := []uint64{st.Dev}
	for minor := range uint32(8) {
		numbers = append(numbers, unix.Mkdev(7, minor))
	}
	for _, dev := range numbers {
		name := fmt.Sprintf("/tmp/block-%d", dev)
		if err := unix.Mknod(name, unix.S_IFBLK|0o600, int(dev)); err != nil { //nolint:gosec // a device number
			list = append(list, judge("make a block device", err))
			continue
		}
		fd, err := unix.Open(name, unix.O_RDWR, 0)
		list = append(list, judge("open a block device", err))
		_ = errors.Join(unix.Close(fd), unix.Unlink(name))
	}
	return worst(list...)
}

// openFiles writes to files of images that any process in sight has open or mapped.
func openFiles() verdict {
	list := []verdict{held("nobody has one open")}
	for _, pattern := range []string{"/proc/[0-9]*/fd/*", "/proc/[0-9]*/map_files/*"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			to, err := os.Readlink(name)
			if err != nil || !strings.HasSuffix(strings.TrimSuffix(to, " (deleted)"), ".erofs") {
				continue
			}
			fd, err := unix.Open(name, unix.O_RDWR, 0)
			list = append(list, judge("open "+to, err))
			_ = unix.Close(fd)
		}
	}
	return worst(list...)
}

// overlayLayers looks for what lies below and above an overlay, in every root that can be reached.
func overlayLayers() verdict {
	list := []verdict{held("no layer is to be seen")}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return broken("%v", err)
	}
	for _, option := range strings.FieldsFunc(string(text), func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		key, dir, _ := strings.Cut(option, "=")
		switch key {
		case "lowerdir", "lowerdir+", "upperdir", "workdir":
		default:
			continue
		}
		if dir == "/" {
			continue // of a mount that is nowhere
		}
		for _, root := range []string{"", "/proc/1/root"} {
			if _, err := os.Stat(root + dir); err == nil {
				list = append(list, escaped("%s of the root is at %s", key, root+dir))
			}
		}
	}
	return worst(list...)
}
