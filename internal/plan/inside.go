package plan

import (
	"fmt"
	"path"
	"strings"

	"brig/internal/launch"
	"brig/internal/mounts"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// insideSource gives the source of a bind mount as a path of the sandbox's, when it lies where an earlier mount of the spec goes:
// it means what is mounted there, which the host does not see. The earlier mounts are those in b.mounted.
func (b *builder) insideSource(m *specs.Mount) (name string, ok bool) {
	if b.ram || b.spec.Root == nil {
		return "", false
	}
	rel, ok := strings.CutPrefix(path.Clean(m.Source), path.Clean(b.spec.Root.Path)+"/")
	if !ok {
		return "", false
	}
	name = "/" + rel
	for _, made := range b.mounted[1:] {
		if name == made.path || strings.HasPrefix(name, strings.TrimSuffix(made.path, "/")+"/") || strings.HasPrefix(made.path, name+"/") {
			return name, true
		}
	}
	return "", false
}

// checkInsideSource refuses what only the parent can do, which does not see such a source.
func (b *builder) checkInsideSource(m *specs.Mount, o *mounts.Options) error {
	if o.IDMap || len(m.UIDMappings) > 0 {
		return &UnsupportedError{"mounts " + m.Destination, fmt.Sprintf("the source %s is where an earlier mount goes; such a one cannot be idmapped", m.Source)}
	}
	return nil
}

// bindInside copies a part of the tree that has been mounted so far. It is looked up inside the root, as all else is.
func (b *builder) bindInside(m *specs.Mount, o *mounts.Options, name string) (reg launch.Reg, source string, kind Kind) {
	b.p.Step(launch.Mounts, fmt.Sprintf("bind %s, as it is by now, to %s", m.Source, m.Destination))
	from, rel := b.deepest(name)
	if kind = b.find(from, rel); kind == Missing && o.Optional {
		return 0, "", kind
	}
	if kind == Missing {
		kind = Dir // what an earlier mount brings along is not known here; the kernel finds it, or not
	}
	flags := uint64(unix.AT_EMPTY_PATH)
	if o.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	at := b.p.Openat2("source "+name, b.root, strings.TrimPrefix(name, "/"), unix.O_PATH, 0, launch.InRoot)
	reg = b.p.OpenTree(m.Source, at, "", flags)
	if from.source != "" {
		return reg, path.Join(from.source, rel), kind
	}
	return reg, m.Source, kind
}
