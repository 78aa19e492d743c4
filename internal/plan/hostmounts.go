package plan

import (
	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A bundle without a mount namespace shares that of the runtime (runtime-spec config-linux.md, "Namespaces"). Its root is then
// attached where it lies on the host and entered by chroot(2): a pivot_root(2) would move the root of everybody there. The
// mounts are the host's until somebody takes them away; package oci does when it deletes the container.

// HostMounts tells whether a spec has no mount namespace.
func HostMounts(spec *specs.Spec) bool {
	_, ok := Namespace(spec, specs.MountNamespace)
	return !ok
}

// checkHostMounts refuses what cannot be had in the host's mount namespace.
func (b *builder) checkHostMounts() error {
	if !HostMounts(b.spec) {
		return nil
	}
	refuse := func(reason string) error { return &UnsupportedError{"linux.namespaces", reason} }
	switch {
	case b.ram || b.facts.Supervised:
		return refuse("a mount namespace is needed: without one the sandbox would share the host's mounts")
	case b.hasUserNS():
		return refuse("a user namespace needs a mount namespace beside it: it has no rights over the host's mounts")
	case !b.facts.Privileged:
		return refuse("a bundle without a mount namespace needs root")
	case len(b.linux.MaskedPaths)+len(b.linux.ReadonlyPaths) > 0: // runc's words
		return refuse("unable to restrict sys entries without a private MNT namespace")
	}
	return nil
}

// chrootRoot enters the root that showRoot has attached.
func (b *builder) chrootRoot() error {
	b.p.Step(launch.Root, "enter the root by chroot, for the mounts are the host's")
	b.p.Fchdir(b.root)
	b.p.Chroot(".")
	b.p.Chdir("/")
	return nil
}

// joinRoot enters the root of a sandbox without a mount namespace, which setns(2) does not do.
func (b *builder) joinRoot() {
	if !HostMounts(b.spec) {
		return
	}
	b.p.Step(launch.Root, "enter the sandbox's root by chroot, for the mounts are the host's")
	b.plan.Root = b.p.Input("root of the sandbox")
	b.p.Fchdir(b.plan.Root)
	b.p.Chroot(".")
}
