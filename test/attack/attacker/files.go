package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var fileAttacks = []attack{
	{"read", func(args []string) verdict {
		path := argument(args, 0, "")
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return judge("open "+path, err)
		}
		n, err := unix.Read(fd, make([]byte, 256))
		switch {
		case err != nil:
			return judge("read "+path, err)
		case n == 0:
			return held("%s is empty", path)
		}
		return escaped("read %d bytes of %s", n, path)
	}},
	{"list", func(args []string) verdict {
		entries, err := os.ReadDir(argument(args, 0, ""))
		if err != nil {
			return held("%v", err)
		}
		if len(entries) == 0 {
			return held("%s is empty", argument(args, 0, ""))
		}
		return escaped("%s has %s", argument(args, 0, ""), entries[0].Name())
	}},
	{"rewrite", rewrite},
	{"open-write", func(args []string) verdict {
		_, err := unix.Open(argument(args, 0, ""), unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return judge("open "+argument(args, 0, "")+" for writing", err)
	}},
	{"create", func(args []string) verdict {
		path := argument(args, 0, "")
		_, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
		return judge("create "+path, err)
	}},
	{"truncate", func(args []string) verdict {
		path := argument(args, 0, "")
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return broken("%s: %v", path, err)
		}
		return judge("truncate "+path, unix.Truncate(path, st.Size)) // to its own length, which is no harm
	}},
	{"move", move},
	{"ioctl", func(args []string) verdict {
		path := argument(args, 0, "")
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return broken("open %s: %v", path, err)
		}
		_, err = unix.IoctlGetTermios(fd, unix.TCGETS)
		return reached("ioctl on "+path, err)
	}},
	{"mknod", func(args []string) verdict {
		kind, dev := uint32(unix.S_IFCHR), int(unix.Mkdev(1, 1)) //nolint:gosec // a device number: memory
		if argument(args, 1, "c") == "b" {
			kind, dev = unix.S_IFBLK, int(unix.Mkdev(254, 0)) //nolint:gosec // a device number: a disk
		}
		path := filepath.Join(argument(args, 0, "/tmp"), "attack-node-"+argument(args, 1, "c"))
		err := unix.Mknod(path, kind|0o600, dev)
		if err == nil {
			_ = unix.Unlink(path)
		}
		return judge("mknod", err)
	}},
	{"device", func(args []string) verdict {
		_, err := unix.Open(argument(args, 0, ""), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return judge("open the device "+argument(args, 0, ""), err)
	}},
	{"walk", walk},
	{"devices", devices},
	{"fill", fill},
	{"inodes", inodes},
	{"plant", plant},
}

// move takes a file to another folder and back, and links it there.
func move(args []string) verdict {
	from, to := argument(args, 0, ""), argument(args, 1, "")
	renamed := unix.Rename(from, to)
	if renamed == nil {
		_ = unix.Rename(to, from)
	}
	linked := unix.Link(from, to)
	if linked == nil {
		_ = unix.Unlink(to)
	}
	return worst(judge("rename "+from, renamed), judge("link "+from, linked))
}

// plant makes a set-user-ID file in a folder by every call that takes a mode. In a volume it would be the owner's.
func plant(args []string) verdict {
	dir := argument(args, 0, "/tmp")
	path := filepath.Join(dir, "attack-plain")
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o755)
	if err != nil {
		return judge("create a file", err)
	}
	mode := uint32(unix.S_ISUID | 0o755)
	name := func(s string) string { return filepath.Join(dir, "attack-"+s) }
	// struct vfs_cap_data of linux/capability.h: version 2, CAP_SYS_ADMIN.
	capable := []byte{1, 0, 0, 2, 0, 0, 0x20, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CREAT, Mode: uint64(mode)}
	_, openErr := unix.Open(name("open"), unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, mode)
	_, creatErr := unix.Creat(name("creat"), mode)
	_, open2Err := unix.Openat2(unix.AT_FDCWD, name("openat2"), &how)
	_, tmpErr := unix.Open(dir, unix.O_WRONLY|unix.O_TMPFILE|unix.O_CLOEXEC, mode)
	for call, err := range map[string]error{
		"open": openErr, "creat": creatErr, "openat2": open2Err, "O_TMPFILE": tmpErr, "fchmod": unix.Fchmod(fd, mode), "chmod": unix.Chmod(path, mode),
		"fchmodat2": unix.Fchmodat(unix.AT_FDCWD, path, mode, unix.AT_SYMLINK_NOFOLLOW), "mknod": unix.Mknod(name("mknod"), unix.S_IFREG|mode, 0),
		"a capability": unix.Setxattr(path, "security.capability", capable, 0),
	} {
		if err == nil {
			return escaped("made a set-user-ID file by %s", call)
		}
	}
	return held("no set-user-ID file can be made")
}

