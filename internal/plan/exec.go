package plan

import (
	"brig/internal/annotation"
	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CompileExec makes the plan of a further process in a running sandbox. spec is the sandbox's own with Process replaced.
// The process joins the namespaces of the sandbox through its pidfd, is confined as the first process is, and enters
// the sandbox's cgroup before.
func CompileExec(spec *specs.Spec, facts *Facts) (*Plan, error) {
	b, err := newBuilder(spec, facts)
	if err != nil {
		return nil, err
	}
	b.further = true
	for _, step := range []func() error{b.supervision, b.cgroup, b.execAffinity, b.joinSandbox, b.process} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return b.plan, nil
}

// NamespaceFlags are the CLONE_NEW* flags of a spec's namespaces, new and joined: what setns(2) takes with the pidfd of
// a process that is in them.
func NamespaceFlags(spec *specs.Spec) uint64 {
	var flags uint64
	for _, c := range cloneFlags {
		if _, ok := Namespace(spec, c.kind); ok {
			flags |= c.flag
		}
	}
	return flags
}

func (b *builder) isExec() bool { return b.further }

// joinNamespaces enters the namespaces of a sandbox, as root of it.
func (b *builder) joinNamespaces() error {
	b.plan.Process = b.p.Input("sandbox")
	flags := NamespaceFlags(b.spec)
	if b.dumpableFirst() {
		b.nonDumpable()
	}
	if b.hostProcesses() {
		if err := b.privateProc(); err != nil { // while /proc is still the host's
			return err
		}
	}
	if flags != 0 {
		b.p.Step(launch.Namespaces, "join the sandbox's namespaces")
		b.p.Setns(b.plan.Process, flags)
	}
	if flags&unix.CLONE_NEWPID != 0 {
		b.p.Step(launch.Namespaces, "become a process of the sandbox's pid namespace")
		b.p.ForkInto()
	}
	if b.facts.Supervised {
		b.p.Step(launch.Supervision, "die with the parent")
		b.p.Prctl(unix.PR_SET_PDEATHSIG, uint64(unix.SIGKILL))
	}
	if b.hasUserNS() {
		b.becomeRoot()
	}
	return nil
}

func (b *builder) joinSandbox() error {
	if err := b.joinNamespaces(); err != nil {
		return err
	}
	b.joinRoot()
	b.p.Step(launch.Terminal, "new session, so that the caller's terminal is out of reach")
	b.p.Setsid()
	b.p.Step(launch.Terminal, "new session keyring, so that the caller's keys are out of reach")
	b.p.JoinSessionKeyring("_brig").Tolerate(unix.ENOSYS)
	b.p.Step(launch.Root, "hold the sandbox's root")
	b.root = b.p.Openat2("root", 0, "/", unix.O_PATH|unix.O_DIRECTORY, 0, 0)
	if err := b.privateProc(); err != nil {
		return err
	}
	return b.knownRules()
}

// knownRules derives the Landlock grants of a sandbox that is already mounted, as Compile does while it mounts.
func (b *builder) knownRules() error {
	if b.annotated(annotation.Landlock, "") {
		return nil
	}
	for i := range b.spec.Mounts {
		if err := b.knownRule(&b.spec.Mounts[i]); err != nil {
			return err
		}
	}
	return nil
}
