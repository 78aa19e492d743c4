package plan

import (
	"fmt"
	"path"
	"strings"

	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// beforeRoot are the steps between the detached root and the entered one. Hooks of the create phase come "after the
// runtime environment has been created but before the pivot_root" (runtime-spec config.md, "Prestart" and on): they find
// the root and its mounts at the root's path, and the host's files beside it. So with hooks the root is entered late.
func (b *builder) beforeRoot() []func() error {
	if b.facts.Hooks {
		return []func() error{b.showRoot, b.mounts, b.devices, b.hooks, b.enterRoot}
	}
	if HostMounts(b.spec) {
		return []func() error{b.showRoot, b.enterRoot, b.mounts, b.devices}
	}
	return []func() error{b.enterRoot, b.mounts, b.devices}
}

// findPlace opens the folder where hooks are to find the root. It is done while this is still the caller's user: root
// of a user namespace may not enter a folder that is the host root's alone.
func (b *builder) findPlace() error {
	if !b.facts.Hooks && !HostMounts(b.spec) {
		return nil
	}
	if b.ram {
		return &UnsupportedError{"hooks", "need a root file system with a path; this one is in RAM"}
	}
	if b.spec.Root == nil {
		return &UnsupportedError{"root.path", "is missing"}
	}
	b.p.Step(launch.Root, "find the place of the root file system")
	b.place = b.p.Openat2("place of the root", 0, b.spec.Root.Path, unix.O_PATH|unix.O_DIRECTORY, 0, 0)
	return nil
}

func (b *builder) showRoot() error {
	b.p.Step(launch.Root, "attach the root at "+b.spec.Root.Path)
	b.p.MoveMount(b.root, b.place)
	if HostMounts(b.spec) {
		// Where the mount it lies in is shared, attaching has made it so, too: what is mounted in it next is nobody else's.
		b.p.MountSetattr(b.root, "", unix.AT_RECURSIVE, 0, 0, unix.MS_PRIVATE)
	}
	return nil
}

func (b *builder) hooks() error {
	b.p.Step(launch.Supervision, "wait for the hooks that come before the root is entered")
	b.p.Await(launch.PointCreated)
	return nil
}

// CompileHook makes the plan of a hook that runs in the namespaces of a sandbox; bundle is the folder of its config.json.
//
// A createContainer hook (entered is false) is the host's program and changes the sandbox before anything of it runs: it
// joins the namespaces and has all their rights. A startContainer hook is a program of the sandbox's, and confined as
// spec.Process is.
func CompileHook(spec *specs.Spec, h *specs.Hook, entered bool, bundle string, facts *Facts) (*Plan, error) {
	if spec.Process == nil || spec.Linux == nil {
		return nil, &UnsupportedError{"process", "is missing"}
	}
	s, pr := *spec, *spec.Process
	pr.Terminal, pr.ConsoleSize, pr.Cwd = false, nil, "/"
	pr.Args = h.Args
	if h.Env != nil || !entered {
		pr.Env = h.Env // without one of its own, what is confined as the program has its environment, as with runc
	}
	if len(pr.Args) == 0 {
		pr.Args = []string{h.Path}
	}
	s.Process = &pr
	b, err := newBuilder(&s, facts)
	if err != nil {
		return nil, err
	}
	if !path.IsAbs(h.Path) {
		return nil, &UnsupportedError{"hooks", fmt.Sprintf("the path %q is not absolute", h.Path)}
	}
	b.program, b.further = h.Path, true
	steps := []func() error{b.supervision, b.cgroup, b.joinSandbox, b.process}
	if !entered {
		steps = []func() error{b.supervision, b.cgroup, b.joinNamespaces, func() error { return b.hostHook(bundle) }}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return b.plan, nil
}

// hostHook executes a program of the host's. Its working directory is the bundle where root of the sandbox may enter it,
// and never a folder of the sandbox's (CVE-2025-23266 took a library from there).
func (b *builder) hostHook(bundle string) error {
	b.p.Step(launch.Exec, "enter the bundle's folder "+bundle)
	b.p.Chdir("/")
	if strings.HasPrefix(bundle, "/") {
		b.p.Chdir(bundle).Tolerate(unix.EACCES, unix.ENOENT)
	}
	b.p.Umask(defaultUmask)
	if err := b.start(b.spec.Process); err != nil {
		return err
	}
	b.streams()
	return b.exec(b.spec.Process)
}
