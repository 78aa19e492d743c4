package plan

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"brig/internal/annotation"
	"brig/internal/landlock"
	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func errorsAs[T error](err error, target *T) bool { return errors.As(err, target) }

// wantsLandlock tells whether the spec asks for a ruleset and the host can give one.
func (b *builder) wantsLandlock() (bool, error) {
	switch mode := b.spec.Annotations[annotation.Landlock]; mode {
	case "", "off":
		return false, nil
	case "on", "strict":
	default:
		return false, &UnsupportedError{annotation.Landlock, fmt.Sprintf("unknown value %q", mode)}
	}
	if b.facts.LandlockABI < 1 {
		return false, b.missing("landlock", "this kernel has no Landlock (5.13 and later can have it; lsm= must name it)")
	}
	return true, nil
}

// prepareLandlock makes the ruleset while the sandbox's root can still open everything.
func (b *builder) prepareLandlock(*specs.Process) error {
	wanted, err := b.wantsLandlock()
	if err != nil || !wanted {
		return err
	}
	set := &landlock.Ruleset{ABI: b.facts.LandlockABI}
	if set.Bind, err = ports(b.spec.Annotations, annotation.LandlockBind); err != nil {
		return err
	}
	if set.Connect, err = ports(b.spec.Annotations, annotation.LandlockConnect); err != nil {
		return err
	}
	if set.ABI < 4 && (!set.Bind.Any || !set.Connect.Any) && !b.ownNetwork() {
		if err := b.missing("landlock-tcp", fmt.Sprintf("limits on TCP ports need Landlock ABI 4 (Linux 6.7), the host has %d", set.ABI)); err != nil {
			return err
		}
	}
	// In the host's network nothing else stands before its abstract sockets (CVE-2020-15257).
	if set.ABI < 6 && !b.ownNetwork() {
		if err := b.missing("landlock-scope", fmt.Sprintf("in the host's network its abstract sockets need Landlock ABI 6 (Linux 6.12) to be shut, the host has %d", set.ABI)); err != nil {
			return err
		}
	}
	b.p.Step(launch.Landlock, "open the places that the ruleset names")
	for _, r := range b.landlockRules() {
		fd := b.landlockPlace(r.path)
		set.Paths = append(set.Paths, landlock.Path{FD: fd, Rights: r.rights})
	}
	b.ruleset = set.Create(b.p)
	b.plan.LandlockABI = set.ABI
	return nil
}

// ownNetwork tells whether the sandbox has a network namespace of its own.
func (b *builder) ownNetwork() bool {
	_, ok := Namespace(b.spec, specs.NetworkNamespace)
	return ok
}

// landlockRules are the grants: reading everywhere, writing where the mounts allow it; in strict mode only devices and
// terminals can be written.
func (b *builder) landlockRules() []rule {
	root := rule{path: "/", rights: landlock.Read}
	if b.spec.Root == nil || !b.spec.Root.Readonly {
		root.rights |= landlock.Write
	}
	strict := b.annotated(annotation.Landlock, "strict")
	if strict {
		root.rights = landlock.Read
	}
	rules := []rule{root}
	for _, r := range b.rules {
		if !strict || r.path == "/dev" || r.path == "/dev/pts" {
			rules = append(rules, r)
		}
	}
	return rules
}

func (b *builder) landlockPlace(name string) launch.Reg {
	rel := strings.TrimPrefix(path.Clean(name), "/")
	if rel == "" {
		rel = "."
	}
	return b.p.Openat2("place "+name, b.root, rel, unix.O_PATH, 0, launch.InRoot)
}

// enterLandlock comes after the change of user: it needs no privilege, only no_new_privs.
func (b *builder) enterLandlock(pr *specs.Process) error {
	if b.ruleset == 0 {
		return nil
	}
	if !pr.NoNewPrivileges {
		return &UnsupportedError{annotation.Landlock, "needs process.noNewPrivileges"}
	}
	var probe launch.Reg
	if b.dev != nil && pr.User.UID == 0 {
		probe = b.dev.reg
	}
	b.plan.LandlockProbed = probe != 0
	landlock.Restrict(b.p, b.ruleset, probe)
	return nil
}

// ports reads a list of TCP ports from an annotation.
func ports(annotations map[string]string, key string) (landlock.Ports, error) {
	text := annotations[key]
	if text == "*" {
		return landlock.Ports{Any: true}, nil
	}
	var p landlock.Ports
	if text == "" {
		return p, nil
	}
	for _, s := range strings.Split(text, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
		if err != nil {
			return p, &UnsupportedError{key, fmt.Sprintf("%q is no port; give numbers from 0 to 65535, or *", s)}
		}
		p.List = append(p.List, uint16(n))
	}
	return p, nil
}