// rewrite writes what a file holds to it again: no harm where it works.
func rewrite(args []string) verdict {
	path := argument(args, 0, "")
	old, err := os.ReadFile(path)
	if err != nil {
		old = []byte("0\n")
	}
	if text := argument(args, 1, ""); text != "" {
		old = []byte(text)
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return judge("open "+path+" for writing", err)
	}
	_, err = unix.Write(fd, old)
	return judge("write "+path, err)
}

// walk tries to change every file and folder below the first argument, but for those below the others. What it tries
// is without effect where it is allowed: nothing is lost should a layer fail.
func walk(args []string) verdict {
	root := argument(args, 0, "/")
	allowed := slices.Clone(args[min(1, len(args)):])
	var found []string
	count, files := 0, map[string]int{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if slices.Contains(allowed, path) || inProcess(path) {
			if d != nil && d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if err != nil {
			return nil //nolint:nilerr // what cannot be read is gone past
		}
		// Below /usr every folder, and a few files of each, for they share one mount's flags.
		if files[filepath.Dir(path)]++; strings.HasPrefix(path, "/usr/") && !d.IsDir() && files[filepath.Dir(path)] > 4 {
			return nil
		}
		count++
		if d.Type()&fs.ModeSymlink != 0 && strings.HasPrefix(path, "/dev/") || path == "/dev" {
			return nil // a file system of the sandbox's own
		}
		if what := change(path, d); what != "" {
			found = append(found, what+" "+path)
			if len(found) >= 8 {
				return filepath.SkipAll
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return broken("%v", err)
	case len(found) > 0:
		return escaped("%s", strings.Join(found, ", "))
	case count < 20:
		return broken("saw %d files only", count)
	}
	return held("none of %d files and folders can be changed", count)
}

// inProcess are the files of one process: its own to write.
func inProcess(path string) bool {
	rest, ok := strings.CutPrefix(path, "/proc/")
	if !ok {
		return false
	}
	first, _, _ := strings.Cut(rest, "/")
	_, err := strconv.Atoi(first)
	return err == nil
}

// change tries to change one file or folder, and says what worked.
func change(path string, d fs.DirEntry) string {
	info, err := os.Lstat(path) // what is mounted there, and not what the folder says
	if err != nil {
		return ""
	}
	switch {
	case d.IsDir():
		return changeFolder(path)
	case info.Mode().IsRegular():
		if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err == nil {
			_ = unix.Close(fd)
			return "opened for writing"
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil && !strings.HasPrefix(path, "/proc/") && !strings.HasPrefix(path, "/sys/") && unix.Truncate(path, st.Size) == nil {
			return "truncated"
		}
	case d.Type()&fs.ModeSymlink != 0:
		if unix.Lchown(path, -1, -1) == nil && !strings.HasPrefix(path, "/proc/") {
			return "changed the owner of"
		}
		return ""
	}
	return changeAny(path)
}

func changeFolder(path string) string {
	name := filepath.Join(path, ".brig-attack")
	if fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600); err == nil {
		_ = unix.Close(fd)
		_ = unix.Unlink(name)
		return "made a file in"
	}
	if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600); err == nil {
		_ = unix.Close(fd)
		return "made a nameless file in"
	}
	for what, err := range map[string]error{
		"made a folder in":   unix.Mkdir(name, 0o700),
		"made a link in":     unix.Symlink("x", name+"l"),
		"made a fifo in":     unix.Mkfifo(name+"f", 0o600),
		"made a whiteout in": unix.Mknod(name+"w", unix.S_IFCHR, 0),
	} {
		if err == nil {
			_ = os.RemoveAll(name)
			_ = unix.Unlink(name + "l")
			_ = unix.Unlink(name + "f")
			_ = unix.Unlink(name + "w")
			return what
		}
	}
	if err := unix.Rmdir(path); err == unix.ENOTEMPTY && !strings.HasPrefix(path, "/proc") { //nolint:errorlint // bare: only a writable mount looks
		return "could remove"
	}
	return changeAny(path)
}

// changeAny sets mode and times to what they are.
func changeAny(path string) string {
	if strings.HasPrefix(path, "/proc/") {
		return ""
	}
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return ""
	}
	if unix.Chmod(path, st.Mode&0o7777) == nil {
		return "changed the mode of"
	}
	if unix.Rename(path, path) == nil {
		return "renamed"
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return "" // whoever may write to a device changes its times anyway
	}
	if unix.UtimesNanoAt(unix.AT_FDCWD, path, nil, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return "changed the times of"
	}
	if unix.Lsetxattr(path, "user.brig-attack", []byte("x"), 0) == nil {
		_ = unix.Lremovexattr(path, "user.brig-attack")
		return "set an attribute of"
	}
	return ""
}

// devices finds every device node that can be opened beyond those that are named.
func devices(args []string) verdict {
	var found []string
	_ = filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (path == "/proc" || path == "/usr") {
			if d != nil && d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type()&fs.ModeDevice == 0 || slices.Contains(args, path) {
			return nil
		}
		if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0); err == nil {
			_ = unix.Close(fd)
			found = append(found, path)
		}
		return nil
	})
	if len(found) > 0 {
		return escaped("opened %s", strings.Join(found, ", "))
	}
	return held("no device but those that every sandbox has")
}

