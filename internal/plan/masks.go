package plan

import (
	"maps"
	"path"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/launch"

	"golang.org/x/sys/unix"
)

// masks covers what must not be seen and seals what must not be written. Masks are mounts held by descriptors: of the
// sandbox's own /dev/null it is the node just made, which is never looked up again (CVE-2025-31133).
func (b *builder) masks() error {
	var empty launch.Reg // the first empty folder; others are copies of it
	covered := map[string]bool{}
	for _, name := range b.linux.MaskedPaths {
		if covered[path.Clean(name)] {
			continue // it stands in the list twice
		}
		covered[path.Clean(name)] = true
		kind, err := b.maskKind(name, "linux.maskedPaths")
		if err != nil {
			return err
		}
		if kind == Missing {
			continue
		}
		b.p.Step(launch.ProcSys, "mask "+name)
		at := b.openMask(name)
		switch {
		case kind == File:
			b.p.MoveMount(b.nullMask(), at)
		case empty == 0:
			empty = b.tmpfs("empty folder", unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, "mode=755", "size=4k", "nr_inodes=1")
			b.p.MoveMount(empty, at)
		default:
			b.p.MoveMount(b.p.OpenTree("mask", empty, "", unix.AT_EMPTY_PATH), at)
		}
	}
	return b.readonlyPaths()
}

// nullMask gives a mount of /dev/null: the one at hand when it is nowhere yet, for before Linux 6.15 a detached mount
// cannot be copied (open_tree(2) fails with EINVAL).
func (b *builder) nullMask() launch.Reg {
	if b.dev == nil && !b.nullUsed {
		b.nullUsed = true
		return b.null
	}
	return b.p.OpenTree("mask", b.null, "", unix.AT_EMPTY_PATH)
}

func (b *builder) readonlyPaths() error {
	for _, name := range b.linux.ReadonlyPaths {
		kind, err := b.maskKind(name, "linux.readonlyPaths")
		if err != nil {
			return err
		}
		if kind == Missing {
			continue
		}
		b.p.Step(launch.ProcSys, "seal "+name)
		at := b.openMask(name)
		copied := b.p.OpenTree("sealed "+name, at, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
		b.p.MountSetattr(copied, "", unix.AT_RECURSIVE, unix.MOUNT_ATTR_RDONLY, 0, 0)
		b.p.MoveMount(copied, at)
	}
	return nil
}

// openMask opens a path to be covered. A link on the way fails the launch; a path that this procfs lacks is skipped.
func (b *builder) openMask(name string) launch.Reg {
	name = b.throughLinks(path.Clean(name))
	at := b.p.Openat2(name, b.root, strings.TrimPrefix(name, "/"), unix.O_PATH, 0, launch.NoLinks)
	b.p.Last().Tolerate(unix.ENOENT, unix.ENOTDIR)
	return at
}

// maskKind looks at a path: in procfs and sysfs the host's are like the sandbox's, elsewhere the root folder decides.
func (b *builder) maskKind(name, field string) (Kind, error) {
	if err := checkInside(name, field); err != nil {
		return Missing, err
	}
	name = b.throughLinks(path.Clean(name))
	m, rel := b.deepest(name)
	if rel != "" && (m.path == "/proc" || m.path == "/sys") && m.source == "" {
		return b.facts.Host(name), nil
	}
	return b.find(m, rel), nil
}

// sysctls writes the spec's sysctls and the ban on further user namespaces, through the private procfs.
func (b *builder) sysctls() error {
	for _, key := range slices.Sorted(maps.Keys(b.linux.Sysctl)) {
		file, err := b.sysctlFile(key)
		if err != nil {
			return err
		}
		b.writeProc(launch.ProcSys, "set sysctl "+key, file, b.linux.Sysctl[key])
	}
	if b.annotated(annotation.MaxUserNamespaces, "0") && b.hasUserNS() {
		b.writeProc(launch.Namespaces, "forbid further user namespaces", "sys/user/max_user_namespaces", "0")
	}
	return nil
}

// writeProc writes one file of the private procfs in one call.
func (b *builder) writeProc(layer launch.Layer, why, file, value string) {
	b.p.Step(layer, why)
	fd := b.p.Openat2(file, b.proc, file, unix.O_WRONLY, 0, beneath)
	b.p.Write(fd, value)
}

// beneath allows procfs' own links, self and thread-self, and nothing that leads to another mount.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS
