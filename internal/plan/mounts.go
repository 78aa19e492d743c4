package plan

import (
	"cmp"
	"fmt"
	"path"
	"strings"

	"brig/internal/landlock"
	"brig/internal/launch"
	"brig/internal/mounts"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// prepare makes a mount, detached: a copy of a bind's source, or a new file system. A new procfs or sysfs needs the old root,
// where another is visible; the rest is made with them because /proc/PID/mountinfo lists mounts by their birth since Linux 6.8
// (kernel commit 2eea9ce4310d), and a bundle's come in its order.
func (b *builder) prepare(m *specs.Mount) error {
	if err := checkTarget(m.Destination, "mounts.destination"); err != nil {
		return err
	}
	o, err := mounts.Parse(m.Options)
	if err != nil {
		return &UnsupportedError{"mounts " + m.Destination, err.Error()}
	}
	if err := unsupportedMount(m, &o); err != nil {
		return err
	}
	made := mounted{path: path.Clean(m.Destination), prepared: o}
	switch {
	case o.Bind || m.Type == "bind":
		made.inside, _ = b.insideSource(m)
		if made.reg, err = b.prepareBind(m, &o); err != nil {
			return err
		}
		made.source = m.Source
	case b.legacyCgroups(m):
		made.groups = b.prepareCgroups(m)
	default:
		if o.TmpCopyUp {
			if made.reg, err = b.prepareCopyUp(m, &o); err != nil {
				return err
			}
			made.copied = made.reg != 0
		}
		if !made.copied {
			made.reg = b.prepareNew(m, &o)
		}
	}
	b.mounted = append(b.mounted, made)
	return nil
}

func (b *builder) prepareBind(m *specs.Mount, o *mounts.Options) (launch.Reg, error) {
	if o.CopySymlink {
		if _, ok := b.facts.Link(m.Source); ok {
			return 0, nil
		}
	}
	b.p.Step(launch.Mounts, fmt.Sprintf("bind %s to %s", m.Source, m.Destination))
	if _, ok := b.insideSource(m); ok {
		return 0, b.checkInsideSource(m, o) // attachBind makes it
	}
	if !path.IsAbs(m.Source) {
		return 0, &UnsupportedError{"mounts " + m.Destination, fmt.Sprintf("the source %q must be absolute", m.Source)}
	}
	if b.sourceKind(m, o) == Missing {
		if o.Optional {
			return 0, nil
		}
		return 0, &UnsupportedError{"mounts " + m.Destination, fmt.Sprintf("the source %s does not exist, or may not be read", m.Source)}
	}
	bind := Bind{Source: m.Source, Recursive: o.Recursive, NoFollow: o.SrcNoFollow, IDMapRecursive: o.IDMapRecursive}
	bind.Propagates = o.Propagation == unix.MS_SHARED || o.Propagation == unix.MS_SLAVE
	if err := b.mountMaps(m, o, &bind); err != nil {
		return 0, err
	}
	return b.inOrder(m, &bind), nil
}

// inOrder gives a bind mount its place in the order of births: the parent has made its copy before the child any file system,
// so the child copies it once more. That needs a place where the first can be: on the old root, which goes away with all that is
// on it. Hooks would see it there, and in a user namespace the copy would be locked, flags and all (mount_namespaces(7)): with
// either, the copies of the parent stay the eldest.
func (b *builder) inOrder(m *specs.Mount, bind *Bind) launch.Reg {
	reg := b.bind(m.Source, *bind)
	if joined, _ := Namespace(b.spec, specs.MountNamespace); !b.made || !b.facts.Privileged || b.facts.Hooks || b.hasUserNS() || joined != "" {
		return reg
	}
	place := "/dev/null"
	if b.facts.Host(m.Source) == Dir {
		place = "/proc"
	}
	b.p.MoveMountTo(reg, place)
	flags := uint64(unix.AT_EMPTY_PATH)
	if bind.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	again := b.p.OpenTree(m.Source, reg, "", flags)
	if bind.Propagates {
		b.p.MountSetattr(reg, "", unix.AT_RECURSIVE, 0, 0, unix.MS_PRIVATE) // what comes on top is nobody else's
	}
	return again
}

// mounts attaches the mounts in the spec's order. The list is built anew so that deepest sees only what is attached.
func (b *builder) mounts() error {
	prepared := b.mounted[1:]
	b.mounted = append(make([]mounted, 0, len(b.mounted)+1), b.mounted[0])
	for i := range b.spec.Mounts {
		if err := b.mount(&b.spec.Mounts[i], prepared[i]); err != nil {
			return err
		}
	}
	for i := range b.mounted {
		if m := &b.mounted[i]; m.path == "/dev" && m.fresh {
			b.dev = m
		} else if m.path == "/dev" {
			b.dev = nil // something lies over it
		}
	}
	return nil
}

func (b *builder) mount(m *specs.Mount, made mounted) error {
	o := &made.prepared
	if o.Bind || m.Type == "bind" {
		return b.attachBind(m, made)
	}
	if m.Type == "proc" || m.Type == "sysfs" {
		if below, rel := b.deepest(made.path); b.isLink(below, rel) { // CVE-2019-19921; runc's words
			return &UnsupportedError{"mounts " + m.Destination, fmt.Sprintf("filesystem %q must be mounted on ordinary directory", m.Type)}
		}
	}
	b.p.Step(launch.Mounts, fmt.Sprintf("mount %s on %s", m.Type, m.Destination))
	if b.legacyCgroups(m) {
		return b.mountCgroups(m, made)
	}
	if m.Type == "tmpfs" {
		if !made.copied {
			made.fresh, made.made = true, map[string]Kind{"": Dir}
		}
		if o.ReadOnly() {
			b.lateReadOnly = append(b.lateReadOnly, lateMount{reg: made.reg, path: made.path, attrs: unix.MOUNT_ATTR_RDONLY})
		}
	}
	b.propagation(made.reg, o)
	if err := b.attach(made, Dir); err != nil {
		return err
	}
	b.labelFolder(m, made.path)
	return nil
}

// prepareNew makes a new file system. Whether it may be made in a user namespace is the kernel's to say: of those with a device none
// may, and overlay may.
func (b *builder) prepareNew(m *specs.Mount, o *mounts.Options) launch.Reg {
	b.p.Step(launch.Mounts, "a new "+m.Type+" for "+m.Destination)
	attrs := o.Set | o.RecursiveSet
	b.made = true
	kind := m.Type
	switch kind {
	case "cgroup":
		kind = "cgroup2"
	case "tmpfs":
		// A read-only one becomes so when everything is in it.
		return b.tmpfsOf(cmp.Or(m.Source, "tmpfs"), "tmpfs "+path.Clean(m.Destination), attrs&^unix.MOUNT_ATTR_RDONLY, b.tmpfsData(path.Clean(m.Destination), o)...)
	}
	fs := b.p.Fsopen(kind)
	b.source(fs, m)
	b.labelMount(fs, kind)
	for _, d := range o.Data {
		if kind == "devpts" && strings.HasPrefix(d, "gid=") && !b.mapsGID(strings.TrimPrefix(d, "gid=")) {
			continue // the group has no id here; the slave then belongs to the group of its opener
		}
		b.option(fs, d)
	}
	b.p.FsconfigCreate(fs)
	reg := b.p.Fsmount(kind, fs, attrs)
	if kind == "devpts" {
		b.pts = reg
	}
	return reg
}

// source names the device of a mount. Where there is none the name is only shown, in /proc/PID/mountinfo.
func (b *builder) source(fs launch.Reg, m *specs.Mount) {
	if m.Source != "" {
		b.p.FsconfigString(fs, "source", m.Source)
	}
}

// mapsGID tells whether a group id has a host id in the sandbox's map.
func (b *builder) mapsGID(text string) bool {
	if !b.hasUserNS() {
		return true
	}
	var gid uint32
	if _, err := fmt.Sscanf(text, "%d", &gid); err != nil {
		return true
	}
	for _, m := range b.linux.GIDMappings {
		if gid >= m.ContainerID && gid-m.ContainerID < m.Size {
			return true
		}
	}
	return false
}

func (b *builder) attachBind(m *specs.Mount, made mounted) error {
	o := &made.prepared
	if o.CopySymlink {
		if to, ok := b.facts.Link(m.Source); ok {
			return b.copyLink(made.path, to)
		}
	}
	kind := b.sourceKind(m, o)
	if made.inside != "" {
		made.reg, made.source, kind = b.bindInside(m, o, made.inside)
	}
	if made.reg == 0 {
		return nil // optional and missing
	}
	b.p.Step(launch.Mounts, fmt.Sprintf("mount %s on %s", m.Source, m.Destination))
	if err := b.remount(m, made.reg, o); err != nil {
		return err
	}
	if o.RecursiveSet|o.RecursiveClear != 0 {
		b.p.MountSetattr(made.reg, "", unix.AT_RECURSIVE, o.RecursiveSet, o.RecursiveClear, 0)
	}
	b.propagation(made.reg, o)
	return b.attach(made, kind)
}

// sourceKind is what a bind mount brings.
func (b *builder) sourceKind(m *specs.Mount, o *mounts.Options) Kind {
	if _, link := b.facts.Link(m.Source); link && o.SrcNoFollow {
		return File // the link itself
	}
	return b.facts.Host(m.Source)
}

// propagation sets that of a mount that is not attached yet; it is private until then.
func (b *builder) propagation(reg launch.Reg, o *mounts.Options) {
	if o.Propagation == 0 || o.Propagation == unix.MS_PRIVATE {
		return
	}
	flags := 0
	if o.PropagationRecursive {
		flags = unix.AT_RECURSIVE
	}
	b.p.MountSetattr(reg, "", flags, 0, 0, o.Propagation)
}

// LockedFlagsError is a bind mount that is to lose flags which its user namespace locks (mount_namespaces(7)).
type LockedFlagsError struct{ Source, Destination string }

func (e *LockedFlagsError) Error() string {
	return fmt.Sprintf("%s on %s: its flags on the host are locked in a user namespace, and the options want others: %v", e.Source, e.Destination, unix.EPERM)
}

// remount sets the flags of a bind mount. A new user namespace locks those of the host's mount; the copy, which is still the
// host's, would let them go all the same. Where this process is in such a namespace itself, the kernel says which it keeps.
func (b *builder) remount(m *specs.Mount, reg launch.Reg, o *mounts.Options) error {
	switch {
	case !b.facts.Remounts:
		b.bindAttributes(reg, o)
	case !o.Remount.Named:
	case b.hasUserNS():
		has := b.facts.Attributes(m.Source)
		set, unset, ok := o.Remount.Locked(has)
		if !ok {
			return &LockedFlagsError{m.Source, m.Destination}
		}
		for i := range b.plan.Binds {
			if b.plan.Binds[i].Reg == reg {
				b.plan.Binds[i].Attributes = &has
			}
		}
		b.p.MountSetattr(reg, "", 0, set, unset, 0)
	default:
		set, unset := o.Remount.Attributes()
		b.p.MountSetattr(reg, "", 0, set, unset, 0)
		b.p.Last().Tolerate(unix.EPERM)
		set, unset = o.Remount.Only()
		b.p.MountSetattr(reg, "", 0, set, unset, 0)
	}
	return nil
}

// bindAttributes sets the flags of a bind mount itself: those of the mounts below it have names of their own ("rro" and its
// like; mount(8) has meant no more by "rbind,ro" since ever, and engines build on that).
func (b *builder) bindAttributes(reg launch.Reg, o *mounts.Options) {
	if o.Set|o.Clear != 0 {
		b.p.MountSetattr(reg, "", 0, o.Set, o.Clear, 0)
	}
}

// copyLink recreates a symlink of the host's in the RAM root (crun's copy-symlink).
func (b *builder) copyLink(name, to string) error {
	if !b.ram {
		return b.copyLinkInto(name, to)
	}
	b.p.Step(launch.Root, fmt.Sprintf("link %s to %s", name, to))
	b.p.Symlinkat(to, b.root, strings.TrimPrefix(name, "/"))
	b.links[name] = to
	b.mounted[0].made[strings.TrimPrefix(name, "/")] = File
	return nil
}

// copyLinkInto recreates it in a root file system or a mount. A link that is there, from an earlier start, is taken.
func (b *builder) copyLinkInto(name, to string) error {
	m, rel := b.deepest(name)
	if b.find(m, rel) != Missing && !b.isLink(m, rel) {
		return &UnsupportedError{"mounts " + name, "copy-symlink: something else than a link is there"}
	}
	dir, err := b.target(path.Dir(name), Dir)
	if err != nil {
		return err
	}
	b.p.Step(launch.Mounts, fmt.Sprintf("link %s to %s", name, to))
	b.p.Symlinkat(to, dir, path.Base(name)).Tolerate(unix.EEXIST)
	if m.fresh {
		m.made[rel] = File
	}
	return nil
}

// overRoot enters a mount on "/": attached over the root alone, nobody would see it. What was mounted before is covered.
func (b *builder) overRoot(made mounted, kind Kind) error {
	joined, own := Namespace(b.spec, specs.MountNamespace)
	switch {
	case kind != Dir:
		return &UnsupportedError{"mounts /", "a file cannot be the root"}
	case b.facts.Hooks, !own, joined != "", b.isExec():
		return &UnsupportedError{"mounts /", "is not supported with hooks, in a running sandbox, or without a mount namespace of its own"}
	}
	b.p.MoveMountTo(made.reg, "/")
	b.p.Fchdir(made.reg)
	b.p.PivotRoot(".", ".")
	b.p.Umount2(".", unix.MNT_DETACH)
	b.p.Chdir("/")
	b.root = made.reg
	b.mounted = append(b.mounted[:1:1], made)
	b.grant(made, kind)
	return nil
}

func (b *builder) attach(made mounted, kind Kind) error {
	if made.path == "/" {
		return b.overRoot(made, kind)
	}
	target := b.target
	if made.prepared.DestNoFollow {
		target = b.targetItself
	}
	at, err := target(made.path, kind)
	if err != nil {
		return err
	}
	b.p.MoveMount(made.reg, at)
	if !made.prepared.DestNoFollow {
		made.path = b.throughLinks(made.path)
	}
	b.mounted = append(b.mounted, made)
	b.grant(made, kind)
	return nil
}

// grant notes what Landlock will allow in a mount: what its flags allow. A read-only mount needs no rule, for the root
// grants reading.
func (b *builder) grant(m mounted, kind Kind) {
	if m.prepared.ReadOnly() {
		return
	}
	rights := uint64(landlock.Write)
	switch {
	case m.path == "/dev":
		rights = landlock.WriteFile | landlock.Truncate | landlock.IoctlDev
	case m.path == "/dev/pts":
		rights = landlock.WriteFile | landlock.IoctlDev
	case m.path == "/proc":
		rights = landlock.WriteFile | landlock.Truncate
	}
	if kind == File {
		rights &= landlock.Files
	}
	b.rules = append(b.rules, rule{path: m.path, rights: rights, file: kind == File})
}

// knownRule is grant for a mount that the sandbox already has.
func (b *builder) knownRule(m *specs.Mount) error {
	o, err := mounts.Parse(m.Options)
	if err != nil {
		return &UnsupportedError{"mounts " + m.Destination, err.Error()}
	}
	kind := Dir
	if o.Bind || m.Type == "bind" {
		if _, link := b.facts.Link(m.Source); link && o.CopySymlink {
			return nil
		}
		if kind = b.sourceKind(m, &o); kind == Missing {
			return nil
		}
	}
	b.grant(mounted{path: path.Clean(m.Destination), prepared: o}, kind)
	return nil
}
