package gvisor

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/isolation/gvisor/job"
	"brig/internal/mounts"
	"brig/internal/plan"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// nobody is the user that the kernel process is inside the sandbox's ids: not even its root.
const nobody = 65534

// kernelSpec is the spec of the native sandbox that the kernel process runs in: the policy's, with the program replaced. Every
// layer around it stays as it was asked for; the filter is one for that program.
func kernelSpec(spec *specs.Spec) *specs.Spec {
	s, pr, linux := *spec, *spec.Process, *spec.Linux
	pr.Args, pr.Env, pr.Cwd = []string{programName, "sentry", job.Interface}, nil, "/"
	pr.User, pr.Capabilities, pr.NoNewPrivileges, pr.Rlimits = user(spec), nil, true, nil
	linux.Seccomp = kernelFilter()
	linux.Sysctl, linux.Resources = nil, Resources(spec.Linux.Resources)
	s.Process, s.Linux = &pr, &linux
	s.Annotations = maps.Clone(spec.Annotations)
	delete(s.Annotations, annotation.SeccompFloor) // for the guest's programs, whose filter has it
	// The guest's cgroup files are its own kernel's. Those of the host are not for the kernel process.
	s.Mounts = slices.DeleteFunc(slices.Clone(spec.Mounts), func(m specs.Mount) bool { return m.Type == "cgroup" || m.Type == "cgroup2" })
	s.Mounts = append(missing(s.Mounts), s.Mounts...)
	hide(&s)
	return &s
}

// missing are the mounts without which the kernel process does not start, and that a bundle has none of: the guest gets neither, or its own.
func missing(list []specs.Mount) (needed []specs.Mount) {
	for _, m := range []specs.Mount{
		{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}},
	} {
		if !slices.ContainsFunc(list, func(o specs.Mount) bool { return path.Join("/", o.Destination) == m.Destination }) {
			needed = append(needed, m)
		}
	}
	return needed
}

// hidden and fixed are what a policy without procfs beyond processes (subset=pid), or Docker's, keeps from a program. The kernel process has
// a whole procfs, without whose /proc/sys/vm gVisor's packages do not start, and sees no more of it whatever the bundle says: that
// speaks of the guest's procfs, which is another.
var (
	hidden = map[string][]string{
		"proc": {
			"acpi", "asound", "interrupts", "kallsyms", "kcore", "keys", "key-users", "kmsg", "kpagecount", "kpageflags", "latency_stats", "sched_debug",
			"schedstat", "scsi", "timer_list", "timer_stats", "vmallocinfo",
		},
		"sysfs": {"devices/virtual/powercap", "firmware", "kernel/debug", "kernel/security", "kernel/tracing", "module"},
	}
	fixed = map[string][]string{"proc": {"bus", "fs", "irq", "pressure", "sys", "sysrq-trigger"}}
)

// hide takes from the kernel process's procfs and sysfs what tells of the host.
func hide(s *specs.Spec) {
	more := func(list []string, m *specs.Mount, names []string) []string {
		list = slices.Clip(list)
		for _, name := range names {
			if at := path.Join(m.Destination, name); !slices.Contains(list, at) {
				list = append(list, at)
			}
		}
		return list
	}
	for i := range s.Mounts {
		m := &s.Mounts[i]
		m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return m.Type == "proc" && o == "subset=pid" })
		s.Linux.MaskedPaths = more(s.Linux.MaskedPaths, m, hidden[m.Type])
		s.Linux.ReadonlyPaths = more(s.Linux.ReadonlyPaths, m, fixed[m.Type])
	}
}

// user is the one that the kernel process becomes: nobody, where the sandbox has that id. Without ids of its own it has the host's.
func user(spec *specs.Spec) specs.User {
	if path, own := plan.Namespace(spec, specs.UserNamespace); !own && path == "" {
		return specs.User{UID: nobody, GID: nobody}
	}
	if hasID(spec.Linux.UIDMappings, nobody) && hasID(spec.Linux.GIDMappings, nobody) {
		return specs.User{UID: nobody, GID: nobody}
	}
	return specs.User{}
}

func hasID(list []specs.LinuxIDMapping, id uint32) bool {
	return slices.ContainsFunc(list, func(m specs.LinuxIDMapping) bool {
		return m.ContainerID <= id && uint64(id) < uint64(m.ContainerID)+uint64(m.Size)
	})
}

