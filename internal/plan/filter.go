package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/caps"
	"brig/internal/launch"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// filterCap is the capability that the process has to keep until its filter is loaded: without no_new_privs that needs
// CAP_SYS_ADMIN (seccomp(2)).
func (b *builder) filterCap(pr *specs.Process) (s caps.Set) {
	if pr.NoNewPrivileges || !b.filtered() || b.notifies() {
		return s
	}
	return caps.SysAdmin.Mask()
}

// notifies tells whether the profile asks an agent.
func (b *builder) notifies() bool {
	s := b.linux.Seccomp
	return s != nil && (s.DefaultAction == specs.ActNotify || slices.ContainsFunc(s.Syscalls, func(c specs.LinuxSyscall) bool { return c.Action == specs.ActNotify }))
}

// privilegedFilter loads the filter of a process that may gain privileges, and lets go of the capability it took. A profile
// is written for the program: every other call has been made by now, as it may deny it (an old one does not know
// close_range).
func (b *builder) privilegedFilter() error {
	if !b.filtered() || b.notifies() {
		return nil
	}
	if err := b.seccomp(); err != nil {
		return err
	}
	if sets := b.sets; !sets.effective.Has(caps.SysAdmin) {
		b.p.Step(launch.Capabilities, "keep only "+sets.permitted.String())
		b.p.Capset(uint64(sets.effective), uint64(sets.permitted), uint64(sets.inheritable))
	}
	return nil
}

// filtered tells whether there is any filter.
func (b *builder) filtered() bool {
	return b.linux.Seccomp != nil || b.spec.Annotations[annotation.SeccompFloor] != ""
}

// Floor gives the filter that holds beside a spec's; nil for none.
func Floor(spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	text := spec.Annotations[annotation.SeccompFloor]
	if text == "" {
		return nil, nil
	}
	profile := &specs.LinuxSeccomp{}
	var err error
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		err = json.Unmarshal([]byte(text), profile)
	} else {
		var bounding []string
		if c := spec.Process.Capabilities; c != nil {
			bounding = c.Bounding
		}
		profile, err = seccomp.Profile(text, bounding)
	}
	if err != nil {
		return nil, &UnsupportedError{annotation.SeccompFloor, err.Error()}
	}
	return profile, nil
}

// floor loads the filter that holds beside the spec's: of two, the kernel obeys the stricter answer (seccomp(2)). It comes
// first, for it lets seccomp(2) pass, and a bundle's may not.
func (b *builder) floor() error {
	profile, err := Floor(b.spec)
	if err != nil || profile == nil {
		return err
	}
	filter, err := seccomp.Compile(profile, seccomp.Options{})
	if err == nil && filter.Notify {
		err = errors.New("SCMP_ACT_NOTIFY is not for a floor")
	}
	if err != nil {
		return &UnsupportedError{annotation.SeccompFloor, err.Error()}
	}
	b.p.Step(launch.Seccomp, "load the operator's system-call filter, the floor")
	b.p.Seccomp(filter.Bytes(), uint64(filter.Flags))
	return nil
}

// unixSockets loads the filter that stands in for Landlock's scope in the host's network. It comes before the spec's, which may deny
// seccomp(2).
func (b *builder) unixSockets() error {
	if !b.plan.NoUnixSockets {
		return nil
	}
	filter, err := seccomp.Compile(seccomp.WithoutUnixSockets(), seccomp.Options{})
	if err != nil {
		return fmt.Errorf("compile the filter that refuses Unix sockets: %w", err)
	}
	b.p.Step(launch.Seccomp, "refuse Unix sockets: Landlock has no scope here to shut the abstract ones of the host's network")
	b.p.Seccomp(filter.Bytes(), uint64(filter.Flags))
	return nil
}

// seccomp compiles the filters and loads them.
func (b *builder) seccomp() error {
	if err := b.floor(); err != nil {
		return err
	}
	if b.linux.Seccomp == nil {
		return nil
	}
	// The names in a profile of a person's were checked when it was read; an engine's may be newer than this binary.
	filter, err := seccomp.Compile(b.linux.Seccomp, seccomp.Options{})
	if err != nil {
		return &UnsupportedError{"linux.seccomp", strings.TrimPrefix(err.Error(), "seccomp: ")}
	}
	if err := b.checkNotified(); err != nil {
		return err
	}
	if v := b.spec.Annotations[annotation.FailUnknownCalls]; v != "" && v != "0" && len(filter.Unknown) > 0 {
		return &UnsupportedError{"linux.seccomp", fmt.Sprintf("%s=%s, and no system call of any architecture is %s",
			annotation.FailUnknownCalls, v, strings.Join(filter.Unknown, ", "))}
	}
	b.plan.Filter = &filter
	b.p.Step(launch.Seccomp, "load the system-call filter")
	listener := b.p.Seccomp(filter.Bytes(), uint64(filter.Flags))
	if filter.Notify {
		b.p.Step(launch.Seccomp, "hand the filter's listener to the agent at "+b.linux.Seccomp.ListenerPath)
		b.p.SendFD(listener)
		b.p.Await(launch.PointAgent)
		b.p.Close(listener)
		b.plan.Agent, b.plan.AgentLast = true, b.spec.Process.NoNewPrivileges
	}
	return nil
}

// checkNotified refuses what would wait for itself: the agent has the listener only after these calls.
func (b *builder) checkNotified() error {
	for _, s := range b.linux.Seccomp.Syscalls {
		for _, name := range s.Names {
			if s.Action == specs.ActNotify && (name == "write" || name == "sendmsg") {
				// The words are runc's, which has the same rule for write.
				return &UnsupportedError{"linux.seccomp", "SCMP_ACT_NOTIFY cannot be used for the " + name + " syscall: the listener is handed over by it"}
			}
		}
	}
	return nil
}

// oneProgram loads a filter of its own that asks the parent before every execve. The parent says yes until one has
// succeeded and closes the listener then: from there on the kernel answers ENOSYS (seccomp_unotify(2)). No flag of a
// profile could say that: to a filter the first execve looks like the second.
func (b *builder) oneProgram(pr *specs.Process) error {
	if !b.annotated(annotation.NoNewPrograms, "true") {
		return nil
	}
	if !pr.NoNewPrivileges {
		return &UnsupportedError{annotation.NoNewPrograms, "needs process.noNewPrivileges"}
	}
	ask := &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		ListenerPath:  "(the parent)", // no agent by path: the compiler wants one named where a rule asks
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"execve", "execveat"}, Action: specs.ActNotify}},
	}
	if b.linux.Seccomp != nil {
		ask.Architectures = b.linux.Seccomp.Architectures
	}
	filter, err := seccomp.Compile(ask, seccomp.Options{})
	if err != nil {
		return fmt.Errorf("compile the filter that asks before execve: %w", err)
	}
	b.p.Step(launch.Seccomp, "ask the parent before every execve: it lets one program through")
	listener := b.p.Seccomp(filter.Bytes(), uint64(filter.Flags))
	b.p.SendFD(listener)
	b.p.Await(launch.PointListener)
	b.p.Close(listener)
	b.plan.Listener = true
	return nil
}
