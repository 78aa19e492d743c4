package main

import (
	"slices"
	"testing"

	"brig/internal/isolation/gvisor/job"

	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	sentryfilter "gvisor.dev/gvisor/runsc/boot/filter/config"
	"gvisor.dev/gvisor/runsc/config"
	goferfilter "gvisor.dev/gvisor/runsc/fsgofer/filter/config"
)

// TestCompiledFilters: what was compiled is what gVisor would compile now, for this process.
func TestCompiledFilters(t *testing.T) {
	constructor, err := platform.Lookup("systrap")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		network config.NetworkType
		raw     bool
	}{
		"no network":              {network: config.NetworkNone},
		"netstack":                {network: config.NetworkSandbox},
		"the host's network":      {network: config.NetworkHost},
		"the host's network, raw": {network: config.NetworkHost, raw: true},
	} {
		conf := &config.Config{Platform: "systrap", Network: c.network, EnableRaw: c.raw}
		program, vars, err := compiledFilter(conf, job.ControlFD)
		if err != nil || program == nil {
			t.Errorf("%s: there is no compiled filter: %v", name, err)
			continue
		}
		got, err := program.RenderInstructions(vars)
		if err != nil {
			t.Fatal(err)
		}
		opt := sentryfilter.Options{
			Platform: constructor.PrecompiledSeccompInfo()[0], ControllerFD: job.ControlFD,
			HostNetwork: c.network == config.NetworkHost, HostNetworkRawSockets: c.raw,
		}
		rules, deny := sentryfilter.Rules(opt)
		compare(t, name, got, rules, deny, sentryfilter.SeccompOptions(opt))
	}
	opt := goferfilter.Options{LisafsNeeded: true}
	program, ok := compiledFilters()[opt.ConfigKey()]
	if !ok {
		t.Fatal("there is no compiled filter of the file server")
	}
	got, err := program.RenderInstructions(opt.Vars())
	if err != nil {
		t.Fatal(err)
	}
	rules, deny := goferfilter.Rules(opt)
	compare(t, "the file server", got, rules, deny, seccomp.ProgramOptions{})
}

func compare(t *testing.T, name string, got []bpf.Instruction, rules, deny seccomp.SyscallRules, o seccomp.ProgramOptions) {
	t.Helper()
	p := &seccomp.Program{RuleSets: []seccomp.RuleSet{{Rules: deny}, {Rules: rules, Action: seccomp.Allow}}, Options: o}
	want, _, err := p.Build()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: the compiled filter has %d instructions and is not what gVisor compiles, of %d: go generate", name, len(got), len(want))
	}
}

// TestNoCompiledFilter: with a setting that Brig does not have, gVisor compiles.
func TestNoCompiledFilter(t *testing.T) {
	for _, conf := range []*config.Config{
		{Platform: "systrap", DirectFS: true}, {Platform: "systrap", ProfileEnable: true}, {Platform: "systrap", Network: config.NetworkPlugin},
	} {
		if program, _, err := compiledFilter(conf, job.ControlFD); err != nil || program != nil {
			t.Errorf("%+v: %v, %v", conf, program, err)
		}
	}
}
