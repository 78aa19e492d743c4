package operator

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/caps"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// RefusedError is a bundle that the operator does not want on this machine.
type RefusedError struct{ Key, Reason string }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the operator's policy (%s, %s) refuses this bundle: %s", File, e.Key, e.Reason)
}

// Tighten makes a bundle's spec obey the policy, or gives a *RefusedError. A nil policy demands nothing.
//
// A user namespace that is forced has no id maps yet: annotation.IDs asks the caller for them.
func (p *Policy) Tighten(spec *specs.Spec) error {
	if p == nil {
		return nil
	}
	if spec.Annotations == nil {
		spec.Annotations = map[string]string{}
	}
	for _, step := range []func(*specs.Spec) error{p.userNamespace, p.namespaces, p.privileged, p.landlock} {
		if err := step(spec); err != nil {
			return err
		}
	}
	if p.seccomp != "" {
		spec.Annotations[annotation.SeccompFloor] = p.seccomp
	}
	if p.memory != 0 || p.Limits.Pids != 0 || p.Limits.CPUs != 0 {
		if spec.Linux.Resources == nil {
			spec.Linux.Resources = &specs.LinuxResources{}
		}
		p.TightenResources(spec.Linux.Resources, true)
	}
	return p.TightenProcess(spec.Process)
}

// TightenProcess makes a process obey the policy: the first one, or one that an engine executes later.
func (p *Policy) TightenProcess(pr *specs.Process) error {
	if p == nil || pr == nil {
		return nil
	}
	if p.NoNewPrivileges || p.Landlock != "" {
		pr.NoNewPrivileges = true
	}
	if pr.Capabilities == nil || p.drop == 0 {
		return nil
	}
	c := *pr.Capabilities
	for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted, &c.Inheritable, &c.Ambient} {
		kept := make([]string, 0, len(*set))
		for _, name := range *set {
			if n, err := caps.Parse(name); err != nil || !p.drop.Has(n) {
				kept = append(kept, name) // an unknown one is plan's to refuse
			}
		}
		*set = kept
	}
	pr.Capabilities = &c
	return nil
}

// TightenResources lowers limits to the policy's. With fill, those that are not set are set; an update sets only what it
// changes.
func (p *Policy) TightenResources(r *specs.LinuxResources, fill bool) {
	if p == nil {
		return
	}
	if p.memory != 0 && (fill || r.Memory != nil) {
		if r.Memory == nil {
			r.Memory = &specs.LinuxMemory{}
		}
		m := *r.Memory
		m.Limit, m.Reservation = lower(m.Limit, p.memory, fill), lower(m.Reservation, p.memory, false)
		if m.Swap != nil { // memory and swap together: what was swap alone stays
			m.Swap = lower(m.Swap, swapLimit(r.Memory, p.memory), false)
		}
		r.Memory = &m
	}
	if p.Limits.Pids != 0 && (fill || r.Pids != nil) {
		var limit *int64
		if r.Pids != nil {
			limit = r.Pids.Limit
		}
		r.Pids = &specs.LinuxPids{Limit: lower(limit, p.Limits.Pids, true)}
	}
	if p.Limits.CPUs != 0 && (fill || r.CPU != nil && (r.CPU.Quota != nil || r.CPU.Period != nil)) {
		p.tightenCPU(r)
	}
}

// lower is the smaller one of a limit and the most there may be. Zero and below are no limit (runtime-spec
// config-linux.md, "Memory", "PIDs").
func lower(limit *int64, most int64, fill bool) *int64 {
	switch {
	case limit == nil && !fill:
		return nil
	case limit == nil || *limit <= 0 || *limit > most:
		return &most
	}
	return limit
}

// swapLimit is the most of memory and swap together: swap is not limited by the policy, but "no limit" of both would be
// more memory than it allows.
func swapLimit(m *specs.LinuxMemory, memory int64) int64 {
	if m.Limit != nil && *m.Limit > 0 && *m.Swap > *m.Limit {
		return memory + *m.Swap - *m.Limit
	}
	return memory
}

func (p *Policy) tightenCPU(r *specs.LinuxResources) {
	c := specs.LinuxCPU{}
	if r.CPU != nil {
		c = *r.CPU
	}
	period := uint64(100_000) // the kernel's default, in microseconds
	if c.Period != nil && *c.Period != 0 {
		period = *c.Period
	}
	most := int64(p.Limits.CPUs * float64(period))
	c.Quota, c.Period = lower(c.Quota, most, true), &period
	r.CPU = &c
}

