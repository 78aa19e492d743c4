package inspect

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// masks tells whether what the spec hides is hidden, and what it seals is read-only: each is a mount of its own, or the
// path is not there at all.
func masks(p *process, spec *specs.Spec) (Layer, error) {
	hidden, sealed := spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths
	if len(hidden)+len(sealed) == 0 {
		return Layer{}, nil
	}
	l := Layer{Layer: "proc and sys", Asked: fmt.Sprintf("%d paths hidden, %d read-only", len(hidden), len(sealed))}
	list, err := p.mountinfo()
	if err != nil {
		return l, err
	}
	root, err := os.Open(p.dir + "/root")
	if err != nil {
		return l, err
	}
	defer root.Close() //nolint:errcheck // read only
	open := slices.Concat(
		uncovered(root, list, hidden, func(m *mountinfo.Info) bool { return m.FSType == "tmpfs" && readOnly(m) || m.Root == "/null" }),
		uncovered(root, list, sealed, readOnly))
	l.OK, l.Effective = open == nil, "so they are"
	if open != nil {
		l.Effective = "open: " + strings.Join(open, " ")
	}
	return l, nil
}

func (p *process) mountinfo() ([]*mountinfo.Info, error) {
	f, err := os.Open(p.dir + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	return mountinfo.GetMountsFromReader(f, nil)
}

func readOnly(m *mountinfo.Info) bool {
	return hasOption(m.Options, "ro") || hasOption(m.VFSOptions, "ro")
}

// uncovered are the paths that are there and have no mount of the right kind on top.
func uncovered(root *os.File, list []*mountinfo.Info, paths []string, covers func(*mountinfo.Info) bool) (open []string) {
	for _, name := range paths {
		name = path.Clean(name)
		var top *mountinfo.Info // the last one listed at a path lies on top
		for _, m := range list {
			if m.Mountpoint == name {
				top = m
			}
		}
		if top != nil && covers(top) || top == nil && !there(root, name) {
			continue
		}
		open = append(open, name)
	}
	return open
}

// there looks for a path in the sandbox's root, never leaving it; links are not followed, as the launch does not.
func there(root *os.File, name string) bool {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(int(root.Fd()), strings.TrimPrefix(name, "/"), &how) //nolint:gosec // a file descriptor
	if err != nil {
		return !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR)
	}
	_ = unix.Close(fd)
	return true
}
