package plan

import (
	"fmt"

	"brig/internal/launch"
	"brig/internal/mac"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// label readies the AppArmor profile or SELinux label. A program that is to die with its parent changes to it before execve
// (takeLabel), for the kernel clears the parent-death signal at an execve that changes either. A reaper needs no such care: it
// executes nothing, and the program ends with it. The step stands before the limits: the file takes a descriptor, of which the
// program may be given few; and the file must be opened before Landlock is in force and the user is another.
func (b *builder) label(pr *specs.Process) error {
	when := mac.AtExec
	if b.facts.Supervised && !b.reaper() && !b.mayOutlive(pr) {
		when = mac.AtOnce
	}
	writes, err := mac.Plan(b.facts.MAC, pr.ApparmorProfile, pr.SelinuxLabel, when)
	var absent *mac.MissingError
	if errorsAs(err, &absent) {
		return b.missing(string(absent.Module), absent.Error())
	}
	if err != nil {
		return err
	}
	for _, w := range writes {
		b.p.Step(launch.MAC, labelStep(w, pr))
		fd := b.p.Openat2(w.Attr, b.proc, "thread-self/"+w.Attr, unix.O_WRONLY, 0, beneath)
		if w.When == mac.AtOnce {
			b.labels = append(b.labels, lateWrite{labelStep(w, pr), b.p.DupAbove(w.Attr, fd, 3+b.facts.PassFDs), w.Content})
			continue
		}
		b.p.Write(fd, w.Content)
	}
	return nil
}

// lateWrite is one into a file that was opened before.
type lateWrite struct {
	why  string
	fd   launch.Reg
	text string
}

// takeLabel changes to the profile or label. It is the last but the filter, and what follows is the program's to do, too: a
// profile has no rule for what the launch does before.
func (b *builder) takeLabel() {
	for _, w := range b.labels {
		b.p.Step(launch.MAC, w.why)
		b.p.Write(w.fd, w.text)
	}
}

// mayOutlive tells whether it is accepted that the program outlives a parent that is killed.
func (b *builder) mayOutlive(pr *specs.Process) bool {
	const reason = "a program with an AppArmor profile or SELinux label may outlive a Brig that is killed, until the next command"
	return (pr.ApparmorProfile != "" || pr.SelinuxLabel != "") && b.missing(string(launch.Supervision), reason) == nil
}

func labelStep(w mac.Write, pr *specs.Process) string {
	switch {
	case w.When == mac.AtExec && w.Module == mac.AppArmor:
		return fmt.Sprintf("change to AppArmor profile %q at execve (it must be loaded: apparmor_parser -a FILE)", pr.ApparmorProfile)
	case w.When == mac.AtExec:
		return fmt.Sprintf("change to SELinux label %q at execve (the policy must know it and let this process change to it)", w.Content)
	case w.Module == mac.AppArmor:
		return fmt.Sprintf("change to AppArmor profile %q (it must be loaded: apparmor_parser -a FILE)", pr.ApparmorProfile)
	}
	return fmt.Sprintf("change to SELinux label %q before execve, so that the program dies with its parent (the policy must know the label and allow "+
		"setcurrent and dyntransition, as Brig's module does for its own; --init and --allow-missing=supervision do without)", w.Content)
}
