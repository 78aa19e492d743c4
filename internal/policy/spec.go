package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/caps"
	"brig/internal/mac/selinux"
	"brig/internal/seccomp"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Spec writes the OCI spec of a merged policy. Everything it says can be read back from the result; nothing below looks
// at a policy again.
func (p *Policy) Spec(h *Host) (*specs.Spec, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	w := &writer{p: p, h: h, spec: &specs.Spec{
		Version:     specs.Version,
		Hostname:    p.Hostname,
		Process:     &specs.Process{NoNewPrivileges: true},
		Root:        &specs.Root{Readonly: p.readOnly()},
		Linux:       &specs.Linux{Resources: &specs.LinuxResources{}},
		Annotations: map[string]string{},
	}}
	for _, step := range []func() error{
		w.namespaces, w.root, w.mounts, w.process, w.capabilities, w.seccomp, w.landlock, w.resources, w.devices, w.annotations,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return w.spec, nil
}

// readOnly tells whether the root is: unless somebody says otherwise.
func (p *Policy) readOnly() bool {
	switch {
	case p.Root == nil:
		return true
	case p.Root.ReadOnly != nil:
		return *p.Root.ReadOnly
	}
	return p.Root.Writable+p.Root.WritableSize == ""
}

type writer struct {
	p    *Policy
	h    *Host
	spec *specs.Spec
	caps caps.Set
}

func isTrue(b *bool) bool { return b != nil && *b }

// hostUsers tells whether the policy does without a user namespace.
func (w *writer) hostUsers() bool { return w.p.Namespaces != nil && w.p.Namespaces.User == "host" }

// hostNetwork tells whether the sandbox shares the host's network.
func (w *writer) hostNetwork() bool { return w.p.Network == "host" }

func (w *writer) namespaces() error {
	kinds := []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace}
	if !w.hostUsers() {
		kinds = append([]specs.LinuxNamespaceType{specs.UserNamespace}, kinds...)
		w.spec.Annotations[annotation.IDs] = "auto"
	} else if w.h.EUID != 0 {
		return bad("namespaces.user", "host needs root: without a user namespace an unprivileged user can isolate nothing")
	}
	if !w.hostNetwork() {
		kinds = append(kinds, specs.NetworkNamespace)
	}
	if w.p.Namespaces != nil && isTrue(w.p.Namespaces.Time) {
		kinds = append(kinds, specs.TimeNamespace)
	}
	for _, k := range kinds {
		w.spec.Linux.Namespaces = append(w.spec.Linux.Namespaces, specs.LinuxNamespace{Type: k})
	}
	w.spec.Linux.Sysctl = w.p.Sysctls
	return nil
}

func (w *writer) process() error {
	p, pr := w.p, w.spec.Process
	if pr.Args = w.program(); len(pr.Args) == 0 {
		if p.Image != "" {
			return bad("args", "no program is given, and the image names none; write one behind the image")
		}
		return bad("args", "no program is given; write it after --, or name an image")
	}
	pr.Terminal = isTrue(p.Terminal)
	var err error
	if pr.User, err = p.user(w.h); err != nil {
		return err
	}
	pr.Cwd = cmp.Or(p.Workdir, w.workingDir())
	if pr.Env, err = w.environment(); err != nil {
		return err
	}
	pr.ApparmorProfile = p.AppArmor
	w.label()
	if p.AppArmor == Auto {
		pr.ApparmorProfile, w.spec.Annotations[annotation.AppArmor] = "", Auto
	}
	return w.rlimits()
}

// label asks for an SELinux label: of a domain that has what the filter lets through, or the one that is named.
func (w *writer) label() {
	domain := selinux.Domain(w.p.SELinux)
	switch {
	case w.p.SELinux == "" || w.p.SELinux == Unconfined:
		return
	case w.p.SELinux == Auto && w.p.Seccomp == Strict:
		domain = selinux.Local
	case w.p.SELinux == Auto:
		domain = selinux.Network
	case !slices.Contains(selinux.Domains, domain):
		w.spec.Process.SelinuxLabel = w.p.SELinux
		return
	}
	w.spec.Annotations[annotation.SELinux] = string(domain)
}

// image is the config of the policy's image; an empty one where it has none.
func (w *writer) image() *ImageFacts {
	if w.p.Image == "" || w.h.Image == nil {
		return &ImageFacts{}
	}
	return w.h.Image
}