// checkUser refuses ids that the sandbox does not have. The host's kernel would: the guest's has all of them, but no file could be theirs.
func checkUser(spec *specs.Spec) error {
	if _, own := plan.Namespace(spec, specs.UserNamespace); !own || len(spec.Linux.UIDMappings) == 0 {
		return nil
	}
	u := &spec.Process.User
	if !hasID(spec.Linux.UIDMappings, u.UID) {
		return &UnsupportedError{"process.user", fmt.Sprintf("the sandbox has no user id %d", u.UID)}
	}
	for _, id := range append([]uint32{u.GID}, u.AdditionalGids...) {
		if !hasID(spec.Linux.GIDMappings, id) {
			return &UnsupportedError{"process.user", fmt.Sprintf("the sandbox has no group id %d", id)}
		}
	}
	return nil
}

// goferCaps are what a file server needs to act for every user of the guest: it makes files of others' and reads what only they may
// (gVisor's runsc/cmd/gofer.go has the same five and more).
var goferCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID"}

// serverCommand is the word that makes brig-gvisor a file server.
const serverCommand = "gofer"

// goferSpec is the spec of the file server, a further process of the kernel's sandbox.
func goferSpec(spec *specs.Spec) *specs.Spec {
	s := kernelSpec(spec)
	s.Process.Args = []string{programName, serverCommand, job.Interface}
	s.Linux.Seccomp = goferFilter(spec.Linux.Seccomp)
	s.Process.User = specs.User{}
	s.Process.Terminal, s.Process.ConsoleSize = false, nil
	s.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: goferCaps, Effective: goferCaps, Permitted: goferCaps, Inheritable: goferCaps, Ambient: goferCaps, // to outlive execve
	}
	delete(s.Annotations, annotation.LockCaps) // which a program that has any cannot be started with
	return s
}

// own are the file systems that gVisor's kernel makes itself. The others come from the file server.
var own = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}

// isOwn tells whether the guest's kernel makes a mount itself. One with something in it, of the root (tmpcopyup) or
// the working directory, is made by the launch program, and served.
func isOwn(m *specs.Mount, cwd string) bool {
	made := m.Type == "tmpfs" && strings.HasPrefix(path.Clean(cwd), path.Clean(m.Destination)+"/")
	return slices.Contains(own, m.Type) && !made && !slices.Contains(m.Options, "tmpcopyup")
}

// guestSpec is what the guest's kernel makes the guest from. Every bind mount is served apart, and named in below: the kernel takes the
// root for its own, which may be read-only as a whole and whose files nobody else changes, and a volume is neither.
func guestSpec(spec *specs.Spec) (guest *specs.Spec, below []string, err error) {
	process, _, err := plan.Guest(spec.Process)
	if err != nil {
		return nil, nil, err
	}
	s, pr := *spec, *process
	s.Root = &specs.Root{Path: "/", Readonly: spec.Root != nil && spec.Root.Readonly}
	s.Annotations = maps.Clone(spec.Annotations)
	maps.DeleteFunc(s.Annotations, func(key, _ string) bool { return strings.HasPrefix(key, annotation.Prefix) })
	s.Hooks, s.Mounts = nil, nil
	pr.ApparmorProfile, pr.SelinuxLabel = "", ""
	pr.User.AdditionalGids = slices.Sorted(slices.Values(pr.User.AdditionalGids)) // as the host's kernel keeps them (groups_sort)
	pr.Env = withPath(pr.Env)
	s.Process = &pr
	floor, err := plan.Floor(spec)
	if err != nil {
		return nil, nil, err
	}
	filter, err := job.Filter(spec.Linux.Seccomp, floor, seccomp.Native())
	if err != nil {
		return nil, nil, err
	}
	s.Linux = &specs.Linux{Seccomp: filter, Namespaces: namespaces(spec), MaskedPaths: spec.Linux.MaskedPaths, ReadonlyPaths: spec.Linux.ReadonlyPaths}
	for _, m := range spec.Mounts {
		at := path.Join("/", m.Destination) // old bundles have it without
		m.Destination = at
		switch {
		case isOwn(&m, pr.Cwd) && (at == "/dev" || at == "/dev/pts"): // gVisor makes what is in them as it has it
			m.Options = attributes(m.Options)
			s.Mounts = append(s.Mounts, m)
		case isOwn(&m, pr.Cwd):
			m.Options = tmpfsOptions(&m)
			s.Mounts = append(s.Mounts, m)
		case madeAsLink(&m): // it is in the tree, and no mount
		default:
			m.Type, m.Source = "bind", at
			m.UIDMappings, m.GIDMappings = nil, nil
			m.Options = bindOptions(&m)
			s.Mounts = append(s.Mounts, m)
			below = append(below, at)
		}
	}
	sealLater(s.Mounts)
	return &s, below, nil
}

