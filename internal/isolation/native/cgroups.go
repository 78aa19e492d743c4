package native

import (
	"maps"
	"os"
	"path/filepath"
	"slices"

	"brig/internal/host"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hierarchies gives those of cgroup version 1 for an engine's bundle that mounts cgroups; nil where the machine has version 2
// alone. A sandbox of Brig's own has version 2 wherever it is mounted: a single mount.
func (l *launching) hierarchies() ([]plan.Hierarchy, error) {
	mounted := func(m specs.Mount) bool { return m.Type == "cgroup" }
	if l.options.Start == nil || os.Geteuid() != 0 || !slices.ContainsFunc(l.spec.Mounts, mounted) {
		return nil, nil
	}
	tree, err := host.Cgroups()
	if err != nil || tree.V2() {
		return nil, err
	}
	var groups map[string]string
	if l.options.Cgroup != nil {
		groups = l.options.Cgroup.Paths()
	}
	return hierarchiesOf(tree, groups)
}

// hierarchiesOf sorts the controllers by where they are mounted: /sys/fs/cgroup/cpu may be a link to one that has cpuacct, too.
func hierarchiesOf(tree *host.CgroupTree, groups map[string]string) ([]plan.Hierarchy, error) {
	var own map[string]string
	byMount := map[string]*plan.Hierarchy{}
	for _, controller := range slices.Sorted(maps.Keys(tree.Legacy)) {
		dir, err := filepath.EvalSymlinks(tree.Legacy[controller])
		if err != nil {
			return nil, err
		}
		h := byMount[dir]
		if h == nil {
			h = &plan.Hierarchy{Dir: filepath.Base(dir), Group: groups[controller]}
			byMount[dir] = h
		}
		h.Controllers = append(h.Controllers, controller)
		if h.Group != "" {
			continue
		}
		if own == nil {
			if own, err = host.OwnCgroups(); err != nil {
				return nil, err
			}
		}
		h.Group = filepath.Join(dir, own[controller])
	}
	var list []plan.Hierarchy
	for _, dir := range slices.Sorted(maps.Keys(byMount)) {
		list = append(list, *byMount[dir])
	}
	return list, nil
}
