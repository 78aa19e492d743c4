package main

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/runsc/boot"
	sentryfilter "gvisor.dev/gvisor/runsc/boot/filter/config"
	"gvisor.dev/gvisor/runsc/config"
	goferfilter "gvisor.dev/gvisor/runsc/fsgofer/filter"
)

//go:generate go run ./genfilters

// gVisor compiles its filters of system calls while it starts, which takes a third of the time of a start, unless they were compiled
// when it was built; the branch of its Go module is never built so. What is in filters_amd64.go is what gVisor's own compiler
// makes of gVisor's own rules: genfilters writes it, and a test holds it against the rules again. Another architecture, or
// a setting that is not among these, has gVisor compile as it does.

// useCompiledFilter has the kernel take its compiled filter, if there is one, at the point where gVisor would compile it: before
// anything of the guest is loaded. There is no way on without it: failed must not come back.
func useCompiledFilter(conf *config.Config, control int, l *boot.Loader, failed func(error)) error {
	program, vars, err := compiledFilter(conf, control)
	if err != nil || program == nil {
		return err
	}
	conf.DisableSeccomp = true // that is, gVisor's compiler
	l.PreSeccompCallback = func() {
		if err := installCompiled(program, vars); err != nil {
			failed(err)
			panic(err)
		}
	}
	return nil
}

// compiledFilter gives the kernel process's filter and what is filled in, or nil when gVisor has to compile it.
func compiledFilter(conf *config.Config, control int) (*precompiledseccomp.Program, precompiledseccomp.Values, error) {
	constructor, err := platform.Lookup(conf.Platform)
	if err != nil {
		return nil, nil, err
	}
	infos := constructor.PrecompiledSeccompInfo()
	if len(infos) != 1 || conf.ProfileEnable || conf.DirectFS {
		return nil, nil, nil
	}
	host := conf.Network == config.NetworkHost
	opt := sentryfilter.Options{
		Platform: infos[0], HostNetwork: host, HostNetworkRawSockets: host && conf.EnableRaw, ControllerFD: uint32(control), //nolint:gosec // a file descriptor
		CgoEnabled: config.CgoEnabled, PluginNetwork: conf.Network == config.NetworkPlugin,
	}
	program, ok := compiledFilters()[opt.ConfigKey()]
	if !ok {
		return nil, nil, nil
	}
	return &program, opt.Vars(), nil
}

// installCompiled is what gVisor's own installation does with a program that was compiled before.
func installCompiled(program *precompiledseccomp.Program, vars precompiledseccomp.Values) error {
	instructions, err := program.RenderInstructions(vars)
	if err == nil {
		err = seccomp.SetFilter(instructions)
	}
	if err != nil {
		return fmt.Errorf("install gVisor's filter of system calls: %w", err)
	}
	return nil
}

// installGoferFilter confines the file server.
func installGoferFilter() error {
	opt := goferfilter.Options{LisafsNeeded: true}
	if program, ok := compiledFilters()[opt.ConfigKey()]; ok {
		return installCompiled(&program, opt.Vars())
	}
	if err := goferfilter.Install(opt); err != nil {
		return fmt.Errorf("install gVisor's filter of system calls: %w", err)
	}
	return nil
}
