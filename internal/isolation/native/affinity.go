package native

import (
	"fmt"
	"runtime"

	"brig/internal/launch"
	"brig/internal/mac"
	"brig/internal/mac/selinux"

	"golang.org/x/sys/unix"
)

// clone starts the child. Where it takes an SELinux label of Brig's before execve, the socket by which it then says that there is no
// such program has that label, too: one of a caller with other categories would be closed to it, and the parent would take the silence
// for a program that runs.
func (l *launching) clone(c launch.Clone) (*launch.Child, error) {
	label := l.spec.Process.SelinuxLabel
	if _, own := selinux.FileLabel(label); !own || !l.options.Supervised || !mac.ReadHost().SELinux {
		return l.cloneOnCPUs(c)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := selinux.LabelSockets(label); err != nil {
		return nil, fmt.Errorf("give the control socket the SELinux label %s: %w", label, err)
	}
	child, err := l.cloneOnCPUs(c)
	if undo := selinux.LabelSockets(""); undo != nil && err == nil {
		child.Kill()
		return nil, fmt.Errorf("give sockets their usual SELinux label again: %w", undo)
	}
	return child, err
}

// cloneOnCPUs starts the child from a thread on the CPUs that the plan wants it to be born on.
func (l *launching) cloneOnCPUs(c launch.Clone) (*launch.Child, error) {
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
