package plan

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/launch"
	"brig/internal/mounts"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// tmpfsData are the options of a tmpfs. One without a mode of its own gets that of the folder it covers, as runc has it: /tmp
// stays everybody's, and /run root's.
func (b *builder) tmpfsData(name string, o *mounts.Options) []string {
	if slices.ContainsFunc(o.Data, func(d string) bool { return strings.HasPrefix(d, "mode=") }) {
		return o.Data
	}
	if m, _ := b.deepest(name); m.path != "/" || b.ram {
		return o.Data
	}
	mode, ok := b.facts.ModeInRoot(name)
	switch {
	case !ok && o.TmpCopyUp && b.plan.Overlay != nil:
		mode = 0o755 // that of the folder which is made there
	case !ok:
		return o.Data
	}
	return append([]string{fmt.Sprintf("mode=%o", mode)}, o.Data...)
}

// below is the mount that a mount is in, and its path there.
func (b *builder) below(m *mounted) (*mounted, string) {
	if m.path == "/" {
		return &b.mounted[0], "" // the root file system itself lies below one that is mounted on it
	}
	on, rel := b.deepest(path.Dir(m.path))
	return on, path.Join(rel, path.Base(m.path))
}

// prepareCopyUp has the parent make a tmpfs and copy into it what it is going to cover; a launch program has no loops. It
// gives none where there is nothing to copy.
func (b *builder) prepareCopyUp(m *specs.Mount, o *mounts.Options) (launch.Reg, error) {
	refuse := func(reason string) (launch.Reg, error) {
		return 0, &UnsupportedError{"mounts " + m.Destination, "tmpcopyup " + reason}
	}
	name := path.Clean(m.Destination)
	on, rel := b.deepest(name)
	c := CopyUp{Root: on.source, Path: rel, Source: cmp.Or(m.Source, "tmpfs"), Attrs: (o.Set | o.RecursiveSet) &^ unix.MOUNT_ATTR_RDONLY, Data: o.Data}
	switch {
	case on.path == "/" && b.ram, on.path != "/" && on.source == "":
		return 0, nil // on something that is empty yet
	case on.path == "/":
		c.Root = b.spec.Root.Path
	}
	switch kind := b.find(on, rel); {
	case kind == Missing:
		return 0, nil
	case kind == File:
		return refuse("is for a directory")
	case !b.facts.Privileged:
		return refuse("needs root")
	case b.hasUserNS() && slices.ContainsFunc(o.Data, func(d string) bool { return strings.HasPrefix(d, "uid=") || strings.HasPrefix(d, "gid=") }):
		return refuse("takes no uid= and gid= in a user namespace: the copy has the owners of what it is made from")
	}
	if b.annotated(annotation.RootIDMap, "true") && on.path == "/" {
		c.UID, c.GID = b.linux.UIDMappings, b.linux.GIDMappings
	}
	if b.mountLabel != "" {
		c.Data = append([]string{"context=" + b.mountLabel}, c.Data...)
	}
	c.Reg = b.p.Input("tmpfs " + name)
	b.plan.CopyUps = append(b.plan.CopyUps, c)
	return c.Reg, nil
}
