package plan

import (
	"fmt"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/caps"
	"brig/internal/launch"
	"brig/internal/mac"
	"brig/internal/netdev"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Kind is what a path leads to.
type Kind uint8

// The kinds that a plan tells apart.
const (
	Missing Kind = iota
	File         // anything that is no directory
	Dir
)

// Facts are what a plan has to know of the host. They are looked up before; a fact that is stale when the program runs
// makes an instruction fail, never a sandbox weaker.
type Facts struct {
	// Privileged: the parent has CAP_SYS_ADMIN over the host, so it opens bind sources itself, with its own rights
	// and idmaps. Otherwise the child does, with the caller's.
	Privileged bool
	// Nested: the parent is root of a user namespace only. Its child must be dumpable until the id maps are written, and no
	// device can be made.
	Nested bool
	// CgroupTasks is how many `tasks` files of cgroup v1 the child writes itself into.
	CgroupTasks int
	// Hierarchies are those of cgroup version 1 that a mount of type cgroup means. Empty where it means version 2.
	Hierarchies []Hierarchy
	// LandlockABI is the host's, 0 for none.
	LandlockABI int
	LastCap     caps.Cap
	// Caps are those that the runtime itself has.
	Caps caps.Set
	// Remounts: a bind mount has the flags that its options name and no other, as runc has it for engines; otherwise the host's
	// flags stay beside them. Attributes are the flags (MOUNT_ATTR_*) that a path of the host's has.
	Remounts   bool
	Attributes func(path string) uint64
	// Lenient: what runtime-spec lets a runtime pass over with a warning is passed over.
	Lenient bool
	MAC     mac.Host
	// Host looks at a path of the host, following links; Link gives the target of a symlink there.
	Host func(path string) Kind
	Link func(path string) (target string, ok bool)
	// InRoot looks at a path inside the root folder, never leaving it.
	InRoot func(path string) Kind
	// Resolve gives the path inside the root folder that a path there leads to, through links to what is not there yet.
	Resolve func(path string) string
	// OwnNamespace tells whether a file is the namespace of that kind which the runtime itself is in: the host's.
	OwnNamespace func(kind specs.LinuxNamespaceType, path string) bool
	// LinkInRoot tells whether the last element of a path there is a symlink.
	LinkInRoot func(path string) bool
	// ModeInRoot gives the permissions of a folder there.
	ModeInRoot func(path string) (mode uint32, ok bool)
	// Supervised: the sandbox dies with the thread that starts it.
	Supervised bool
	// Held: the child waits for a start at a listening socket, on its own. An engine's create makes such ones.
	Held bool
	// Hooks: the parent has work when the mounts are there, and stops the child at PointCreated before the root is entered.
	Hooks bool
	// Locked: the parent holds a lock whose end tells that it is gone.
	Locked bool
	// WithoutProc: a further process has a mount namespace of its own, with what is mounted in the sandbox's but no procfs and no sysfs.
	WithoutProc bool
	// PassFDs is how many file descriptors after 2 the program gets.
	PassFDs int
	// ClosedFDs are those among them that the caller does not have either: their numbers stay free.
	ClosedFDs []int
	// ProgramGiven: the program is a file that the parent has (Plan.Exe), and no path inside; process.args are its arguments. So a
	// kernel of another isolation is run, of which nothing lies in the sandbox.
	ProgramGiven bool
	// Workdir is where a guest's program begins, made like process.cwd where it is missing; that is the given program's own. "" for no guest.
	Workdir string
	// InheritStdio: the standard streams of the parent are the program's, as they are.
	InheritStdio bool
}

// Bind is a mount that the parent detaches from the host before the start.
type Bind struct {
	Reg       launch.Reg
	Source    string
	Recursive bool
	NoFollow  bool
	// UID and GID are the id maps of an idmapped mount; Own means the sandbox's own user namespace instead.
	UID, GID       []specs.LinuxIDMapping
	OwnIDs         bool
	IDMapRecursive bool
	// Propagates: mount events go on between the host and the sandbox, as somebody asked for. Otherwise the parent cuts
	// them: the copy of a shared mount is shared, too.
	Propagates bool
	// Attributes are the flags (MOUNT_ATTR_*) that the source's mount must have, where the plan depends on them: another one may be at
	// the path by then. nil where it does not.
	Attributes *uint64
	// Device is what the source must be: a spec names a device by its numbers, and a path of the host's is only where it
	// is expected. nil for what is no device.
	Device *specs.LinuxDevice
	// MakeNode: the host has no such device at the path, and the parent makes one for the sandbox's user namespace, where the
	// child may not.
	MakeNode bool
}

// CopyUp is a tmpfs with a copy of what it covers.
type CopyUp struct {
	Reg launch.Reg
	// Root is a folder of the host's, and Path a folder in it; nothing is followed out of Root.
	Root, Path string
	// Source, Attrs and Data are of the mount.
	Source string
	Attrs  uint64
	Data   []string
	// UID and GID turn the owners on disk into host ids; without them the owners stay as they are.
	UID, GID []specs.LinuxIDMapping
}

// NamespaceFile is an existing namespace that the child joins.
type NamespaceFile struct {
	Reg  launch.Reg
	Type specs.LinuxNamespaceType
	Path string
}

// MissingLayer is a layer that the spec asked for, the host lacks, and the policy accepts to miss.
type MissingLayer struct {
	Layer  string `json:"layer"`
	Reason string `json:"reason"`
}

// Plan is a compiled spec: the program, and what the parent has to prepare and do around it.
type Plan struct {
	Program    *launch.Program
	CloneFlags uint64
	// Binds are opened by the parent when Facts.Privileged.
	Binds []Bind
	// CopyUps are tmpfs mounts that the parent makes and fills.
	CopyUps []CopyUp
	// Overlay is the root file system with a place to write over it; nil where the root is the folder itself.
	Overlay *Overlay
	// Tasks are the cgroup v1 files.
	Tasks []launch.Reg
	// Stdio and PassFDs are inputs; Stdio is unset with a terminal or with Facts.InheritStdio.
	Stdio   []launch.Reg
	PassFDs []launch.Reg // 0 for one of Facts.ClosedFDs
	// Join are namespaces by path.
	Join []NamespaceFile
	// Process is the pidfd of the sandbox that an exec joins.
	Process launch.Reg
	// Root is the root of the sandbox that an exec enters, where the sandbox has no mount namespace of its own.
	Root launch.Reg
	// Exe is the program, when Facts.ProgramGiven.
	Exe launch.Reg
	// Listener at which the child waits, when Facts.Held.
	Start launch.Reg
	// Lock is the parent's, when Facts.Locked.
	Lock launch.Reg
	// UserNS: the child is in a new user namespace whose maps the parent writes at PointNamespaces.
	UserNS bool
	// OOMScoreAdj is what the parent writes for the child at PointNamespaces; nil where the child does, or nobody.
	OOMScoreAdj *int
	// Terminal: the child sends the master of a terminal and stops at PointTerminal.
	Terminal bool
	// Listener: the child sends the listener of a filter that asks before execve, and stops at PointListener.
	Listener bool
	// Agent: the child sends the listener of the spec's filter, for the agent at linux.seccomp.listenerPath, and stops at
	// PointAgent: after PointReady (AgentLast) or before.
	Agent, AgentLast bool
	// HighFD is launch.Clone's.
	HighFD int
	// Filter is the compiled seccomp profile, nil for none.
	Filter *seccomp.Filter
	// LandlockABI is the ABI of the ruleset, 0 for none; LandlockProbed tells that the program proves it.
	LandlockABI    int
	LandlockProbed bool
	// NoUnixSockets: a filter refuses Unix sockets, for the host's network is shared and this Landlock cannot shut its abstract ones.
	NoUnixSockets bool
	// InitialCPUs is a mask, bit n for CPU n, of the CPUs that the parent's thread is on while it clones; nil leaves it where it is.
	InitialCPUs []uint64
	// Warnings are what was passed over because of Facts.Lenient.
	Warnings []string
	// NetDevices are devices of the host's that the parent moves into the sandbox's network namespace at PointNamespaces.
	NetDevices []netdev.Device
	// Missing are the layers left out.
	Missing []MissingLayer
}

// MissingLayerError is a layer that the spec asks for and the host cannot give.
type MissingLayerError struct {
	Layer  string // as --allow-missing takes it
	Reason string
}

func (e *MissingLayerError) Error() string {
	return fmt.Sprintf("%s: %s; to accept a sandbox without it: --allow-missing=%s", e.Layer, e.Reason, e.Layer)
}

// UnsupportedError is a field of a spec that Brig cannot honour.
type UnsupportedError struct{ Field, Reason string }

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("config.json: %s: %s", e.Field, e.Reason)
}

