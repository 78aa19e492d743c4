package selinux

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

// selinuxfs is where the policy is asked (selinux(8); the kernel's security/selinux/selinuxfs.c).
const selinuxfs = "/sys/fs/selinux"

// Installed asks the kernel whether the loaded policy has Brig's module.
func Installed() (bool, error) {
	known, err := Known(Shared)
	if err != nil {
		err = fmt.Errorf("ask the kernel for the types of Brig's SELinux module: %w", err)
	}
	return known, err
}

// Known asks the kernel whether the loaded policy has a label.
func Known(label string) (bool, error) {
	f, err := os.OpenFile(selinuxfs+"/context", os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Write([]byte(label))
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	return err == nil, err
}

// Allowed asks the loaded policy whether a subject may do something with an object: by rules, by categories and all. A class or a
// permission that the policy does not have is an error.
func Allowed(subject, object, class, permission string) (bool, error) {
	number, err := readNumber(filepath.Join(selinuxfs, "class", class, "index"))
	if err != nil {
		return false, err
	}
	bit, err := readNumber(filepath.Join(selinuxfs, "class", class, "perms", permission))
	if err != nil {
		return false, err
	}
	f, err := os.OpenFile(selinuxfs+"/access", os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // no data
	if _, err := fmt.Fprintf(f, "%s %s %d", subject, object, number); err != nil {
		return false, fmt.Errorf("ask SELinux's policy about %s and %s: %w", subject, object, err)
	}
	answer := make([]byte, 256)
	n, err := f.Read(answer)
	if err != nil {
		return false, err
	}
	word, _, _ := strings.Cut(string(answer[:n]), " ")
	allowed, err := strconv.ParseUint(word, 16, 32)
	if err != nil {
		return false, err
	}
	return allowed&(1<<(bit-1)) != 0, nil
}

func readNumber(name string) (uint64, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("SELinux's policy has no such class or permission: %w", err)
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
}

// MayInherit tells whether a process with a label may keep an open file over the execve that gives it the label. One that it may not
// keep, the kernel exchanges for the null device, in silence (flush_unauthorized_files in security/selinux/hooks.c). Whoever opened a
// file by its name may be another than this process, which nobody can ask: the answer for such is no.
func MayInherit(label string, f *os.File) (bool, error) {
	fd := int(f.Fd()) //nolint:gosec // a file descriptor
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	var class string
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		class = "fifo_file"
	case unix.S_IFSOCK:
		if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || kind != unix.AF_UNIX {
			return false, err
		}
		if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_STREAM {
			return false, err
		}
		class = "unix_stream_socket"
	default:
		return false, nil
	}
	of, err := fileLabel(fd)
	if err != nil {
		return false, err
	}
	if ok, err := Allowed(label, of, "fd", "use"); !ok || err != nil {
		return false, err
	}
	for _, permission := range asked(fd) {
		if ok, err := Allowed(label, of, class, permission); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// asked is what the kernel asks for an open file (file_to_av in security/selinux/hooks.c).
func asked(fd int) []string {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil
	}
	write := "write"
	if flags&unix.O_APPEND != 0 {
		write = "append"
	}
	switch flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		return []string{"read"}
	case unix.O_WRONLY:
		return []string{write}
	}
	return []string{"read", write}
}

// attribute is where the kernel shows the label of a file, and takes it.
const attribute = "security.selinux"

func fileLabel(fd int) (string, error) {
	buf := make([]byte, 4096)
	n, err := unix.Fgetxattr(fd, attribute, buf)
	if err != nil {
		return "", &fs.PathError{Op: "read the SELinux label of", Path: "descriptor " + strconv.Itoa(fd), Err: err}
	}
	return strings.TrimRight(string(buf[:n]), "\x00"), nil
}

// Label reads the label of an open file.
func Label(f *os.File) (string, error) { return fileLabel(int(f.Fd())) } //nolint:gosec // a file descriptor

// SetLabel gives an open file a label. It works for pipes, too, which have that of their maker: a sandbox may use no pipe of a process
// that has categories which it has not.
func SetLabel(f *os.File, label string) error {
	err := unix.Fsetxattr(int(f.Fd()), attribute, []byte(label), 0) //nolint:gosec // a file descriptor
	if errors.Is(err, unix.EACCES) {
		err = fmt.Errorf("%w: the policy does not let this process have files with it", err)
	}
	if err != nil {
		return fmt.Errorf("give %s the SELinux label %s: %w", f.Name(), label, err)
	}
	return nil
}

// LabelSockets gives the sockets that this thread makes from now on a label, and back that of the process with "" (proc_pid_attr(5),
// sockcreate). Whoever calls it has locked the goroutine to its thread.
func LabelSockets(label string) error {
	if label == "" {
		label = "\n" // as the kernel wants it (selinux_setprocattr in security/selinux/hooks.c)
	}
	f, err := os.OpenFile("/proc/thread-self/attr/sockcreate", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(label))
	return errors.Join(err, f.Close())
}
