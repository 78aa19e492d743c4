package native

import (
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is the kernel's limit (path_resolution(7)).
const maxLinks = 40

// resolveInRoot follows the links in a path of the root folder, as the sandbox will see them, and keeps what is not there as it
// is named. What it finds may change before the program runs; the program follows no link there then, and fails.
func resolveInRoot(root *os.File, name string) string {
	if root == nil {
		return name
	}
	done, rest := "/", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		next := rest[0]
		rest = rest[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		to, ok := readLinkInRoot(root, path.Join(done, next))
		if !ok {
			done = path.Join(done, next)
			continue
		}
		if links++; links > maxLinks {
			return name
		}
		if path.IsAbs(to) {
			done = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return done
}

// readLinkInRoot reads a link whose folders are no links.
func readLinkInRoot(root *os.File, name string) (string, bool) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(root.Fd()), strings.TrimPrefix(name, "/"), &how) //nolint:gosec // a file descriptor
	if err != nil {
		return "", false
	}
	defer unix.Close(fd) //nolint:errcheck // a path only
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", false
	}
	return string(buf[:n]), true
}
