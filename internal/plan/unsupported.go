package plan

import (
	"fmt"
	"slices"
	"strings"

	"brig/internal/launch"
	"brig/internal/mounts"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// unsupported refuses what a spec asks for and nothing here does: a field passed over in silence would be a sandbox
// weaker, or other, than its bundle says. A test holds that every field of the spec is either honoured or in this list.
func (b *builder) unsupported(pr *specs.Process) error {
	s, l := b.spec, b.linux
	for _, f := range []struct {
		set    bool
		field  string
		reason string
	}{
		{s.Hooks != nil && hooks(s.Hooks) > 0 && !b.facts.Held && !b.facts.Hooks && !b.isExec(), "hooks", "are for engines; run them before and after"},
		{s.Solaris != nil, "solaris", otherSystem}, {s.Windows != nil, "windows", otherSystem}, {s.ZOS != nil, "zos", otherSystem},
		{s.FreeBSD != nil, "freebsd", otherSystem}, {s.VM != nil, "vm", "is for runtimes that are virtual machines"},
		{pr.CommandLine != "", "process.commandLine", otherSystem}, {pr.User.Username != "", "process.user.username", otherSystem},
		{l.IntelRdt != nil && !b.facts.Held && !b.isExec(), "linux.intelRdt", "is for engines: a sandbox of a person's has no class of service"},
	} {
		if f.set {
			return &UnsupportedError{f.field, f.reason}
		}
	}
	return b.cutShort()
}

// cutShort refuses texts with a NUL byte: the kernel would see what is before it. Others are refused where they are used.
func (b *builder) cutShort() error {
	texts := [][2]string{{"hostname", b.spec.Hostname}, {"domainname", b.spec.Domainname}}
	if b.spec.Root != nil {
		texts = append(texts, [2]string{"root.path", b.spec.Root.Path})
	}
	for _, m := range b.spec.Mounts {
		texts = append(texts, [2]string{"mounts.type", m.Type}, [2]string{"mounts.source", m.Source})
	}
	for _, t := range texts {
		if strings.IndexByte(t[1], 0) >= 0 {
			return &UnsupportedError{t[0], fmt.Sprintf("%q has a NUL byte", t[1])}
		}
	}
	return nil
}

const otherSystem = "is for another operating system"

func hooks(h *specs.Hooks) int {
	//nolint:staticcheck // Prestart is old, and bundles still have it
	return len(h.Prestart) + len(h.CreateRuntime) + len(h.CreateContainer) + len(h.StartContainer) + len(h.Poststart) + len(h.Poststop)
}

// unsupportedMount is the same for one mount.
func unsupportedMount(m *specs.Mount, o *mounts.Options) error {
	bind := o.Bind || m.Type == "bind"
	var reason string
	switch {
	case o.TmpCopyUp && m.Type != "tmpfs":
		reason = "tmpcopyup is for a tmpfs"
	case bind && slices.ContainsFunc(o.Data, unknownWord):
		reason = fmt.Sprintf("unknown option %q of a bind mount", o.Data[slices.IndexFunc(o.Data, unknownWord)])
	case !bind && (o.IDMap || len(m.UIDMappings)+len(m.GIDMappings) > 0):
		reason = "only bind mounts can be idmapped"
	case len(m.UIDMappings) == 0 && len(m.GIDMappings) > 0, len(m.UIDMappings) > 0 && len(m.GIDMappings) == 0:
		reason = "uidMappings and gidMappings belong together"
	default:
		return nil
	}
	return &UnsupportedError{"mounts " + m.Destination, reason}
}

// unknownWord tells a word that nobody knows from data for a file system: a bind mount makes no file system, so mount(2)
// takes "mode=755" there and passes it over, and engines and bundles count on that. A lone word may be a slip of the pen.
func unknownWord(option string) bool { return !strings.Contains(option, "=") }

// Execution domains of linux/personality.h.
const (
	perLinux   = 0x0000
	perLinux32 = 0x0008
)

// personality sets the execution domain, before the filter takes the call away.
func (b *builder) personality(*specs.Process) error {
	p := b.linux.Personality
	if p == nil {
		return nil
	}
	if len(p.Flags) > 0 {
		return &UnsupportedError{"linux.personality.flags", fmt.Sprintf("unknown flag %q: runtime-spec has none", p.Flags[0])}
	}
	var domain uint64
	switch p.Domain {
	case specs.PerLinux:
		domain = perLinux
	case specs.PerLinux32:
		domain = perLinux32
	default:
		return &UnsupportedError{"linux.personality", fmt.Sprintf("unknown domain %q", p.Domain)}
	}
	b.p.Step(launch.Exec, fmt.Sprintf("set the execution domain %s", p.Domain))
	b.p.Personality(domain)
	return nil
}
