package sandbox

import (
	"errors"
	"fmt"
	"os"

	"brig/internal/annotation"
	"brig/internal/fault"
	"brig/internal/isolation/native"
	"brig/internal/mac"
	"brig/internal/mac/apparmor"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// confine makes ready what the security modules of this host need before the start. On a host without them it costs the one
// call that tells.
func (v *supervisor) confine() error {
	for _, module := range []func() error{v.loadProfile, v.chooseLabel} {
		if err := module(); err != nil {
			return err
		}
	}
	return nil
}

// unconfine takes it away again, when no process of the sandbox is left.
func (v *supervisor) unconfine() error {
	if v.profile == nil {
		return nil
	}
	err := v.profile.Release()
	v.profile = nil
	fault.Point("profile unloaded")
	return err
}

// ProfileWanted tells whether a sandbox of the spec gets an AppArmor profile of its own here, and why not where it should have
// one: only root may load profiles.
func ProfileWanted(spec *specs.Spec) (wanted bool, missing string) {
	switch {
	case spec.Annotations[annotation.AppArmor] != "auto" || spec.Process.ApparmorProfile != "" || !apparmor.Present() || !mac.ReadHost().AppArmor:
		return false, ""
	case os.Geteuid() != 0:
		return false, "AppArmor profiles are loaded by root alone; a loaded one can be named with --security-opt apparmor=NAME"
	}
	return true, ""
}

// loadProfile has AppArmor's profile written from the spec and loaded. From then on the spec names it, so `exec` and `inspect`
// know it too.
func (v *supervisor) loadProfile() error {
	wanted, missing := ProfileWanted(v.req.Spec)
	if missing != "" {
		v.state.Missing = append(v.state.Missing, plan.MissingLayer{Layer: string(mac.AppArmor), Reason: missing})
	}
	if !wanted {
		return nil
	}
	err := withOptions(v.req.Spec, v.req.PassFDs, func(o apparmor.Options) (err error) {
		v.profile, err = apparmor.Load(v.req.Spec, o)
		return err
	})
	var unavailable *apparmor.UnavailableError
	if errors.As(err, &unavailable) {
		if !v.allowed(string(mac.AppArmor)) {
			return &plan.MissingLayerError{Layer: string(mac.AppArmor), Reason: err.Error()}
		}
		v.state.Missing = append(v.state.Missing, plan.MissingLayer{Layer: string(mac.AppArmor), Reason: err.Error()})
		return nil
	}
	if err != nil {
		return err
	}
	fault.Point("profile loaded")
	v.req.Spec.Process.ApparmorProfile = v.profile.Name
	return nil
}

// ProfileName is what the profile of a spec will be called here.
func ProfileName(spec *specs.Spec) (name string, err error) {
	err = withOptions(spec, nil, func(o apparmor.Options) error {
		name, err = apparmor.Name(spec, o)
		return err
	})
	return name, err
}

// ProfileText is the profile of a spec under a name, as it would be on a host whose brig runs under none.
func ProfileText(name string, spec *specs.Spec) (text string, err error) {
	root, err := native.OpenRoot(spec.Annotations, spec.Root.Path)
	if err != nil {
		return "", err
	}
	defer root.Close() //nolint:errcheck // read only; nil gives an error that says nothing
	facts, err := native.Facts(root)
	if err != nil {
		return "", err
	}
	return apparmor.Profile(name, spec, apparmor.Options{Resolve: facts.Resolve})
}

// withOptions has what a profile is made from beside the spec: where the links of the root lead, the files that are handed in,
// and what brig itself runs under, which signals the sandbox.
func withOptions(spec *specs.Spec, files []*os.File, do func(apparmor.Options) error) error {
	root, err := native.OpenRoot(spec.Annotations, spec.Root.Path)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // read only; nil gives an error that says nothing
	facts, err := native.Facts(root)
	if err != nil {
		return err
	}
	o := apparmor.Options{Resolve: facts.Resolve}
	own, err := mac.Current(mac.ReadHost(), os.Getpid())
	if err != nil {
		return err
	}
	o.Peer = own.Name
	for _, f := range files {
		if f == nil || !mediated(f) {
			continue
		}
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			return fmt.Errorf("look up the path of a file to hand in: %w", err)
		}
		o.Files = append(o.Files, name)
	}
	return do(o)
}

// mediated tells whether AppArmor asks for a rule when the program inherits the file. Pipes and sockets have no path, and the
// null device has its rule.
func mediated(f *os.File) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	fd := int(f.Fd()) //nolint:gosec // a file descriptor
	if unix.Fstat(fd, &st) != nil || unix.Fstatfs(fd, &fs) != nil {
		return true
	}
	kind := st.Mode & unix.S_IFMT
	null := kind == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
	return !null && kind != unix.S_IFDIR && fs.Type != unix.PIPEFS_MAGIC && fs.Type != unix.SOCKFS_MAGIC
}

// refuses tells whether the sandbox's profile or label would put the null file in the place of a stream: a profile knows the paths
// inside, not those of the host's files. Such a stream is copied. So it is for gVisor's kernel, which would write a file from its
// beginning on: it keeps a position of its own (its package pkg/sentry/fsimpl/host).
func (v *supervisor) refuses(f *os.File) bool {
	spec := v.req.Spec
	own := spec.Annotations[annotation.AppArmor] == "auto" && spec.Process.ApparmorProfile != ""
	return (own || v.onGVisor()) && mediated(f) || !inherits(spec, f)
}

// sweepProfiles unloads what supervisors have left that were killed.
func sweepProfiles() error {
	if os.Geteuid() != 0 || !apparmor.Present() {
		return nil
	}
	return apparmor.Sweep()
}
