package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"brig/internal/host"
	"brig/internal/policy"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// stage is the temporary folder of a run, with the root file system, the bundles and the state folders of the tools. It
// lies below /run, as the state folders of all of them do by default, so that nobody has a faster file system.
type stage struct {
	dir   string
	root  string // the root file system
	bare  string // the bare helper
	empty string // a program that does nothing
	null  *os.File
}

func newStage() (_ *stage, err error) {
	dir, err := os.MkdirTemp("/run", "brig-bench-")
	if err != nil {
		return nil, err
	}
	s := &stage{dir: dir, root: filepath.Join(dir, "root")}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // users of a sandbox's own go through it
		return nil, err
	}
	if s.null, err = ownNull(s.dir); err != nil {
		return nil, err
	}
	if err := makeRoot(s.root); err != nil {
		return nil, err
	}
	if s.bare, err = s.build("brig/test/bench/bare"); err != nil {
		return nil, err
	}
	s.empty, err = s.build("brig/test/bench/empty")
	return s, err
}

// build builds a program of this module as `make build` builds Brig's, and gives its path.
func (s *stage) build(pkg string) (string, error) {
	to := s.path(filepath.Base(pkg))
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", to, pkg)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", pkg, err, out)
	}
	return to, nil
}

func (s *stage) close() error {
	if s.null != nil {
		_ = s.null.Close()
	}
	return os.RemoveAll(s.dir)
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// files are the standard streams of everything that is measured.
func (s *stage) files() []uintptr {
	return []uintptr{s.null.Fd(), s.null.Fd(), s.null.Fd()}
}

// makeRoot makes a root file system of one static program.
func makeRoot(root string) error {
	for _, dir := range []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil { //nolint:gosec // a root file system
			return err
		}
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("%w; scripts/setup.sh installs it", err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), program, 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	for _, name := range []string{"cat", "ls", "sh", "sleep", "true"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			return err
		}
	}
	return nil
}

// bundleIDs is where the id range of the peers' containers begins.
const bundleIDs = 1<<20 + 1<<16

// spec is what `brig run --rootfs` makes of the command.
func (s *stage) spec(args ...string) (*specs.Spec, error) {
	p, err := policy.Preset("")
	if err != nil {
		return nil, err
	}
	p = policy.Merge(p, &policy.Policy{Root: &policy.Root{Path: s.root}, Args: args})
	tree, err := host.Cgroups()
	h, herr := policy.ThisHost(err == nil && tree.V2())
	if herr != nil {
		return nil, herr
	}
	return p.Spec(h)
}

// bundle writes the same spec as an OCI bundle for the peers: the same namespaces, filter, masks, mounts, limits. What
// only Brig reads (its annotations) is left out.
func (s *stage) bundle(name string, args ...string) (string, error) {
	spec, err := s.spec(args...)
	if err != nil {
		return "", err
	}
	spec.Version = "1.0.2" // what the oldest of the peers knows
	spec.Annotations = nil
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: bundleIDs, Size: 65536}}
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = maps, maps
	dir := s.path(name)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // nothing secret
		return "", err
	}
	text, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "config.json"), text, 0o644) //nolint:gosec // nothing secret
}

// ownNull makes a /dev/null of this program's own: a runtime may change the owner of its standard streams to the sandbox's
// root, and the host's node would stay so.
func ownNull(dir string) (*os.File, error) {
	name := filepath.Join(dir, "null")
	if err := unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil { //nolint:gosec // Linux' number of it
		return nil, &os.PathError{Op: "mknod", Path: name, Err: err}
	}
	return os.OpenFile(name, os.O_RDWR, 0)
}