// fill writes until there is no room, or the second argument (MiB) is passed.
func fill(args []string) verdict {
	dir := argument(args, 0, "/tmp")
	limit, err := strconv.Atoi(argument(args, 1, "64"))
	if err != nil {
		return broken("%v", err)
	}
	f, err := os.Create(filepath.Join(dir, "attack-fill"))
	if err != nil {
		return held("%v", err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	block := make([]byte, 1<<20)
	for n := range limit + 1 {
		if _, err := f.Write(block); err != nil {
			if errors.Is(err, unix.ENOSPC) {
				return held("ENOSPC after %d MiB in %s", n, dir)
			}
			return broken("%v", err)
		}
	}
	return escaped("wrote more than %d MiB to %s", limit, dir)
}

// inodes makes files until none can be made, or the second argument is passed.
func inodes(args []string) verdict {
	dir := argument(args, 0, "/tmp")
	limit, err := strconv.Atoi(argument(args, 1, "65536"))
	if err != nil {
		return broken("%v", err)
	}
	n := 0
	defer func() {
		for i := range n {
			_ = unix.Unlink(fmt.Sprintf("%s/attack-%d", dir, i))
		}
	}()
	for ; n <= limit; n++ {
		err := unix.Mknod(fmt.Sprintf("%s/attack-%d", dir, n), unix.S_IFREG|0o600, 0)
		if err == unix.ENOSPC { //nolint:errorlint // bare
			return held("ENOSPC after %d files in %s", n, dir)
		}
		if err != nil {
			if n == 0 {
				return judge("make files in "+dir, err)
			}
			return broken("%v after %d files", err, n)
		}
	}
	return escaped("made more than %d files in %s", limit, dir)
}