// builder is one compilation.
type builder struct {
	spec  *specs.Spec
	linux *specs.Linux
	facts *Facts
	plan  *Plan
	p     *launch.Program

	further bool       // a process for a sandbox that runs
	root    launch.Reg // the root of the new file system
	place   launch.Reg // where hooks see it before it is entered, in the host's view; 0 without hooks
	program string     // the file to execute, when it is not process.args[0]
	ram     bool       // it is a tmpfs of our own
	mounted []mounted
	links   map[string]string // symlinks that the program makes, in the root of a ram file system
	dev     *mounted          // /dev, when it is a fresh tmpfs
	nodes   []device          // device nodes taken from the host
	null    launch.Reg        // the mount of /dev/null
	// nullUsed: without a fresh /dev, the first mask is that mount itself.
	nullUsed bool
	proc     launch.Reg // a procfs that no path leads to, or that the spec mounts: fully visible and writable
	pts      launch.Reg // the mount of devpts
	made     bool       // a file system of a mount

	lateReadOnly []lateMount
	sets         capSets // of the program
	lateLimit    func()  // sets RLIMIT_NOFILE of a held child
	labels       []lateWrite
	timeOffsets  launch.Reg
	mountLabel   string // SELinux label of new file systems
	slave        launch.Reg
	console      launch.Reg // the file that the terminal covers
	rules        []rule
	ruleset      launch.Reg
}

type lateMount struct {
	reg   launch.Reg
	path  string
	attrs uint64
}

