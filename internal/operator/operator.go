// Package operator is what the operator of a machine demands of every bundle that an engine brings:
// /etc/brig/config.toml. It can make a bundle tighter or refuse it, never looser; without the file a bundle is obeyed as
// written.
//
// Its place on the road: package oci asks it between the bundle and the plan. What it changes in a spec stands in the
// spec, so plan and everything below know nothing of it.
package operator

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"brig/internal/caps"

	"github.com/docker/go-units"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
)

// File is where the policy stands. Only root may write it: Load refuses another owner's.
const File = "/etc/brig/config.toml"

// Policy is the file's content. A zero field demands nothing.
type Policy struct {
	// ForbidPrivileged refuses bundles whose root is as good as the host's; Privileged says what that means.
	ForbidPrivileged bool `toml:"forbid-privileged"`
	// ForbidHostNamespaces refuses bundles that share these namespaces with the host ("pid", "network", "ipc", "uts",
	// "cgroup"). One that is joined by its path counts as a pod's.
	ForbidHostNamespaces []string `toml:"forbid-host-namespaces"`
	// UserNamespace: "require" refuses bundles without one, "force" gives them one, with 65,536 host ids of its own.
	UserNamespace string `toml:"user-namespace"`
	// NoNewPrivileges sets process.noNewPrivileges.
	NoNewPrivileges bool `toml:"no-new-privileges"`
	// Landlock: "require" refuses bundles without the annotation run.brig.landlock, "add" sets it: writing is then cut to
	// what the mounts allow. It implies no-new-privileges.
	Landlock string `toml:"landlock"`
	// DropCapabilities are taken out of all five sets; "ALL" for every one.
	DropCapabilities []string `toml:"drop-capabilities"`
	// Seccomp is a filter that holds beside the bundle's own: "default", "strict", "compat", or a file with a profile in
	// the form of linux.seccomp. A call passes when both let it pass.
	Seccomp string `toml:"seccomp"`
	// Limits are the most that a bundle may ask for, and what it gets when it asks for none.
	Limits Limits `toml:"limits"`
	// Isolation chooses the kernel that serves the container.
	Isolation Isolation `toml:"isolation"`
	// ImageDevices: what becomes of device nodes in the images that are made here: "keep" (nothing can be opened through them) or
	// "refuse" the image. It says nothing of bundles.
	ImageDevices string `toml:"image-devices"`
	// Trust is which images may be used. It is no concern of bundles.
	Trust Trust `toml:"trust"`
	// Registries is for pulling images; bundles have nothing to do with it.
	Registries []Registry `toml:"registry"`

	drop    caps.Set
	memory  int64  // bytes
	seccomp string // the value of annotation.SeccompFloor
}

// Limits of one container.
type Limits struct {
	Memory string  `toml:"memory"` // bytes, or with a unit: "2g"
	Pids   int64   `toml:"pids"`
	CPUs   float64 `toml:"cpus"`
}

// Isolation chooses among native, gvisor and vm; of several that apply, the strongest one.
type Isolation struct {
	Default string          `toml:"default"`
	Rules   []IsolationRule `toml:"rule"`
}

// IsolationRule is one choice: bundles whose annotation has the value.
type IsolationRule struct {
	Annotation string `toml:"annotation"`
	Value      string `toml:"value"`
	Isolation  string `toml:"isolation"`
}

// Load reads the policy; nil when the machine has none. Whatever is wrong with the file is an error, and no container
// starts until it is mended.
func Load() (*Policy, error) {
	f, err := os.Open(File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the operator's policy: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil { //nolint:gosec // a file descriptor
		return nil, fmt.Errorf("read the operator's policy: %w", err)
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("the operator's policy %s belongs to user %d with mode %#o: it must be root's, and nobody else may write it", File, st.Uid, st.Mode&0o7777)
	}
	var text bytes.Buffer
	if _, err := text.ReadFrom(f); err != nil {
		return nil, fmt.Errorf("read the operator's policy: %w", err)
	}
	return Parse(text.Bytes())
}

// Parse reads a policy's text.
func Parse(text []byte) (*Policy, error) {
	var p Policy
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&p)
	var strict *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		row, _ := strict.Errors[0].Position()
		return nil, fmt.Errorf("%s:%d: unknown key %q", File, row, strings.Join(strict.Errors[0].Key(), "."))
	case errors.As(err, &wrong):
		row, column := wrong.Position()
		if key := strings.Join(wrong.Key(), "."); strings.Contains(err.Error(), "cannot decode") { // the rest names a Go type
			return nil, fmt.Errorf("%s:%d:%d: %s: the value is of another type than this key takes", File, row, column, key)
		}
		return nil, fmt.Errorf("%s:%d:%d: %w", File, row, column, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", File, err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", File, err)
	}
	return &p, nil
}

// check refuses values that mean nothing, and turns the others into what the kernel's words are.
func (p *Policy) check() error {
	for _, c := range []struct {
		key, value string
		words      []string
	}{
		{"user-namespace", p.UserNamespace, []string{"require", "force"}},
		{"image-devices", p.ImageDevices, []string{"keep", "refuse"}},
		{"landlock", p.Landlock, []string{"require", "add"}},
		{"isolation.default", p.Isolation.Default, isolations},
	} {
		if err := oneOf(c.key, c.value, c.words); c.value != "" && err != nil {
			return err
		}
	}
	for _, n := range p.ForbidHostNamespaces {
		if err := oneOf("forbid-host-namespaces", n, []string{"pid", "network", "ipc", "uts", "cgroup"}); err != nil {
			return err
		}
	}
	for _, r := range p.Isolation.Rules {
		if r.Annotation == "" {
			return errors.New("isolation.rule: annotation is missing")
		}
		if err := oneOf("isolation.rule.isolation", r.Isolation, isolations); err != nil {
			return err
		}
	}
	if p.Limits.Pids < 0 || p.Limits.CPUs < 0 {
		return errors.New("limits: a limit below zero")
	}
	return errors.Join(p.readMemory(), p.readCaps(), p.readSeccomp(), p.checkTrust(), p.checkRegistries())
}

func oneOf(key, value string, words []string) error {
	for _, w := range words {
		if value == w {
			return nil
		}
	}
	return fmt.Errorf("%s = %q: there are %s", key, value, strings.Join(words, ", "))
}

func (p *Policy) readMemory() (err error) {
	if p.Limits.Memory == "" {
		return nil
	}
	if p.memory, err = units.RAMInBytes(p.Limits.Memory); err != nil || p.memory <= 0 {
		return fmt.Errorf("limits.memory = %q is no size; say 512m or 2g", p.Limits.Memory)
	}
	return nil
}

func (p *Policy) readCaps() error {
	for _, name := range p.DropCapabilities {
		if strings.EqualFold(name, "all") {
			p.drop = caps.All
			continue
		}
		c, err := caps.Parse(name)
		if err != nil {
			return fmt.Errorf("drop-capabilities: %w", err)
		}
		p.drop |= c.Mask()
	}
	return nil
}
