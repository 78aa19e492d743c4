package sandbox

import (
	"cmp"
	"context"
	"errors"
	"os"

	"brig/internal/annotation"
	"brig/internal/isolation/gvisor"
	"brig/internal/isolation/native"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// process is a process of a sandbox in the hands of its supervisor, whichever kernel serves it.
type process interface {
	// Wait waits for its end, and gives its wait status.
	Wait() (unix.WaitStatus, error)
	// Signal sends it a signal. A process that is gone is no error.
	Signal(s unix.Signal) error
	// Deaf tells whether a signal that ends a process by default would do nothing to it: pid 1 of a pid namespace does not get
	// one that it has no handler for.
	Deaf(s unix.Signal) bool
	// Release closes what is held of it.
	Release() error
}

// isolation names the one that serves a spec.
func isolation(spec *specs.Spec) string {
	return cmp.Or(spec.Annotations[annotation.Isolation], "native")
}

// onGVisor tells whether the sandbox's program runs on gVisor's kernel.
func (v *supervisor) onGVisor() bool { return isolation(v.req.Spec) == "gvisor" }

// groupLimits are those of the sandbox's control group.
func groupLimits(spec *specs.Spec) *specs.LinuxResources {
	if isolation(spec) == "gvisor" {
		return gvisor.Resources(spec.Linux.Resources)
	}
	return spec.Linux.Resources
}

// start starts the sandbox by the isolation that its spec names. The terminal's master is the caller's, or nil.
func (v *supervisor) start(ctx context.Context, o native.Options) (process, *os.File, error) {
	if v.warm != nil {
		return v.startWarm(ctx, v.req.Spec, o)
	}
	if v.onGVisor() {
		p, err := gvisor.Start(ctx, v.req.Spec, gvisor.Options{Options: o, ID: v.ID, Dir: v.dir, Image: v.req.ImageFile, Saved: v.req.Checkpoint.saved()})
		if v.req.Checkpoint != nil {
			_ = v.req.Checkpoint.Close() // the kernel has read it, and a copy in RAM is as large
		}
		if err != nil {
			return nil, nil, v.startError(err)
		}
		return p, p.Terminal, nil
	}
	p, err := native.Start(v.req.Spec, o)
	if err != nil {
		return nil, nil, v.startError(err)
	}
	return &nativeProcess{p}, p.Terminal, nil
}

// startFurther starts another process in the sandbox that pidfd refers to.
func (v *supervisor) startFurther(ctx context.Context, pidfd *os.File, o native.Options) (process, *os.File, error) {
	pr := v.req.Spec.Process
	if v.onGVisor() {
		asked := v.state.asked()
		if err := asked.Awake(); err != nil {
			return nil, nil, v.toContinue(err)
		}
		ctx, done := asked.Watched(ctx)
		defer done()
		p, err := gvisor.Exec(ctx, v.req.Spec, gvisor.Options{Options: o, ID: v.ID, Dir: v.dir})
		if err != nil {
			return nil, nil, commandError(pr, v.toContinue(err))
		}
		return p, p.Terminal, nil
	}
	p, err := native.Exec(v.req.Spec, pidfd, o)
	if err != nil {
		return nil, nil, commandError(pr, err)
	}
	return &nativeProcess{p}, p.Terminal, nil
}

// nativeProcess is a process on the host's own kernel.
type nativeProcess struct{ *native.Process }

// Deaf is what the kernel says of the handlers of pid 1.
func (p *nativeProcess) Deaf(s unix.Signal) bool { return deaf(p.PID, s) }

// programError gives the errno of a program that another kernel than the host's could not execute.
func programError(err error) (unix.Errno, bool) {
	var p *gvisor.ProgramError
	if errors.As(err, &p) {
		return p.Errno, true
	}
	return 0, false
}
