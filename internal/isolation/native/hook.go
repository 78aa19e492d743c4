package native

import (
	"os"

	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Hook starts a hook in the namespaces of the sandbox that pidfd refers to: see plan.CompileHook. Of the options, Stdio
// are its streams and Cgroup is the group it runs in.
func Hook(spec *specs.Spec, h *specs.Hook, entered bool, bundle string, pidfd *os.File, o Options) (*Process, error) {
	compile := func(f *plan.Facts) (*plan.Plan, error) { return plan.CompileHook(spec, h, entered, bundle, f) }
	return start(spec, pidfd, &o, compile)
}
