package oci

import (
	"fmt"
	"os"

	"brig/internal/annotation"
	"brig/internal/host"
	"brig/internal/idmap"
	"brig/internal/operator"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// demand makes a new container's spec obey the operator's policy, and chooses its isolation, of which one that is not built in is
// refused. The policy is nil where the machine has none; the spec is then as it was.
func demand(spec *specs.Spec) (policy *operator.Policy, isolation string, err error) {
	if policy, err = operator.Load(); err != nil {
		return nil, "", err
	}
	if isolation, err = policy.ChooseIsolation(os.Args[0], spec.Annotations); err != nil {
		return nil, "", err
	}
	if isolation == "vm" {
		return nil, "", fmt.Errorf("isolation %s is asked for, and this brig-oci has only native and gvisor built in: nothing is started on a weaker one", isolation)
	}
	if err := policy.Tighten(spec); err != nil {
		return nil, "", err
	}
	if isolation == "gvisor" {
		return policy, isolation, checkGVisor(spec)
	}
	return policy, isolation, nil
}

// takeIDs takes host ids of its own for a container that the operator's policy gives a user namespace, and for one on gVisor's kernel that
// has none: the kernel process is then a user that nobody else is.
func (c *container) takeIDs(spec *specs.Spec) error {
	if _, own := plan.Namespace(spec, specs.UserNamespace); c.onGVisor() && !own && !host.InUserNamespace() {
		r, err := idmap.Allocate(idmap.MachineDir, c.dir)
		if err == nil {
			c.IDs = &r
		}
		return err
	}
	if spec.Annotations[annotation.IDs] != "auto" || len(spec.Linux.UIDMappings) > 0 {
		return nil
	}
	if os.Geteuid() != 0 {
		return &operator.RefusedError{Key: "user-namespace", Reason: "host ids of its own can be given by root only; map the caller's in the bundle"}
	}
	r, err := idmap.Allocate(idmap.MachineDir, c.dir)
	if err != nil {
		return err
	}
	c.IDs = &r
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = r.Mappings(), r.Mappings()
	return nil
}

// kernelUser is the host's id of gVisor's kernel process, 0 where the container's user namespace says it.
func (c *container) kernelUser(spec *specs.Spec) uint32 {
	if _, own := plan.Namespace(spec, specs.UserNamespace); own || c.IDs == nil {
		return 0
	}
	return c.IDs.First
}

// releaseIDs gives the container's ids back. Preconditions: no process has them any more.
func (c *container) releaseIDs() error {
	if c.IDs == nil {
		return nil
	}
	return idmap.Release(idmap.MachineDir, c.dir, *c.IDs)
}

// sweepIDs gives back what a killed create took and did not write down.
func (c *container) sweepIDs() error {
	_, err := idmap.Sweep(idmap.MachineDir, func(owner string) bool { return owner != c.dir })
	return err
}
