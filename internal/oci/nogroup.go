package oci

import (
	"errors"
	"fmt"

	"brig/internal/cgroup"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// withoutGroup says whether a container may go without a cgroup because of why: its user has none to give, and its bundle names
// none. A limit that only a cgroup enforces is then an error, as in runc. Device rules are no such limit: a user's container cannot
// make devices, and root who disables cgroups asks for just that.
func (a *app) withoutGroup(spec *specs.Spec, why error) error {
	denied := errors.Is(why, unix.EACCES) || errors.Is(why, unix.EPERM) || errors.Is(why, unix.EROFS)
	switch {
	case errors.Is(why, errNoGroups):
	case spec.Linux.CgroupsPath != "":
		return fmt.Errorf("unable to apply cgroup configuration: %w", why) // runc's words, and below
	case errors.Is(why, cgroup.ErrNotDelegated), denied && a.rootless:
	default:
		return why
	}
	if field := limited(spec.Linux.Resources); field != "" {
		return fmt.Errorf("config.json: linux.resources: cannot set %s limit: container could not join or create cgroup: %w", field, why)
	}
	return nil
}

// lacking gives the first limit that was left out of a group because this machine cannot enforce it: a container without it would
// be weaker than its bundle says, and nobody would hear of it. Device rules are none, as above.
func lacking(g *cgroup.Cgroup) error {
	for _, err := range g.Missing() {
		var missing *cgroup.MissingError
		if !errors.As(err, &missing) || missing.Controller != "devices" {
			return err
		}
	}
	return nil
}

// errNoGroups is --cgroup-manager=disabled.
var errNoGroups = errors.New("cgroups are disabled by --cgroup-manager")

// limited names the first limit there is.
func limited(r *specs.LinuxResources) string {
	if r == nil {
		return ""
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"memory", r.Memory != nil && (r.Memory.Limit != nil || r.Memory.Swap != nil || r.Memory.Reservation != nil)},
		{"cpu", r.CPU != nil && *r.CPU != (specs.LinuxCPU{})},
		{"pids", r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit > 0},
		{"blockIO", r.BlockIO != nil},
		{"hugepageLimits", len(r.HugepageLimits) > 0},
		{"network", r.Network != nil && (r.Network.ClassID != nil || len(r.Network.Priorities) > 0)},
		{"rdma", len(r.Rdma) > 0},
		{"unified", len(r.Unified) > 0},
	} {
		if f.set {
			return f.name
		}
	}
	return ""
}
