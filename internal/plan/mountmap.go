package plan

import (
	"fmt"

	"brig/internal/mounts"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mountMaps decides the id maps of a mount: its own in the spec come first, then those of its idmap option, then the
// sandbox's (runtime-spec config.md, "idmap").
func (b *builder) mountMaps(m *specs.Mount, o *mounts.Options, bind *Bind) error {
	refuse := func(format string, args ...any) error {
		return &UnsupportedError{"mounts " + m.Destination, fmt.Sprintf(format, args...)}
	}
	switch {
	case len(m.UIDMappings) > 0:
		bind.UID, bind.GID = m.UIDMappings, m.GIDMappings
	case len(o.UID) > 0:
		var err error
		if bind.UID, err = absolute(o.UID, b.linux.UIDMappings); err != nil {
			return refuse("uids: %v", err)
		}
		if bind.GID, err = absolute(o.GID, b.linux.GIDMappings); err != nil {
			return refuse("gids: %v", err)
		}
	case o.IDMap && !b.hasUserNS():
		return refuse("idmap needs uidMappings and gidMappings, or a user namespace of the sandbox's own")
	default:
		bind.OwnIDs = o.IDMap
	}
	if (bind.OwnIDs || len(bind.UID) > 0) && !b.facts.Privileged {
		return refuse("idmapped mounts need root")
	}
	return nil
}

// absolute turns ranges of an option into maps. A relative one must lie in one range of the sandbox's: crun leaves that to
// the caller and maps to ids of nobody's.
func absolute(ranges []mounts.IDRange, own []specs.LinuxIDMapping) ([]specs.LinuxIDMapping, error) {
	list := make([]specs.LinuxIDMapping, 0, len(ranges))
	for _, r := range ranges {
		host := r.HostID
		if r.Relative {
			found := false
			for _, o := range own {
				if r.HostID >= o.ContainerID && uint64(r.HostID)+uint64(r.Size) <= uint64(o.ContainerID)+uint64(o.Size) {
					host, found = o.HostID+(r.HostID-o.ContainerID), true
				}
			}
			if !found {
				return nil, fmt.Errorf("@%d-%d-%d lies in no range of the sandbox's own map", r.ID, r.HostID, r.Size)
			}
		}
		list = append(list, specs.LinuxIDMapping{ContainerID: r.ID, HostID: host, Size: r.Size})
	}
	return list, nil
}
