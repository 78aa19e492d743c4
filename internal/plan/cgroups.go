package plan

import (
	"path"
	"strings"

	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Hierarchy is a mounted hierarchy of cgroup version 1.
type Hierarchy struct {
	// Dir is its folder's name below the mount point, as on the host: "memory", or "cpu,cpuacct".
	Dir string
	// Controllers are the options that mount it.
	Controllers []string
	// Group is the sandbox's own group in it, a path of the host's.
	Group string
}

// legacyCgroups tells whether a mount of type cgroup means the hierarchies of version 1. To an engine it means the host's version:
// programs read their limits from /sys/fs/cgroup/memory.
func (b *builder) legacyCgroups(m *specs.Mount) bool {
	return m.Type == "cgroup" && len(b.facts.Hierarchies) > 0
}

// ownCgroups tells whether a mount of cgroups shows the sandbox's group as the root, because it has a cgroup namespace.
func (b *builder) ownCgroups() bool {
	_, ok := Namespace(b.spec, specs.CgroupNamespace)
	return ok
}

// prepareCgroups takes the sandbox's own groups as bind mounts where no cgroup namespace keeps the host's out of view.
func (b *builder) prepareCgroups(m *specs.Mount) []launch.Reg {
	if b.ownCgroups() {
		return nil
	}
	b.p.Step(launch.Mounts, "take the sandbox's own control groups for "+m.Destination)
	var regs []launch.Reg
	for _, h := range b.facts.Hierarchies {
		regs = append(regs, b.bind("cgroup "+h.Dir, Bind{Source: h.Group}))
	}
	return regs
}

// mountCgroups makes a tmpfs with a folder for each hierarchy, as every distribution has it at /sys/fs/cgroup.
func (b *builder) mountCgroups(m *specs.Mount, made mounted) error {
	o := &made.prepared
	attrs := o.Set | o.RecursiveSet
	made.fresh, made.made = true, map[string]Kind{"": Dir}
	made.reg = b.tmpfs("cgroups", attrs&^unix.MOUNT_ATTR_RDONLY, "mode=755")
	if o.ReadOnly() {
		b.lateReadOnly = append(b.lateReadOnly, lateMount{reg: made.reg, path: made.path, attrs: unix.MOUNT_ATTR_RDONLY})
	}
	if err := b.attach(made, Dir); err != nil {
		return err
	}
	in := &b.mounted[len(b.mounted)-1]
	for i, h := range b.facts.Hierarchies {
		b.p.Step(launch.Mounts, "mount cgroup "+h.Dir+" on "+path.Join(m.Destination, h.Dir))
		at := b.freshTarget(in, path.Join(in.path, h.Dir), h.Dir, Dir)
		b.p.MoveMount(b.hierarchy(&h, i, made.groups, attrs), at)
		for _, c := range h.Controllers {
			if c != h.Dir && len(h.Controllers) > 1 {
				b.p.Symlinkat(h.Dir, in.reg, c)
				in.made[c] = File
			}
		}
	}
	return nil
}

func (b *builder) hierarchy(h *Hierarchy, i int, groups []launch.Reg, attrs uint64) launch.Reg {
	if len(groups) > 0 {
		b.p.MountSetattr(groups[i], "", 0, attrs, 0, 0)
		return groups[i]
	}
	fs := b.p.Fsopen("cgroup")
	b.p.FsconfigString(fs, "source", "cgroup")
	for _, c := range h.Controllers {
		if name, ok := strings.CutPrefix(c, "name="); ok { // a hierarchy without a controller
			b.p.FsconfigString(fs, "name", name)
			continue
		}
		b.p.FsconfigFlag(fs, c)
	}
	b.p.FsconfigCreate(fs)
	return b.p.Fsmount("cgroup "+h.Dir, fs, attrs)
}
