package plan

import (
	"slices"

	"brig/internal/caps"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Guest gives a process as a plan has it, for one that another kernel than the host's executes: numbers that are none and sets that no
// kernel gives are refused, and what may be left out with a warning is.
func Guest(pr *specs.Process) (*specs.Process, []string, error) {
	b := &builder{facts: &Facts{LastCap: caps.Max, Caps: caps.All, Lenient: true}, plan: &Plan{}, spec: &specs.Spec{Linux: &specs.Linux{}}}
	b.linux = b.spec.Linux
	if err := b.ranges(pr); err != nil {
		return nil, nil, err
	}
	sets, err := b.capabilities(pr.Capabilities)
	if err != nil {
		return nil, nil, err
	}
	if (sets.effective|sets.ambient)&^sets.permitted != 0 { // the host's says EPERM (capset(2))
		return nil, nil, &UnsupportedError{"process.capabilities", "effective and ambient capabilities must be among the permitted ones, and those among the bounding ones"}
	}
	out := *pr
	if c := pr.Capabilities; c != nil {
		out.Capabilities = &specs.LinuxCapabilities{
			Bounding: sets.bounding.Names(), Effective: sets.effective.Names(), Permitted: sets.permitted.Names(),
			Inheritable: sets.inheritable.Names(), Ambient: sets.ambient.Names(),
		}
	}
	return &out, slices.Clip(b.plan.Warnings), nil
}
