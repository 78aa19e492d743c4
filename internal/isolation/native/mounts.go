package native

import (
	"os"

	"brig/internal/launch"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Mounts adds the mounts of spec to the sandbox whose first process pidfd refers to, or removes them. The rest of spec is the
// sandbox's own, but for its root: that is a path by which the sandbox's root is seen from here.
func Mounts(spec *specs.Spec, pidfd *os.File, remove bool) error {
	l := &launching{spec: spec, options: &Options{}}
	defer l.close()
	if err := l.inputs(func(f *plan.Facts) (*plan.Plan, error) { return plan.CompileMounts(spec, f, remove) }); err != nil {
		return err
	}
	l.bind(l.plan.Process, pidfd)
	child, err := l.plan.Program.Start(launch.Clone{Flags: l.plan.CloneFlags}, l.files)
	if err != nil {
		return err
	}
	defer child.Release() //nolint:errcheck // descriptors only
	defer child.Kill()
	return child.WaitFor(launch.PointReady)
}
