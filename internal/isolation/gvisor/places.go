package gvisor

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/isolation/native"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// settle says in a guest's spec what the launch program finds out by itself in the root folder: where the links on the way to a mount
// lead, for the guest's kernel makes no target that one leads to; and the mode of a folder that a tmpfs covers, which it has then
// (plan's tmpfsData). It gives where each mount is.
func (s *start) settle(guest *specs.Spec) (map[string]string, error) {
	places := map[string]string{}
	if s.spec.Root == nil || s.spec.Annotations[annotation.Root] == "ram" {
		return places, nil
	}
	root, err := native.OpenRoot(s.spec.Annotations, s.spec.Root.Path)
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // read only
	facts, err := native.Facts(root)
	if err != nil {
		return nil, err
	}
	for i := range guest.Mounts {
		m := &guest.Mounts[i]
		at := path.Clean(m.Destination)
		if ownPlace(at) || slices.ContainsFunc(guest.Mounts[:i], func(o specs.Mount) bool { return covers(o.Destination, at) }) {
			continue // the root does not say what is there
		}
		places[at] = facts.Resolve(at)
		m.Destination = places[at]
		hasMode := slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "mode=") })
		if mode, ok := facts.ModeInRoot(m.Destination); ok && m.Type == "tmpfs" && !hasMode {
			m.Options = append(slices.Clip(m.Options), fmt.Sprintf("mode=%o", mode))
		}
	}
	return places, nil
}

// ownPlace tells whether a path is where the guest's kernel has file systems of its own, and no link leads there.
func ownPlace(name string) bool {
	return slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(dir string) bool { return covers(dir, name) })
}

// covers tells whether a path is a folder's or below it.
func covers(dir, name string) bool {
	dir = path.Clean(dir)
	return dir == "/" || name == dir || strings.HasPrefix(name, dir+"/")
}

// findProgram looks for the first program of a guest in its root folder, as a held launch program does (plan's findProgram): an engine
// wants to hear from create that there is none. What lies in a mount, or is reached through one, is left to the start.
func findProgram(spec *specs.Spec) error {
	pr := spec.Process
	if spec.Root == nil || len(pr.Args) == 0 || pr.Args[0] == "" {
		return nil
	}
	root, err := native.OpenRoot(spec.Annotations, spec.Root.Path)
	if err != nil || root == nil {
		return err
	}
	defer root.Close() //nolint:errcheck // read only
	facts, err := native.Facts(root)
	if err != nil {
		return err
	}
	errno := unix.ENOENT
	for _, name := range plan.Candidates(pr) {
		to := facts.Resolve(name)
		if slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return covers(m.Destination, name) || covers(m.Destination, to) }) {
			return nil
		}
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
		fd, err := unix.Openat2(int(root.Fd()), strings.TrimPrefix(name, "/"), &how) //nolint:gosec // a file descriptor
		if err != nil {
			continue
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		_ = unix.Close(fd)
		if err == nil && st.Mode&0o111 != 0 {
			return nil
		}
		errno = unix.EACCES
	}
	return &ProgramError{Errno: errno, Text: fmt.Sprintf("look for %s: %v", pr.Args[0], errno), Looked: true}
}