// sealLater has a file system of the guest's own that is read-only be so when the mounts in it are made: gVisor makes the folders for them as it
// comes to each. In /dev there always are some.
func sealLater(list []specs.Mount) {
	for i := range list {
		m := &list[i]
		ro := slices.Index(m.Options, "ro")
		if m.Type == "bind" || ro < 0 {
			continue
		}
		if m.Destination == "/dev" || slices.ContainsFunc(list, func(o specs.Mount) bool { return strings.HasPrefix(o.Destination, m.Destination+"/") }) {
			m.Options[ro] = job.SealedLater
		}
	}
}

// bindOptions are those of a served mount: what may be written in it is the tree's to say, and the guest's kernel is told the same, or it
// would take a new time or mode of a file for done that the file does not get.
func bindOptions(m *specs.Mount) []string { return append([]string{"rbind"}, attributes(m.Options)...) }

// attributes are those of the options that gVisor has for every mount.
func attributes(options []string) (list []string) {
	o, err := mounts.Parse(options)
	if err != nil {
		return nil // the launch program's to refuse
	}
	for _, a := range []struct {
		name string
		flag uint64
	}{{"ro", unix.MOUNT_ATTR_RDONLY}, {"nosuid", unix.MOUNT_ATTR_NOSUID}, {"noexec", unix.MOUNT_ATTR_NOEXEC}} {
		if (o.Set|o.RecursiveSet)&a.flag != 0 {
			list = append(list, a.name)
		}
	}
	return list
}

// madeAsLink tells whether a bind mount is none, but a link like its source (the option copy-symlink).
func madeAsLink(m *specs.Mount) bool {
	if !slices.Contains(m.Options, "copy-symlink") {
		return false
	}
	_, err := os.Readlink(m.Source)
	return err == nil
}

// namespaces are those of the guest, none of which is the host's.
func namespaces(spec *specs.Spec) []specs.LinuxNamespace {
	var list []specs.LinuxNamespace
	for _, n := range spec.Linux.Namespaces {
		if n.Type != specs.UserNamespace {
			list = append(list, specs.LinuxNamespace{Type: n.Type})
		}
	}
	return list
}

// tmpfsOptions leaves out what gVisor's file systems do not know.
func tmpfsOptions(m *specs.Mount) []string {
	return slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool {
		name, _, _ := strings.Cut(o, "=")
		return name == "nr_inodes" || name == "strictatime"
	})
}

// withPath has a program found where a spec without PATH means it to be: gVisor's kernel looks nowhere then.
func withPath(env []string) []string {
	if slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		return env
	}
	return append(slices.Clone(env), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

// emptyTmp tells whether the root has an empty folder /tmp and nothing mounted there, over which gVisor's kernel would lay memory on its
// own: what is written there has to be on the host, and a read-only root read-only.
func emptyTmp(spec *specs.Spec) bool {
	if spec.Root == nil || slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool {
		at := path.Clean(m.Destination)
		return at == "/tmp" || strings.HasPrefix(at, "/tmp/")
	}) {
		return false
	}
	root, err := os.OpenRoot(spec.Root.Path)
	if err != nil {
		return false
	}
	defer root.Close() //nolint:errcheck // read only
	if info, err := root.Lstat("tmp"); err != nil || !info.IsDir() {
		return false
	}
	tmp, err := root.Open("tmp")
	if err != nil {
		return false
	}
	defer tmp.Close() //nolint:errcheck // read only
	names, _ := tmp.Readdirnames(1)
	return len(names) == 0
}

// withTmp serves the folder as a volume is served.
func withTmp(guest *specs.Spec, below []string) []string {
	guest.Mounts = append(guest.Mounts, specs.Mount{Destination: "/tmp", Type: "bind", Source: "/tmp", Options: []string{"rbind"}})
	return append(below, "/tmp")
}
