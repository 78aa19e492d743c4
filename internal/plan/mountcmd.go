package plan

import (
	"path"

	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CompileMounts makes the plan of a process that joins a running sandbox, adds the mounts of the spec there or takes them away, and
// stops at PointReady, to be ended. spec is the sandbox's own with Mounts replaced, and Root.Path the root as the sandbox sees it.
func CompileMounts(spec *specs.Spec, facts *Facts, remove bool) (*Plan, error) {
	if !facts.Privileged {
		return nil, &UnsupportedError{"mounts", "of a running sandbox need root"} // the sources would be opened inside
	}
	if spec.Linux != nil && HostMounts(spec) { // "/" would be the host's root
		return nil, &UnsupportedError{"mounts", "of a running sandbox need a mount namespace of its own: this one's are the host's"}
	}
	b, err := newBuilder(spec, facts)
	if err != nil {
		return nil, err
	}
	if err := b.joinNamespaces(); err != nil {
		return nil, err
	}
	b.p.Step(launch.Root, "hold the sandbox's root")
	b.root = b.p.Openat2("root", 0, "/", unix.O_PATH|unix.O_DIRECTORY, 0, 0)
	b.mounted = []mounted{{path: "/", reg: b.root, made: map[string]Kind{"": Dir}}}
	for i := range spec.Mounts {
		if err := b.changeMount(&spec.Mounts[i], remove); err != nil {
			return nil, err
		}
	}
	for _, m := range b.lateReadOnly {
		b.p.Step(launch.Mounts, "make "+m.path+" read-only")
		b.p.MountSetattr(m.reg, "", 0, m.attrs, 0, 0)
	}
	b.p.Step(launch.Mounts, "be done")
	b.p.Await(launch.PointReady)
	return b.plan, nil
}

func (b *builder) changeMount(m *specs.Mount, remove bool) error {
	if remove {
		if err := checkTarget(m.Destination, "mounts.destination"); err != nil {
			return err
		}
		b.p.Step(launch.Mounts, "unmount "+m.Destination)
		b.p.Umount2(path.Clean(m.Destination), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		return nil
	}
	last := len(b.mounted)
	b.made = false // nobody asks for the order of births here
	if err := b.prepare(m); err != nil {
		return err
	}
	made := b.mounted[last]
	b.mounted = b.mounted[:last]
	return b.mount(m, made)
}
