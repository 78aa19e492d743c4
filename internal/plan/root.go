package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/launch"
	"brig/internal/mounts"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mounted is a mount that the program has made.
type mounted struct {
	path  string // inside
	reg   launch.Reg
	fresh bool            // a tmpfs of our own: nothing is in it but what the program puts there
	made  map[string]Kind // what the program has put there, by path in the mount
	// copied: a tmpfs that holds what is below it.
	copied bool
	inside string // the source of a bind mount, when it is a path of the sandbox's
	// source is the host's path behind a bind mount.
	source   string
	prepared mounts.Options
	groups   []launch.Reg // the sandbox's own groups, for a mount of cgroups
}

// privateProc makes a procfs that no path leads to, before the root is entered: the kernel allows a new one only where
// another is visible. Writes to sysctls and LSM attributes go through it (CVE-2019-16884, CVE-2023-27561,
// CVE-2025-52881).
//
// Where that is not for us to have, because the processes are the host's to see, it is the host's own, by a descriptor.
func (b *builder) privateProc() error {
	if b.hostProcesses() {
		if b.proc == 0 {
			b.p.Step(launch.ProcSys, "hold the host's procfs, for sysctls and attributes")
			b.proc = b.p.Openat2("host's proc", 0, "/proc", unix.O_PATH|unix.O_DIRECTORY, 0, unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
		}
		return nil
	}
	b.p.Step(launch.ProcSys, "a private procfs, for sysctls and attributes")
	fs := b.p.Fsopen("proc")
	b.p.FsconfigCreate(fs)
	b.proc = b.p.Fsmount("private proc", fs, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	return nil
}

// hostProcesses tells whether the sandbox sees the caller's processes and has no right to a procfs of them: a new one needs
// CAP_SYS_ADMIN over the pid namespace's owner.
func (b *builder) hostProcesses() bool {
	_, own := Namespace(b.spec, specs.PIDNamespace)
	return !own && (!b.facts.Privileged || b.facts.Nested || b.hasUserNS())
}

// oldRoot makes the mounts that need the host's view, detached.
func (b *builder) oldRoot() error {
	if !HostMounts(b.spec) {
		b.p.Step(launch.Mounts, "keep mount events from the host out, and the sandbox's in")
		events := uint64(unix.MS_PRIVATE)
		if !b.facts.Privileged {
			events = b.hostEvents() // the root is copied from here
		}
		b.p.MountSetattr(0, "/", unix.AT_RECURSIVE, 0, 0, events)
	}
	if err := b.makeRoot(); err != nil {
		return err
	}
	b.mounted = append(b.mounted, mounted{path: "/", reg: b.root, fresh: b.ram, made: map[string]Kind{"": Dir}})
	for i := range b.spec.Mounts {
		if err := b.prepare(&b.spec.Mounts[i]); err != nil {
			return err
		}
	}
	return b.prepareDevices()
}

func (b *builder) makeRoot() error {
	if b.ram {
		b.p.Step(launch.Root, "an empty root file system in RAM")
		b.root = b.tmpfs("root", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, "mode=755", "size=1m", "nr_inodes=1024")
		return nil
	}
	if b.spec.Root == nil || b.spec.Root.Path == "" {
		return &UnsupportedError{"root.path", "is missing"}
	}
	if over, err := b.overlay(); over || err != nil {
		return err
	}
	b.p.Step(launch.Root, "the root file system "+b.spec.Root.Path)
	bind := Bind{Source: b.spec.Root.Path, Recursive: true, OwnIDs: b.annotated(annotation.RootIDMap, "true")}
	bind.Propagates = b.hostEvents() == unix.MS_SLAVE
	b.root = b.bind("root", bind)
	if bind.Propagates {
		// Before it is entered: pivot_root(2) takes no shared mount.
		b.p.MountSetattr(b.root, "", unix.AT_RECURSIVE, 0, 0, unix.MS_SLAVE)
	}
	return nil
}

// tmpfs makes a detached tmpfs.
func (b *builder) tmpfs(name string, attrs uint64, data ...string) launch.Reg {
	return b.tmpfsOf("tmpfs", name, attrs, data...)
}

// tmpfsOf makes one that a person sees under another source in the list of mounts.
func (b *builder) tmpfsOf(source, name string, attrs uint64, data ...string) launch.Reg {
	fs := b.p.Fsopen("tmpfs")
	b.p.FsconfigString(fs, "source", source)
	b.labelMount(fs, "tmpfs")
	for _, d := range data {
		b.option(fs, d)
	}
	b.p.FsconfigCreate(fs)
	return b.p.Fsmount(name, fs, attrs)
}

func (b *builder) option(fs launch.Reg, option string) {
	if key, value, ok := strings.Cut(option, "="); ok {
		b.p.FsconfigString(fs, key, value)
	} else {
		b.p.FsconfigFlag(fs, option)
	}
}

// bind gives a detached copy of a mount of the host's: by the parent where it may, else by the child.
func (b *builder) bind(name string, bind Bind) launch.Reg {
	if b.facts.Privileged {
		bind.Reg = b.p.Input(name)
		b.plan.Binds = append(b.plan.Binds, bind)
		return bind.Reg
	}
	var flags uint64
	if bind.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	if bind.NoFollow {
		flags |= unix.AT_SYMLINK_NOFOLLOW
	}
	return b.p.OpenTree(name, 0, bind.Source, flags)
}

// enterRoot attaches the new root over the old one, swaps them, and lets the old one go: from here on nothing of the
// host's can be reached by a path.
func (b *builder) enterRoot() error {
	if HostMounts(b.spec) {
		return b.chrootRoot()
	}
	b.p.Step(launch.Root, "enter the new root, let the old one go")
	if b.place == 0 {
		b.p.MoveMountTo(b.root, "/")
	}
	b.p.Fchdir(b.root)
	b.p.PivotRoot(".", ".")
	b.p.Umount2(".", unix.MNT_DETACH)
	b.p.Chdir("/")
	return b.files()
}

// files puts the small files of a host-view sandbox (passwd, hosts, …) into its RAM root.
func (b *builder) files() error {
	text := b.spec.Annotations[annotation.Files]
	if text == "" {
		return nil
	}
	if !b.ram {
		return &UnsupportedError{annotation.Files, "needs " + annotation.Root + "=ram"}
	}
	var files map[string]string
	if err := json.Unmarshal([]byte(text), &files); err != nil {
		return &UnsupportedError{annotation.Files, "is not a JSON object of paths and contents: " + err.Error()}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := checkInside(name, annotation.Files); err != nil {
			return err
		}
		b.p.Step(launch.Root, "write "+name)
		// Into the root itself: the spec's mounts are not attached yet, and one of them may cover the file later.
		m, dir := &b.mounted[0], b.root
		if parent := strings.TrimPrefix(path.Dir(name), "/"); parent != "" {
			dir = b.freshTarget(m, path.Dir(name), parent, Dir)
		}
		m.made[strings.TrimPrefix(name, "/")] = File
		fd := b.p.Openat2(name, dir, path.Base(name), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o644, launch.NoLinks)
		b.p.Write(fd, files[name])
		b.p.Close(fd)
	}
	return nil
}

// checkInside refuses names that are no clean absolute path below the root.
func checkInside(name, field string) error {
	if !path.IsAbs(name) || path.Clean(name) != strings.TrimSuffix(name, "/") && name != "/" || strings.IndexByte(name, 0) >= 0 {
		return &UnsupportedError{field, fmt.Sprintf("%q must be an absolute path without \"..\", \"//\" and NUL", name)}
	}
	return nil
}

// checkTarget is the same for a path that is cleaned before it is used: engines leave double slashes in.
func checkTarget(name, field string) error {
	if path.IsAbs(name) && !slices.Contains(strings.Split(name, "/"), "..") {
		name = path.Clean(name)
	}
	return checkInside(name, field)
}

// deepest is the newest mount that path lies in, and the rest of the path in it.
func (b *builder) deepest(name string) (*mounted, string) {
	best := &b.mounted[0]
	for i := range b.mounted {
		m := &b.mounted[i]
		if (m.path == "/" || name == m.path || strings.HasPrefix(name, m.path+"/")) && len(m.path) >= len(best.path) {
			best = m
		}
	}
	return best, strings.TrimPrefix(strings.TrimPrefix(name, best.path), "/")
}

// throughLinks replaces the links that the program itself made: /bin/x becomes /usr/bin/x.
func (b *builder) throughLinks(name string) string {
	for range 8 { // as a chain of links that ends; what is left is a link to the kernel, too, and openat2 decides
		next := b.throughLink(name)
		if next == name {
			break
		}
		name = next
	}
	return name
}

func (b *builder) throughLink(name string) string {
	for dir := name; dir != "/" && dir != "."; dir = path.Dir(dir) {
		to, ok := b.links[dir]
		switch rest := strings.TrimPrefix(name, dir); {
		case ok && path.IsAbs(to):
			return path.Join(to, rest)
		case ok:
			return path.Join(path.Dir(dir), to, rest)
		}
	}
	return name
}

// linkless are the places where a symlink in the root file system is an attack (CVE-2019-19921, CVE-2025-31133).
func linkless(name string) bool {
	for _, p := range []string{"/proc", "/sys", "/dev"} {
		if name == p || strings.HasPrefix(name, p+"/") {
			return true
		}
	}
	return false
}

// target opens the place where a mount (or a written file) goes, and makes it when it is missing. It never leaves the
// root: after pivot_root there is nothing else, and openat2 has RESOLVE_IN_ROOT besides.
func (b *builder) target(name string, kind Kind) (launch.Reg, error) {
	name = b.throughLinks(path.Clean(name))
	m, rel := b.deepest(name)
	found := b.find(m, rel)
	if found == Missing && m == &b.mounted[0] && !m.fresh && b.facts.Resolve != nil {
		// The target of a link that leads nowhere is made, as runc and crun do; the program itself follows none there.
		name = b.facts.Resolve(name)
		m, rel = b.deepest(name)
		found = b.find(m, rel)
	}
	switch {
	case found == File && kind == Dir:
		return 0, &UnsupportedError{"mounts", fmt.Sprintf("%s is a file in the root file system, and a directory is mounted there", name)}
	case found == Dir && kind == File:
		return 0, &UnsupportedError{"mounts", fmt.Sprintf("%s is a directory in the root file system, and a file is mounted there", name)}
	}
	if m.fresh {
		return b.freshTarget(m, name, rel, kind), nil
	}
	resolve := uint64(launch.InRoot)
	if linkless(name) {
		resolve = launch.NoLinks
	}
	if found == Missing {
		return b.makeTarget(name, kind, resolve), nil
	}
	return b.open(name, kind, resolve), nil
}

// targetItself opens the place of a mount without following a symlink at its end: the mount covers the link (crun's
// dest-nofollow).
func (b *builder) targetItself(name string, kind Kind) (launch.Reg, error) {
	m, rel := b.deepest(name)
	link := b.isLink(m, rel)
	if !link && (m.fresh || b.find(m, rel) == Missing) {
		return b.target(name, kind)
	}
	if link && kind == Dir {
		return 0, &UnsupportedError{"mounts", fmt.Sprintf("%s is a symlink in the root file system, and a directory cannot be mounted on the link itself", name)}
	}
	resolve := uint64(launch.InRoot)
	if linkless(name) {
		resolve = launch.NoLinks
	}
	return b.p.Openat2("target "+name, b.root, strings.TrimPrefix(name, "/"), unix.O_PATH|unix.O_NOFOLLOW, 0, resolve), nil
}

// isLink tells whether there is a symlink at a path of a mount.
func (b *builder) isLink(m *mounted, rel string) (link bool) {
	switch {
	case m.fresh || rel == "":
	case m.source != "":
		_, link = b.facts.Link(path.Join(m.source, rel))
	case m.copied:
		below, inside := b.below(m)
		return b.isLink(below, path.Join(inside, rel))
	case m.path == "/":
		return b.facts.LinkInRoot("/" + rel)
	}
	return link
}

func (b *builder) open(name string, kind Kind, resolve uint64) launch.Reg {
	flags := uint64(unix.O_PATH)
	if kind == Dir {
		flags |= unix.O_DIRECTORY
	}
	rel := strings.TrimPrefix(name, "/")
	if rel == "" {
		rel = "."
	}
	return b.p.Openat2("target "+name, b.root, rel, flags, 0, resolve)
}

// find tells what is at a path of a mount.
func (b *builder) find(m *mounted, rel string) Kind {
	switch {
	case m.fresh:
		return m.made[rel] // where nothing is but what the program puts there
	case m.source != "":
		return b.facts.Host(path.Join(m.source, rel))
	case m.copied:
		below, inside := b.below(m)
		return b.find(below, path.Join(inside, rel))
	case rel == "":
		return Dir
	case m.path == "/":
		return b.facts.InRoot("/" + rel)
	}
	return Dir // procfs and its like: the kernel knows
}

// makeTarget makes the missing folders, each by the descriptor of the one above (CVE-2024-45310), and the target.
func (b *builder) makeTarget(name string, kind Kind, resolve uint64) launch.Reg {
	parent := path.Dir(name)
	m, rel := b.deepest(parent)
	var dir launch.Reg
	if b.find(m, rel) == Missing {
		dir = b.makeTarget(parent, Dir, resolve)
	} else {
		dir = b.open(parent, Dir, resolve)
	}
	base := path.Base(name)
	if kind == Dir {
		b.p.Mkdirat(dir, base, 0o755).Tolerate(unix.EEXIST)
		return b.open(name, Dir, resolve)
	}
	return b.p.Openat2("target "+name, dir, base, unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644, resolve)
}

// newFile are the flags for a file that must not be there yet. It is open for reading only: an open writer would keep
// the mount from becoming read-only.
const newFile = unix.O_RDONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW

// freshTarget makes the target in a tmpfs of our own, where nobody else could have put anything.
func (b *builder) freshTarget(m *mounted, name, rel string, kind Kind) launch.Reg {
	if rel == "" {
		return b.open(name, Dir, launch.NoLinks)
	}
	for i, c := range rel {
		if c == '/' && m.made[rel[:i]] == Missing {
			b.p.Mkdirat(m.reg, rel[:i], 0o755)
			m.made[rel[:i]] = Dir
		}
	}
	had := m.made[rel] != Missing
	m.made[rel] = kind
	if kind == Dir {
		if !had {
			b.p.Mkdirat(m.reg, rel, 0o755)
		}
		return b.p.Openat2("target "+name, m.reg, rel, unix.O_PATH|unix.O_DIRECTORY, 0, launch.NoLinks)
	}
	if had {
		return b.p.Openat2("target "+name, m.reg, rel, unix.O_PATH, 0, launch.NoLinks)
	}
	return b.p.Openat2("target "+name, m.reg, rel, newFile, 0o644, launch.NoLinks)
}

// readOnly makes the tmpfs mounts that were to be read-only so, now that everything is in them, and the root last.
func (b *builder) readOnly() error {
	for _, m := range b.lateReadOnly {
		b.p.Step(launch.Mounts, "make "+m.path+" read-only")
		b.p.MountSetattr(m.reg, "", 0, m.attrs, 0, 0)
	}
	if b.spec.Root != nil && b.spec.Root.Readonly {
		b.p.Step(launch.Root, "make the root read-only")
		b.p.MountSetattr(b.root, "", 0, unix.MOUNT_ATTR_RDONLY, 0, 0)
	}
	return b.rootPropagation()
}

// hostEvents is the propagation that decides whether mounts which the host makes later come in: by the root's own value alone.
func (b *builder) hostEvents() uint64 {
	if p := b.linux.RootfsPropagation; p == "slave" || p == "rslave" {
		return unix.MS_SLAVE
	}
	return unix.MS_PRIVATE
}

func (b *builder) rootPropagation() error {
	switch b.linux.RootfsPropagation {
	case "", "private", "rprivate", "slave", "rslave":
	case "shared", "rshared":
		b.p.Step(launch.Root, "share mount events of the root")
		b.p.MountSetattr(b.root, "", unix.AT_RECURSIVE, 0, 0, unix.MS_SHARED)
	case "unbindable", "runbindable":
		b.p.Step(launch.Root, "make the root unbindable")
		flags := 0
		if b.linux.RootfsPropagation == "runbindable" {
			flags = unix.AT_RECURSIVE
		}
		b.p.MountSetattr(b.root, "", flags, 0, 0, unix.MS_UNBINDABLE)
	default:
		return &UnsupportedError{"linux.rootfsPropagation", fmt.Sprintf("unknown value %q", b.linux.RootfsPropagation)}
	}
	return nil
}

// hasUserNS tells whether the sandbox has a user namespace other than the host's.
func (b *builder) hasUserNS() bool {
	_, ok := Namespace(b.spec, specs.UserNamespace)
	return ok
}
