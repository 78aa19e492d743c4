package gvisor

import (
	"brig/internal/isolation/gvisor/job"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Plan is what Start launches for a spec: the plan of the kernel process.
func Plan(spec *specs.Spec, facts *plan.Facts) (*plan.Plan, error) {
	if err := Check(spec); err != nil {
		return nil, err
	}
	f := *facts
	f.ProgramGiven, f.Workdir = true, spec.Process.Cwd
	f.PassFDs += job.FirstFD - job.FD
	return plan.Compile(kernelSpec(spec), &f)
}

// KernelSpec is what the launch program makes of the kernel process on the host; beside its filter that process loads gVisor's.
func KernelSpec(spec *specs.Spec) *specs.Spec { return kernelSpec(spec) }