// program joins entrypoint and arguments as Docker does: arguments take the place of the image's Cmd, and so does another
// entrypoint, for which that was not written.
func (w *writer) program() []string {
	entrypoint, args := w.p.Entrypoint, w.p.Args
	if len(args) == 0 && entrypoint == nil {
		args = w.image().Cmd
	}
	if entrypoint == nil {
		entrypoint = w.image().Entrypoint
	}
	return slices.Concat(entrypoint, args)
}

// workingDir is where the program begins when the policy does not say. A path of an image's that is not absolute is from the root, as
// with Docker.
func (w *writer) workingDir() string {
	if w.hostView() {
		return homeDir
	}
	return path.Join("/", w.image().WorkingDir)
}

// defaultPath is Docker's.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is Brig's, the image's and the policy's; the last with a key counts.
func (w *writer) environment() ([]string, error) {
	home := "/"
	if w.hostView() {
		home = homeDir
	}
	if e, ok := w.p.entry(w.h, "/etc/passwd", func(f []string) bool {
		return len(f) >= 6 && f[2] == fmt.Sprint(w.spec.Process.User.UID) && path.IsAbs(f[5])
	}); ok {
		home = e[5]
	}
	env := []string{defaultPath, "HOME=" + home, "HOSTNAME=" + w.p.Hostname}
	if isTrue(w.p.Terminal) {
		env = append(env, "TERM=xterm")
	}
	for i, e := range w.image().Env {
		if key, _, ok := strings.Cut(e, "="); !ok || key == "" || strings.IndexByte(e, 0) >= 0 {
			return nil, bad("image", "its config has %q as an environment variable (config.Env[%d]), which is none", e, i)
		}
		env = append(env, e)
	}
	return lastByKey(append(env, w.p.Env...), func(e string) string { k, _, _ := strings.Cut(e, "="); return k }), nil
}

// openFiles is the default limit of open files; systemd's hard default (systemd-system.conf(5), DefaultLimitNOFILE).
const openFiles = 524288

func (w *writer) rlimits() error {
	hard := min(uint64(openFiles), w.h.NoFile)
	limits := []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: min(1024, hard), Hard: hard},
		{Type: "RLIMIT_CORE"}, // a core file would go where the host's core_pattern says
	}
	if w.p.Limits != nil {
		for _, text := range w.p.Limits.Ulimits {
			l, err := ParseUlimit(text)
			if err != nil {
				return bad("limits.ulimits", "%v", err)
			}
			limits = append(limits, l)
		}
	}
	w.spec.Process.Rlimits = lastByKey(limits, func(l specs.POSIXRlimit) string { return l.Type })
	return nil
}

// capabilities gives what was added to none. A user other than root keeps capabilities over execve only when they are
// ambient too (capabilities(7)).
func (w *writer) capabilities() error {
	sets := &specs.LinuxCapabilities{Bounding: []string{}, Effective: []string{}, Permitted: []string{}, Inheritable: []string{}, Ambient: []string{}}
	w.spec.Process.Capabilities = sets
	if c := w.p.Capabilities; c != nil {
		add, err := capSet("capabilities.add", c.Add)
		if err != nil {
			return err
		}
		drop, err := capSet("capabilities.drop", c.Drop)
		if err != nil {
			return err
		}
		// "drop ALL, add X" leaves X, as docker's --cap-drop=ALL --cap-add=X: ALL is what there was before.
		if drop == everyCap {
			drop = 0
		}
		w.caps = add &^ drop
	}
	if w.caps == 0 {
		w.spec.Annotations[annotation.LockCaps] = "true"
		return nil
	}
	names := w.caps.Upto(w.h.LastCap).Names()
	sets.Bounding, sets.Effective, sets.Permitted = names, names, names
	if w.spec.Process.User.UID != 0 {
		asked := (w.caps & w.asked()).Upto(w.h.LastCap).Names()
		sets.Inheritable, sets.Ambient = asked, asked
	}
	return nil
}

