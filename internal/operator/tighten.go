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
	"brig/internal/host"
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
	return p.tightenProcess(spec.Process)
}

// tightenProcess makes a process obey the policy: the first one, or one that an engine executes later.
func (p *Policy) tightenProcess(pr *specs.Process) error {
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
	if len(r.Unified) > 0 {
		p.tightenUnified(r)
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
	period := uint64(defaultPeriod)
	if c.Period != nil && *c.Period != 0 {
		period = *c.Period
	}
	c.Quota, c.Period = lower(c.Quota, p.quota(period), true), &period
	r.CPU = &c
}

// defaultPeriod is the kernel's, in microseconds.
const defaultPeriod = 100_000

// quota is the most that the policy allows of a period. Zero would be no limit; what is too little the kernel refuses.
func (p *Policy) quota(period uint64) int64 { return max(1, int64(p.Limits.CPUs*float64(period))) }

func (p *Policy) userNamespace(spec *specs.Spec) error {
	if p.UserNamespace == "" {
		return nil
	}
	if has(spec, specs.UserNamespace) {
		return checkMaps(spec)
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

// checkMaps refuses a user namespace whose files' owners are the host's root and his like. Root of a user namespace gives away what
// he has himself.
func checkMaps(spec *specs.Spec) error {
	for _, m := range slices.Concat(spec.Linux.UIDMappings, spec.Linux.GIDMappings) {
		if m.HostID == 0 && m.Size > 0 && !host.InUserNamespace() {
			return &RefusedError{"user-namespace", "its user namespace maps the host's root"}
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

// has tells whether a bundle has a namespace of a kind that is not the host's. Joining the host's by a path is to share it: an engine
// gives the path of another container's, which may have none of its own.
func has(spec *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == kind && (n.Path == "" || !host.OwnNamespace(string(kind), n.Path))
	})
}

func (p *Policy) landlock(spec *specs.Spec) error {
	if list := spec.Annotations[annotation.AllowMissing]; p.Landlock != "" && list != "" { // a bundle cannot accept to miss it
		layers := slices.DeleteFunc(strings.Split(list, ","), func(l string) bool { return strings.TrimSpace(l) == "landlock" })
		spec.Annotations[annotation.AllowMissing] = strings.Join(layers, ",")
	}
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