// rule is a Landlock grant in the making.
type rule struct {
	path   string
	rights uint64
	file   bool
}

// Compile makes the plan of a new sandbox.
func Compile(spec *specs.Spec, facts *Facts) (*Plan, error) {
	b, err := newBuilder(spec, facts)
	if err != nil {
		return nil, err
	}
	for _, step := range slices.Concat(
		[]func() error{b.supervision, b.cgroup, b.anyCPU, b.netDevices, b.checkMountLabel, b.namespaces, b.identity, b.session, b.privateProc, b.oldRoot},
		b.beforeRoot(),
		[]func() error{b.makeWorkdir, b.masks, b.readOnly, b.sysctls, b.process},
	) {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return b.plan, nil
}

func newBuilder(spec *specs.Spec, facts *Facts) (*builder, error) {
	if spec.Linux == nil {
		return nil, &UnsupportedError{"linux", "is missing; Brig runs Linux programs only"}
	}
	if spec.Process == nil {
		return nil, &UnsupportedError{"process", "is missing; there is nothing to run"}
	}
	b := &builder{spec: spec, linux: spec.Linux, facts: facts, p: launch.New(), links: map[string]string{}}
	b.plan = &Plan{Program: b.p}
	if facts.ProgramGiven {
		b.plan.Exe = b.p.Input("program")
	}
	b.ram = spec.Annotations[annotation.Root] == "ram"
	return b, nil
}

// annotated tells whether a Brig annotation is set to value.
func (b *builder) annotated(key, value string) bool { return b.spec.Annotations[key] == value }

// missing records a layer that the host lacks, or refuses.
func (b *builder) missing(layer, reason string) error {
	if b.mayMiss(layer) {
		b.plan.Missing = append(b.plan.Missing, MissingLayer{layer, reason})
		return nil
	}
	return &MissingLayerError{layer, reason}
}

// mayMiss tells whether the spec accepts a sandbox without the layer.
func (b *builder) mayMiss(layer string) bool {
	for allowed := range strings.SplitSeq(b.spec.Annotations[annotation.AllowMissing], ",") {
		if strings.TrimSpace(allowed) == layer {
			return true
		}
	}
	return false
}

func (b *builder) supervision() error {
	if b.facts.Locked {
		b.p.Step(launch.Supervision, "let go of the lock that tells whether the parent lives")
		b.plan.Lock = b.p.Input("lock")
		b.p.Close(b.plan.Lock)
	}
	if b.facts.Supervised {
		b.p.Step(launch.Supervision, "die with the parent")
		b.p.Prctl(unix.PR_SET_PDEATHSIG, uint64(unix.SIGKILL))
	}
	b.p.Step(launch.Root, "make files with the very modes that are given, whatever the caller's umask")
	b.p.Umask(0)
	b.oomScoreAdj()
	b.openTimeOffsets()
	// A rootless parent could not write the id maps of a non-dumpable child: its /proc files belong to root then.
	if !b.dumpableFirst() {
		b.nonDumpable()
	}
	return nil
}

// dumpableFirst tells whether id maps are to be written by somebody who is not the host's root.
func (b *builder) dumpableFirst() bool {
	return b.hasUserNS() && (!b.facts.Privileged || b.facts.Nested)
}

// nonDumpable keeps every process of the sandbox from tracing this one and from opening its /proc/PID/exe and fd, until
// execve (CVE-2016-9962, CVE-2019-5736).
func (b *builder) nonDumpable() {
	b.p.Step(launch.Supervision, "be out of reach of ptrace and /proc/PID/{exe,fd,mem}")
	b.p.Prctl(unix.PR_SET_DUMPABLE, 0)
}

// cgroup enters the groups of cgroup v1. A single thread that writes "0" to a tasks file moves without the lock that
// every fork on the machine takes (kernel commit 9a3284fad42f). In v2 the child is born into its group.
func (b *builder) cgroup() error {
	if b.facts.CgroupTasks > 0 {
		b.p.Step(launch.Cgroup, "enter the control groups")
	}
	for i := range b.facts.CgroupTasks {
		fd := b.p.Input(fmt.Sprintf("cgroup tasks %d", i+1))
		b.plan.Tasks = append(b.plan.Tasks, fd)
		b.p.Write(fd, "0")
	}
	return nil
}

// session leaves the caller's session, keyring and names behind.
func (b *builder) session() error {
	b.p.Step(launch.Terminal, "new session, so that the caller's terminal is out of reach")
	b.p.Setsid().Tolerate(unix.EPERM) // already a leader, after a fork into a new session
	b.p.Step(launch.Terminal, "new session keyring, so that the caller's keys are out of reach")
	b.p.JoinSessionKeyring("_brig").Tolerate(unix.ENOSYS)
	b.loopback()
	if b.spec.Hostname != "" {
		b.p.Step(launch.Namespaces, "set the host name")
		b.p.Sethostname(b.spec.Hostname)
	}
	if b.spec.Domainname != "" {
		b.p.Step(launch.Namespaces, "set the domain name")
		b.p.Setdomainname(b.spec.Domainname)
	}
	return nil
}
