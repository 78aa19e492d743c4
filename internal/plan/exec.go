package plan

import (
	"path"
	"slices"

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
	if b.facts.WithoutProc {
		b.p.Step(launch.Mounts, "a view of the sandbox's mounts of its own")
		b.p.Unshare(unix.CLONE_NEWNS)
		b.p.MountSetattr(0, "/", unix.AT_RECURSIVE, 0, 0, unix.MS_SLAVE) // what the host mounts in a volume that lets it in is to be seen
	}
	b.p.Step(launch.Root, "hold the sandbox's root")
	b.root = b.p.Openat2("root", 0, "/", unix.O_PATH|unix.O_DIRECTORY, 0, 0)
	if err := b.privateProc(); err != nil {
		return err
	}
	if err := b.knownRules(); err != nil {
		return err
	}
	if b.facts.WithoutProc {
		b.withoutProc()
	}
	return nil
}

// withoutProc takes procfs and sysfs out of the process's view of the mounts, before Landlock forbids to change that. In their place it
// has an empty folder with /proc/sys/vm, which tells of no process, and without which gVisor's packages do not start.
func (b *builder) withoutProc() {
	b.p.Step(launch.Mounts, "a view of the mounts without procfs and sysfs")
	vm := b.p.OpenTree("vm", 0, "/proc/sys/vm", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	b.p.MountSetattr(vm, "", 0, unix.MOUNT_ATTR_RDONLY, 0, 0)
	for _, m := range slices.Backward(b.spec.Mounts) {
		switch m.Type {
		case "proc", "sysfs", "cgroup", "cgroup2", "mqueue":
			b.p.Umount2(path.Clean(m.Destination), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	if b.facts.MAC.SELinux {
		b.mountLabel = b.linux.MountLabel // which was looked at when the sandbox was made
	}
	fs := b.p.Fsopen("tmpfs")
	b.p.FsconfigString(fs, "size", "4k")
	b.labelMount(fs, "tmpfs")
	b.p.FsconfigCreate(fs)
	proc := b.p.Fsmount("no proc", fs, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	b.p.Mkdirat(proc, "sys", 0o755)
	b.p.Mkdirat(proc, "sys/vm", 0o755)
	b.p.MoveMountTo(proc, "/proc")
	at := b.p.Openat2("/proc/sys/vm", proc, "sys/vm", unix.O_PATH|unix.O_DIRECTORY, 0, 0)
	b.p.MoveMount(vm, at)
	b.p.MountSetattr(proc, "", 0, unix.MOUNT_ATTR_RDONLY, 0, 0)
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
