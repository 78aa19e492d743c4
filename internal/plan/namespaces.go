package plan

import (
	"fmt"
	"slices"
	"strings"

	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var cloneFlags = []struct {
	kind specs.LinuxNamespaceType
	flag uint64
}{
	// The user namespace comes first: the others then belong to it.
	{specs.UserNamespace, unix.CLONE_NEWUSER},
	{specs.PIDNamespace, unix.CLONE_NEWPID},
	{specs.NetworkNamespace, unix.CLONE_NEWNET},
	{specs.IPCNamespace, unix.CLONE_NEWIPC},
	{specs.UTSNamespace, unix.CLONE_NEWUTS},
	{specs.MountNamespace, unix.CLONE_NEWNS},
	{specs.CgroupNamespace, unix.CLONE_NEWCGROUP},
	{specs.TimeNamespace, unix.CLONE_NEWTIME},
}

// Namespace gives the entry of a kind in a spec: whether there is one, and its path, empty for a new namespace.
func Namespace(spec *specs.Spec, kind specs.LinuxNamespaceType) (path string, ok bool) {
	for _, n := range spec.Linux.Namespaces {
		if n.Type == kind {
			return n.Path, true
		}
	}
	return "", false
}

// private tells whether the sandbox has a namespace of a kind that is not the host's, new or joined: a path may lead to the host's.
func (b *builder) private(kind specs.LinuxNamespaceType) bool {
	path, ok := Namespace(b.spec, kind)
	return ok && (path == "" || !b.facts.OwnNamespace(kind, path))
}

// namespaces decides which namespaces the child is born into, which it joins, and which it makes itself.
func (b *builder) namespaces() error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for _, n := range b.linux.Namespaces {
		if seen[n.Type] {
			return &UnsupportedError{"linux.namespaces", fmt.Sprintf("the %s namespace is there twice", n.Type)}
		}
		seen[n.Type] = true
		if !known(n.Type) {
			return &UnsupportedError{"linux.namespaces", fmt.Sprintf("unknown type %q", n.Type)}
		}
	}
	if err := b.checkHostMounts(); err != nil {
		return err
	}
	if path, _ := Namespace(b.spec, specs.MountNamespace); path != "" && !b.facts.Privileged {
		return &UnsupportedError{"linux.namespaces", "joining a mount namespace by path needs root: the sources of the mounts would be looked up in it"}
	}
	if b.spec.Hostname+b.spec.Domainname != "" && !b.private(specs.UTSNamespace) {
		return &UnsupportedError{"hostname", "needs a uts namespace of the sandbox's own: without one it would rename the host"}
	}
	if err := b.checkTimeOffsets(); err != nil {
		return err
	}
	return b.enterNamespaces()
}

func known(kind specs.LinuxNamespaceType) bool {
	for _, c := range cloneFlags {
		if c.kind == kind {
			return true
		}
	}
	return false
}

// beforeUser are namespaces that root joins before a user namespace: they may belong to another one, over which the rights are gone
// then. What belongs to neither stays out of the sandbox's power all the same.
var beforeUser = []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace}

func (b *builder) enterNamespaces() error {
	var fresh uint64
	userPath, _ := Namespace(b.spec, specs.UserNamespace)
	if userPath == "" {
		b.timeNamespace()
	}
	early := func(kind specs.LinuxNamespaceType) bool {
		return userPath != "" && b.facts.Privileged && slices.Contains(beforeUser, kind)
	}
	for _, c := range cloneFlags {
		if path, _ := Namespace(b.spec, c.kind); path != "" && early(c.kind) {
			b.join(c.kind, path, c.flag)
		}
	}
	for _, c := range cloneFlags {
		path, ok := Namespace(b.spec, c.kind)
		switch {
		case !ok, path != "" && early(c.kind):
		case path != "":
			b.join(c.kind, path, c.flag)
			if c.kind == specs.UserNamespace {
				b.timeNamespace() // it must belong to that user namespace, and be there before a fork enters a pid namespace
			}
		case c.kind == specs.TimeNamespace && len(b.linux.TimeOffsets) > 0:
			// timeNamespace makes it
		default:
			fresh |= c.flag
		}
	}
	if userPath != "" {
		// New namespaces must belong to the joined user namespace, so they are made after it is joined.
		b.p.Step(launch.Namespaces, "new namespaces, owned by the joined user namespace")
		b.p.Unshare(fresh)
		if fresh&unix.CLONE_NEWPID != 0 {
			b.p.ForkInto()
		}
		return nil
	}
	// The cgroup namespace's root is the group its maker is in at that moment: clone3 would take the parent's.
	b.plan.CloneFlags = fresh &^ unix.CLONE_NEWCGROUP
	if fresh&unix.CLONE_NEWCGROUP != 0 {
		b.p.Step(launch.Namespaces, "new cgroup namespace, with the sandbox's own group as its root")
		b.p.Unshare(unix.CLONE_NEWCGROUP)
	}
	b.plan.UserNS = fresh&unix.CLONE_NEWUSER != 0
	return nil
}

func (b *builder) join(kind specs.LinuxNamespaceType, path string, flag uint64) {
	b.p.Step(launch.Namespaces, fmt.Sprintf("join the %s namespace %s", kind, path))
	fd := b.p.Input(string(kind) + " namespace")
	b.plan.Join = append(b.plan.Join, NamespaceFile{fd, kind, path})
	b.p.Setns(fd, flag)
	if kind == specs.PIDNamespace {
		b.p.ForkInto()
	}
}

// identity waits for the id maps and becomes root inside: files made from now on have owners, and the capabilities
// that the rest of the program needs hold in the new user namespace only.
func (b *builder) identity() error {
	why := "wait for the id maps"
	if adj := b.plan.OOMScoreAdj; adj != nil {
		why += fmt.Sprintf(", and for oom_score_adj %d, which the parent sets so that the sandbox cannot go below", *adj)
	}
	b.p.Step(launch.IDs, why)
	b.p.Await(launch.PointNamespaces)
	if err := b.findPlace(); err != nil {
		return err
	}
	if b.hasUserNS() {
		b.becomeRoot()
	}
	return nil
}

func (b *builder) becomeRoot() {
	b.p.Step(launch.IDs, "become root inside, who is nobody outside")
	if !b.keepsGroups() {
		b.p.Setgroups(nil).Tolerate(unix.EPERM) // denied where only one group is mapped (CVE-2014-8989)
	}
	b.p.Setresgid(0)
	b.p.Setresuid(0)
	b.nonDumpable() // a change of ids resets it to /proc/sys/fs/suid_dumpable
}

// CloneText names the flags of clone3 as a person reads them.
func CloneText(flags uint64) string {
	var words []string
	for _, f := range cloneFlags {
		if flags&f.flag != 0 {
			words = append(words, "new "+string(f.kind))
		}
	}
	return strings.Join(words, ", ")
}
