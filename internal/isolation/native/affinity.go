package native

import (
	"fmt"
	"runtime"

	"brig/internal/launch"

	"golang.org/x/sys/unix"
)

// clone starts the child, from a thread on the CPUs that the plan wants it to be born on.
func (l *launching) clone(c launch.Clone) (*launch.Child, error) {
	if l.plan.InitialCPUs == nil {
		return l.plan.Program.Start(c, l.files)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, initial unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, fmt.Errorf("read the CPU affinity: %w", err)
	}
	for word, bits := range l.plan.InitialCPUs {
		for n := range 64 {
			if bits&(1<<n) != 0 {
				initial.Set(64*word + n)
			}
		}
	}
	if err := unix.SchedSetaffinity(0, &initial); err != nil {
		return nil, fmt.Errorf("config.json: process.execCPUAffinity.initial: set the CPU affinity: %w", err)
	}
	child, err := l.plan.Program.Start(c, l.files)
	if undo := unix.SchedSetaffinity(0, &before); undo != nil && err == nil {
		child.Kill()
		return nil, fmt.Errorf("put the CPU affinity back: %w", undo)
	}
	return child, err
}
