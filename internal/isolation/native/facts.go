package native

import (
	"os"
	"strings"

	"brig/internal/annotation"
	"brig/internal/caps"
	"brig/internal/host"
	"brig/internal/mac"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Facts looks up what a plan needs to know of this host, for `brig explain` and every start. root is the root folder of
// the spec, or nil for a root in RAM; it must stay open while the facts are in use.
func Facts(root *os.File) (*plan.Facts, error) {
	last, err := caps.Last()
	if err != nil {
		return nil, err
	}
	abi, _ := host.LandlockABI()
	return &plan.Facts{
		Privileged:  os.Geteuid() == 0,
		Nested:      os.Geteuid() == 0 && host.InUserNamespace(),
		LandlockABI: abi,
		LastCap:     last,
		Caps:        caps.Own(),
		Host:        hostKind,
		Link:        hostLink,
		Attributes:  attributes,
		InRoot:      func(name string) plan.Kind { return kindInRoot(root, name) },
		Resolve:     func(name string) string { return resolveInRoot(root, name) },
		OwnNamespace: func(kind specs.LinuxNamespaceType, path string) bool {
			return host.OwnNamespace(string(kind), path)
		},
		LinkInRoot: func(name string) bool { return linkInRoot(root, name) },
		ModeInRoot: func(name string) (uint32, bool) { return modeInRoot(root, name) },
	}, nil
}

func (l *launching) facts(tasks int) (*plan.Facts, error) {
	root, err := OpenRoot(l.spec.Annotations, rootPath(l))
	if err != nil {
		return nil, err
	}
	if root != nil {
		l.opened = append(l.opened, root)
	}
	f, err := Facts(root)
	if err != nil {
		return nil, err
	}
	f.Locked, f.Held, f.Hooks = l.options.Lock != nil, l.options.Start != nil, l.options.Created != nil
	f.ProgramGiven, f.WithoutProc = l.options.Program != nil, l.options.WithoutProc
	f.Workdir = l.options.Workdir
	f.Lenient, f.Remounts = l.options.Warn != nil, l.options.Warn != nil
	for i, passed := range l.options.PassFDs {
		if passed == nil {
			f.ClosedFDs = append(f.ClosedFDs, 3+i)
		}
	}
	f.CgroupTasks, f.Supervised, f.PassFDs = tasks, l.options.Supervised, len(l.options.PassFDs)
	if f.Hierarchies, err = l.hierarchies(); err != nil {
		return nil, err
	}
	if pr := l.spec.Process; pr != nil && (pr.ApparmorProfile != "" || pr.SelinuxLabel != "" || l.spec.Linux != nil && l.spec.Linux.MountLabel != "") {
		f.MAC = mac.ReadHost()
	}
	return f, nil
}

func rootPath(l *launching) string {
	if l.spec.Root == nil {
		return ""
	}
	return l.spec.Root.Path
}

// OpenRoot opens the root folder of a spec, or gives nil for a root in RAM.
func OpenRoot(annotations map[string]string, path string) (*os.File, error) {
	if annotations[annotation.Root] == "ram" || path == "" {
		return nil, nil
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open the root file system", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func hostKind(path string) plan.Kind {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return plan.Missing
	}
	return kind(&st)
}

func kind(st *unix.Stat_t) plan.Kind {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return plan.Dir
	}
	return plan.File
}

func hostLink(path string) (string, bool) {
	to, err := os.Readlink(path)
	return to, err == nil
}

// kindInRoot looks at a path without ever leaving the root folder. What it finds may change before the program runs; the
// program then fails instead of following.
func kindInRoot(root *os.File, name string) plan.Kind {
	st, ok := statInRoot(root, name, 0)
	if !ok {
		return plan.Missing
	}
	return kind(&st)
}

func linkInRoot(root *os.File, name string) bool {
	st, ok := statInRoot(root, name, unix.O_NOFOLLOW)
	return ok && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

func modeInRoot(root *os.File, name string) (uint32, bool) {
	st, ok := statInRoot(root, name, unix.O_DIRECTORY)
	return st.Mode & 0o7777, ok
}

func statInRoot(root *os.File, name string, flags uint64) (st unix.Stat_t, ok bool) {
	if root == nil {
		return st, false
	}
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		name = "."
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(root.Fd()), name, &how) //nolint:gosec // a file descriptor
	if err != nil {
		return st, false
	}
	defer func() { _ = unix.Close(fd) }()
	return st, unix.Fstat(fd, &st) == nil
}

// attributes are the flags of the mount that a path is on.
func attributes(path string) uint64 {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return 0
	}
	return attributesOf(&st)
}

func attributesOf(st *unix.Statfs_t) (set uint64) {
	for _, f := range [][2]uint64{
		{unix.ST_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.ST_NOSUID, unix.MOUNT_ATTR_NOSUID}, {unix.ST_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.ST_NOEXEC, unix.MOUNT_ATTR_NOEXEC}, {unix.ST_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME}, {stNoSymFollow, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		if uint64(st.Flags)&f[0] != 0 { //nolint:unconvert // 32 bits wide on some machines
			set |= f[1]
		}
	}
	switch {
	case st.Flags&unix.ST_NOATIME != 0:
		set |= unix.MOUNT_ATTR_NOATIME
	case st.Flags&unix.ST_RELATIME == 0:
		set |= unix.MOUNT_ATTR_STRICTATIME
	}
	return set
}

// stNoSymFollow is ST_NOSYMFOLLOW of linux/statfs.h, which package unix lacks.
const stNoSymFollow = 0x2000