// asked are the capabilities that a person named, in addition to those that the preset gives. Only these hold for a user other
// than root: as docker's defaults, the preset's are for root alone (CVE-2022-29162 was about sets that were not empty).
// A merged list has the preset's before the person's.
func (w *writer) asked() (asked caps.Set) {
	var given caps.Set
	c := w.p.Capabilities
	if w.p.Preset == Compat && !slices.ContainsFunc(c.Drop, func(n string) bool { return sameCap(n, "ALL") }) {
		given, _ = capSet("", dockerCaps())
	}
	for _, name := range c.Add {
		set, _ := capSet("", []string{name}) // was read before
		asked |= set &^ given
		given &^= set
	}
	return asked
}

// everyCap is what ALL means before the kernel's newest capability cuts it.
const everyCap = ^caps.Set(0)

// capSet is the union of the named capabilities; ALL is every one.
func capSet(key string, names []string) (set caps.Set, err error) {
	for _, name := range names {
		if sameCap(name, "ALL") {
			return everyCap, nil
		}
		one, err := caps.Parse(name)
		if err != nil {
			return 0, bad(key, "%v", err)
		}
		set |= one.Mask()
	}
	return set, nil
}

func (w *writer) seccomp() error {
	name := w.p.Seccomp
	switch name {
	case "unconfined":
		w.spec.Annotations[annotation.Seccomp] = name
		return nil
	case "", Default, Strict, Compat:
		if name == "" {
			name = Default
		}
		profile, err := seccomp.Profile(name, w.capNames())
		if err != nil {
			return err
		}
		w.spec.Linux.Seccomp = profile
	default:
		data, err := w.h.Read(absolute(name, w.h.Cwd))
		if err != nil {
			return bad("seccomp", "read the profile: %v; the built-in ones are default, strict and compat", err)
		}
		profile, err := seccomp.ParseProfile(bytes.NewReader(data), seccomp.ParseOptions{Caps: w.capNames()})
		if err == nil {
			_, err = seccomp.Compile(profile, seccomp.Options{Strict: true})
		}
		if err != nil {
			return bad("seccomp", "%s: %v", name, err)
		}
		w.spec.Linux.Seccomp = profile
	}
	w.spec.Annotations[annotation.Seccomp] = name
	return nil
}

func (w *writer) capNames() []string { return w.spec.Process.Capabilities.Bounding }

// landlock: in a network of its own there is nobody to connect to, so ports are limited only where the policy names some.
func (w *writer) landlock() error {
	l := w.p.Landlock
	if l == nil || l.Mode == "off" {
		return nil
	}
	mode := l.Mode
	if mode == "" {
		mode = "on"
	}
	a := w.spec.Annotations
	a[annotation.Landlock] = mode
	ports := func(list []string) string {
		if list == nil {
			return "*"
		}
		return strings.Join(list, ",")
	}
	a[annotation.LandlockBind], a[annotation.LandlockConnect] = ports(l.Bind), ports(l.Connect)
	return nil
}

func (w *writer) annotations() error {
	a := w.spec.Annotations
	if isTrue(w.p.Init) {
		a[annotation.Init] = "true"
	}
	if isTrue(w.p.NoNewPrograms) {
		a[annotation.NoNewPrograms] = "true"
	}
	if !w.hostUsers() && w.p.Preset != Compat && w.caps == 0 {
		a[annotation.MaxUserNamespaces] = "0"
	}
	accepted := w.p.AllowMissing
	if w.h.EUID != 0 && !w.limitsAsked() && !slices.Contains(accepted, "cgroup") {
		// A user to whom no cgroup is delegated cannot have the limits that every sandbox has; run says so. Limits that
		// somebody asked for are another matter.
		accepted = append(slices.Clone(accepted), "cgroup")
	}
	if len(accepted) > 0 {
		a[annotation.AllowMissing] = strings.Join(accepted, ",")
	}
	a[annotation.Isolation] = w.p.Isolation
	if w.hostView() {
		text, err := json.Marshal(generatedFiles(w.p.Hostname))
		if err != nil {
			return err
		}
		a[annotation.Files] = string(text)
	}
	return nil
}

// limitsAsked tells whether the policy has a limit that only a cgroup can enforce beside those of its preset.
func (w *writer) limitsAsked() bool {
	if w.p.Limits == nil {
		return false
	}
	l := *w.p.Limits
	l.Ulimits, l.Timeout, l.Output = nil, "", ""
	preset, err := Preset(w.p.Preset)
	return err != nil || !reflect.DeepEqual(l, *preset.Limits)
}
