package selinux

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// system are folders whose files have labels that the host's programs live by: neither they nor anything in them is given another.
var system = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run/brig", "/sbin", "/sys", "/usr", "/var/lib/brig"}

// roots are folders that hold those of many programs and people: what is in them may get another label, they may not.
var roots = []string{
	"/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/run/user", "/srv", "/tmp",
	"/var", "/var/cache", "/var/lib", "/var/log", "/var/mail", "/var/run", "/var/spool", "/var/tmp", "/var/www",
}

// RelabelError is a folder that gets no other label.
type RelabelError struct{ Path, Why string }

func (e *RelabelError) Error() string {
	return fmt.Sprintf("%s is not relabelled: %s; mount a folder of its own, or leave the option z or Z away", e.Path, e.Why)
}

// checkRelabel refuses the folders by which a whole host would stop working. name is what the kernel calls the folder: no link is in it.
func checkRelabel(name, home string) error {
	for _, dir := range system {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			return &RelabelError{name, "it is in " + dir + ", which is the host's own"}
		}
	}
	if slices.Contains(roots, name) || path.Dir(name) == "/home" || name == home {
		return &RelabelError{name, "it holds more than what is a sandbox's"}
	}
	return nil
}

// Relabel gives a file, or a folder and everything in it, a label, by descriptors all the way: it follows no link in the folder, leaves
// its mount never, and opens no device and no pipe.
func Relabel(name, label string) error {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() //nolint:errcheck // a place only
	kernels, err := os.Readlink(procName(fd))
	if err != nil {
		return err
	}
	home, _ := os.UserHomeDir() // where none is known there is none to spare
	if err := checkRelabel(kernels, home); err != nil {
		return err
	}
	return relabel(f, label)
}

func procName(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// relabel labels the file of an O_PATH descriptor, and what is in it.
func relabel(at *os.File, label string) error {
	fd := int(at.Fd()) //nolint:gosec // a file descriptor
	if err := setByPath(fd, label); err != nil {
		return fmt.Errorf("give %s the SELinux label %s: %w", at.Name(), label, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	open, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: at.Name(), Err: err}
	}
	dir := os.NewFile(uintptr(open), at.Name())
	defer dir.Close() //nolint:errcheck // read only
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := relabelEntry(dir, name, label); err != nil {
			return err
		}
	}
	return nil
}

func relabelEntry(dir *os.File, name, label string) error {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := unix.Openat2(int(dir.Fd()), name, &how) //nolint:gosec // a file descriptor
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EXDEV) {
		return nil // gone, or another mount
	}
	full := path.Join(dir.Name(), name)
	if err != nil {
		return &os.PathError{Op: "open", Path: full, Err: err}
	}
	f := os.NewFile(uintptr(fd), full)
	defer f.Close() //nolint:errcheck // a place only
	return relabel(f, label)
}

// setByPath labels the very file of an O_PATH descriptor, be it a link, which fsetxattr(2) does not do. What has the label already keeps
// its change time.
func setByPath(fd int, label string) error {
	name := procName(fd)
	buf := make([]byte, len(label)+2)
	if n, err := unix.Getxattr(name, attribute, buf); err == nil && strings.TrimRight(string(buf[:n]), "\x00") == label {
		return nil
	}
	err := unix.Setxattr(name, attribute, []byte(label), 0)
	if errors.Is(err, unix.ENOTSUP) {
		err = fmt.Errorf("%w: its file system keeps no labels", err)
	}
	return err
}
