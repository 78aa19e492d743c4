package operator

import (
	"path"
	"slices"
	"strings"

	"brig/internal/caps"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mighty are the capabilities whose holder owns the host when no user namespace bounds them: by loading code into the
// kernel, by mounts and devices, by reading any file or process (capabilities(7)).
const mighty = 1<<2 | 1<<16 | 1<<17 | 1<<19 | 1<<21 | 1<<22 | 1<<32 | 1<<33 | 1<<38 | 1<<39

// privileged refuses what Docker's --privileged and its like make of a bundle.
func (p *Policy) privileged(spec *specs.Spec) error {
	if !p.ForbidPrivileged {
		return nil
	}
	if why := Privileged(spec); len(why) > 0 {
		return &RefusedError{"forbid-privileged", strings.Join(why, "; ")}
	}
	return nil
}

// mightyOf are the mighty capabilities of a bundle's process. A name that nobody knows is none; plan leaves it out.
func mightyOf(spec *specs.Spec) (held caps.Set) {
	if spec.Process == nil || spec.Process.Capabilities == nil || has(spec, specs.UserNamespace) {
		return 0
	}
	c := spec.Process.Capabilities
	for _, name := range slices.Concat(c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient) {
		if one, err := caps.Parse(name); err == nil {
			held |= one.Mask() & mighty
		}
	}
	return held
}

// TightenExec makes a further process of a container obey the policy; spec is the container's with that process in it.
func (p *Policy) TightenExec(spec *specs.Spec) error {
	if held := mightyOf(spec); p != nil && p.ForbidPrivileged && held != 0 {
		return &RefusedError{"forbid-privileged", "the process has " + held.String() + " without a user namespace"}
	}
	return p.tightenProcess(spec.Process)
}

// CheckMounts refuses mounts that are added to a container after Tighten has seen its bundle.
func (p *Policy) CheckMounts(list []specs.Mount) error {
	if p == nil || !p.ForbidPrivileged {
		return nil
	}
	for _, m := range list {
		if m.Type == "proc" {
			return &RefusedError{"forbid-privileged", "nothing of the /proc on " + m.Destination + " is masked or read-only"}
		}
	}
	return nil
}

// Privileged says what makes the root of a bundle as good as the host's, with its user namespace as it stands: nothing,
// for most.
func Privileged(spec *specs.Spec) (why []string) {
	if held := mightyOf(spec); held != 0 {
		why = append(why, "it has "+held.String()+" without a user namespace")
	}
	if r := spec.Linux.Resources; r != nil {
		for _, d := range r.Devices {
			wild := d.Major == nil || *d.Major < 0
			if d.Allow && wild && strings.ContainsAny(d.Access, "rw") {
				why = append(why, "it may use every device of the host")
				break
			}
		}
	}
	for _, m := range spec.Mounts {
		inside := func(name string) bool {
			return strings.HasPrefix(name, strings.TrimSuffix(path.Clean(m.Destination), "/")+"/")
		}
		if m.Type == "proc" && !slices.ContainsFunc(slices.Concat(spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths), inside) {
			why = append(why, "nothing of "+m.Destination+" is masked or read-only")
		}
	}
	if !has(spec, specs.MountNamespace) {
		why = append(why, "it has no mount namespace")
	}
	return why
}
