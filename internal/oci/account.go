package oci

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"brig/internal/idmap"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setHome gives a process the home of its user in the container's passwd(5) when its bundle names none, as runc does: an
// engine leaves that to the runtime. root is the container's root folder, or a link to it in /proc.
func setHome(p *specs.Process, root string) {
	p.Env = lastOfEach(p.Env)
	for _, e := range slices.Backward(p.Env) {
		if value, ok := strings.CutPrefix(e, "HOME="); ok {
			if value != "" {
				return
			}
			break
		}
	}
	p.Env = slices.DeleteFunc(p.Env, func(e string) bool { return e == "HOME=" })
	p.Env = append(slices.Clip(p.Env), "HOME="+home(root, p.User.UID))
}

// lastOfEach leaves of several values of one variable the last, which is what runc's containers see: programs differ in which
// one they take.
func lastOfEach(env []string) []string {
	last := map[string]int{}
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		last[name] = i
	}
	kept := make([]string, 0, len(last)+1)
	for i, e := range env {
		if name, _, _ := strings.Cut(e, "="); last[name] == i {
			kept = append(kept, e)
		}
	}
	return kept
}

// home looks a user up: as data, never by the image's own libraries (CVE-2019-14271). The image wrote the file: what is no
// clean absolute path in it is passed over.
func home(root string, uid uint32) string {
	text, err := readPasswd(root)
	if err != nil {
		return "/"
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) < 7 || f[2] != strconv.FormatUint(uint64(uid), 10) {
			continue
		}
		if path.IsAbs(f[5]) && path.Clean(f[5]) == f[5] && strings.IndexByte(f[5], 0) < 0 {
			return f[5]
		}
		break
	}
	return "/"
}

// maxPasswd bounds a file that an image brings.
const maxPasswd = 1 << 20

// readPasswd follows no link out of the root.
func readPasswd(root string) ([]byte, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir) //nolint:errcheck // a path only
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(dir, "etc/passwd", &how)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "passwd")
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxPasswd {
		return nil, unix.EINVAL
	}
	text := make([]byte, st.Size())
	n, err := f.ReadAt(text, 0)
	if n == len(text) {
		err = nil
	}
	return text[:n], err
}

// giveStreams makes the program's user the owner of the pipes among its standard streams, as runc does: one who is not root
// could not open /dev/stdout otherwise. Other files are left as they are: a node or a file is not the container's alone.
func giveStreams(spec *specs.Spec) error {
	if spec.Process.Terminal {
		return nil
	}
	uid := spec.Process.User.UID
	if maps := spec.Linux.UIDMappings; len(maps) > 0 {
		host, ok := idmap.HostID(maps, uid)
		if !ok {
			return nil // the launch says what is wrong with it
		}
		uid = host
	}
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO || st.Uid == uid { //nolint:gosec // a file descriptor
			continue
		}
		if err := f.Chown(int(uid), -1); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("give %s to user %d: %w", f.Name(), uid, err)
		}
	}
	return nil
}