func (p *Policy) userNamespace(spec *specs.Spec) error {
	if p.UserNamespace == "" || has(spec, specs.UserNamespace) {
		return nil
	}
	if p.UserNamespace == "require" {
		return &RefusedError{"user-namespace", "it has no user namespace, so its root is the host's"}
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Path != "" {
			return &RefusedError{"user-namespace", fmt.Sprintf("it joins the %s namespace %s, over which a user namespace of its own would have no rights; have the engine ask for user namespaces (Kubernetes: hostUsers: false)", n.Type, n.Path)}
		}
	}
	spec.Linux.Namespaces = append(slices.Clone(spec.Linux.Namespaces), specs.LinuxNamespace{Type: specs.UserNamespace})
	spec.Annotations[annotation.IDs], spec.Annotations[annotation.RootIDMap] = "auto", "true"
	spec.Mounts = slices.Clone(spec.Mounts)
	for i := range spec.Mounts { // the owners of files in volumes are those that the image knows, too
		m := &spec.Mounts[i]
		if bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind"); bind && len(m.UIDMappings) == 0 {
			m.Options = append(slices.Clone(m.Options), "idmap")
		}
	}
	return nil
}

func (p *Policy) namespaces(spec *specs.Spec) error {
	for _, n := range p.ForbidHostNamespaces {
		if !has(spec, specs.LinuxNamespaceType(n)) {
			return &RefusedError{"forbid-host-namespaces", "it shares the host's " + n + " namespace"}
		}
	}
	return nil
}

func has(spec *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

func (p *Policy) landlock(spec *specs.Spec) error {
	if mode := spec.Annotations[annotation.Landlock]; p.Landlock == "" || mode == "on" || mode == "strict" {
		return nil
	}
	if p.Landlock == "require" {
		return &RefusedError{"landlock", "it asks for no Landlock ruleset; set the annotation " + annotation.Landlock + "=on"}
	}
	spec.Annotations[annotation.Landlock] = "on"
	// The ruleset is about files: which ports there are is the engine's network's matter.
	spec.Annotations[annotation.LandlockBind], spec.Annotations[annotation.LandlockConnect] = "*", "*"
	return nil
}

// mighty are the capabilities whose holder owns the host when no user namespace bounds them: by loading code into the
// kernel, by mounts and devices, by reading any file or process (capabilities(7)).
const mighty = 1<<2 | 1<<16 | 1<<17 | 1<<19 | 1<<21 | 1<<22 | 1<<32 | 1<<33 | 1<<38 | 1<<39

// privileged refuses what Docker's --privileged and its like make of a bundle.
func (p *Policy) privileged(spec *specs.Spec) error {
	if !p.ForbidPrivileged {
		return nil
	}
	if why := Privileged(spec); len(why) > 0 {
		return &RefusedError{"forbid-privileged", strings.Join(why, "; ")}
	}
	return nil
}

// Privileged says what makes the root of a bundle as good as the host's, with its user namespace as it stands: nothing,
// for most.
func Privileged(spec *specs.Spec) (why []string) {
	if pr := spec.Process; pr != nil && pr.Capabilities != nil && !has(spec, specs.UserNamespace) {
		c := pr.Capabilities
		set, err := caps.ParseSet(slices.Concat(c.Bounding, c.Permitted, c.Inheritable))
		if held := set & mighty; err == nil && held != 0 {
			why = append(why, "it has "+held.String()+" without a user namespace")
		}
	}
	if r := spec.Linux.Resources; r != nil {
		for _, d := range r.Devices {
			wild := d.Major == nil || *d.Major < 0
			if d.Allow && wild && strings.ContainsAny(d.Access, "rw") {
				why = append(why, "it may use every device of the host")
				break
			}
		}
	}
	proc := slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Type == "proc" })
	if proc && len(spec.Linux.MaskedPaths) == 0 && len(spec.Linux.ReadonlyPaths) == 0 {
		why = append(why, "nothing of /proc is masked or read-only")
	}
	if !has(spec, specs.MountNamespace) {
		why = append(why, "it has no mount namespace")
	}
	return why
}

// readSeccomp prepares the floor: the name of a built-in profile, or the text of a file that is checked here.
func (p *Policy) readSeccomp() error {
	switch p.Seccomp {
	case "":
		return nil
	case seccomp.Default, seccomp.Strict, seccomp.Compat:
		p.seccomp = p.Seccomp
		return nil
	}
	if !filepath.IsAbs(p.Seccomp) {
		return fmt.Errorf("seccomp = %q: there are default, strict, compat, and absolute paths of profiles", p.Seccomp)
	}
	text, err := os.ReadFile(p.Seccomp)
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal(text, &profile); err != nil {
		return fmt.Errorf("seccomp: %s: %w", p.Seccomp, err)
	}
	f, err := seccomp.Compile(&profile, seccomp.Options{})
	if err == nil && f.Notify {
		err = errors.New("SCMP_ACT_NOTIFY is not for a floor: only one agent can be asked (seccomp_unotify(2))")
	}
	if err != nil {
		return fmt.Errorf("seccomp: %s: %w", p.Seccomp, err)
	}
	p.seccomp = string(text)
	return nil
}
