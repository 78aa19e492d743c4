package main

import (
	"maps"
	"slices"
	"testing"

	"brig/internal/isolation/gvisor/job"
	"brig/internal/seccomp"

	gvisorseccomp "gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	sentryfilter "gvisor.dev/gvisor/runsc/boot/filter/config"
	goferfilter "gvisor.dev/gvisor/runsc/fsgofer/filter/config"
)

// TestCalls: Brig's filters of the two programs let through what gVisor's over them let through, and what a start takes.
func TestCalls(t *testing.T) {
	constructor, err := platform.Lookup(platformName)
	if err != nil {
		t.Fatal(err)
	}
	opt := sentryfilter.Options{Platform: constructor.PrecompiledSeccompInfo()[0], ControllerFD: job.ControlFD}
	rules, deny := sentryfilter.Rules(opt)
	checkCalls(t, "KernelRun", job.KernelRun, job.KernelStart, letThrough(t, rules, deny, sentryfilter.SeccompOptions(opt)))
	rules, deny = goferfilter.Rules(goferfilter.Options{LisafsNeeded: true})
	checkCalls(t, "GoferRun", job.GoferRun, job.GoferStart, letThrough(t, rules, deny, gvisorseccomp.ProgramOptions{}))
}

func checkCalls(t *testing.T, list string, run, start []string, want map[string]bool) {
	t.Helper()
	if names := slices.Sorted(maps.Keys(want)); !slices.Equal(run, names) {
		t.Errorf("job.%s has to be what gVisor's filter lets through: %q", list, names)
	}
	for _, name := range start {
		if want[name] {
			t.Errorf("job.%s has %s already", list, name)
		}
	}
}

// letThrough gives the calls that a filter of gVisor's allows with some arguments.
func letThrough(t *testing.T, rules, deny gvisorseccomp.SyscallRules, o gvisorseccomp.ProgramOptions) map[string]bool {
	t.Helper()
	p := &gvisorseccomp.Program{RuleSets: []gvisorseccomp.RuleSet{{Rules: deny}, {Rules: rules, Action: gvisorseccomp.Allow}}, Options: o}
	code, _, err := p.Build()
	if err != nil {
		t.Fatal(err)
	}
	var program []seccomp.Instruction
	for _, i := range code {
		program = append(program, seccomp.Instruction{Code: i.OpCode, Jt: i.JumpIfTrue, Jf: i.JumpIfFalse, K: i.K})
	}
	allowed := map[string]bool{}
	for _, c := range seccomp.Summarize(program, seccomp.Native()) {
		if slices.Contains(c.Verdicts, seccomp.Allow) {
			allowed[c.Name] = true
		}
	}
	return allowed
}
