package plan

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"brig/internal/annotation"
	"brig/internal/landlock"
	"brig/internal/launch"
	"brig/internal/mounts"

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
	if err := b.scopes(set.ABI); err != nil {
		return err
	}
	if place := b.truncatable(); set.ABI < 3 && place != "" {
		if err := b.missing("landlock-truncate", fmt.Sprintf("strict allows no write, but to keep the files of %s from being cut short needs Landlock ABI 3 (Linux 6.2), the host has %d: make it read-only (rro)", place, set.ABI)); err != nil {
			return err
		}
	}
	b.p.Step(launch.Landlock, "open the places that the ruleset names")
	for _, r := range b.landlockRules() {
		fd := b.landlockPlace(r.path)
		set.Paths = append(set.Paths, landlock.Path{FD: fd, Rights: r.rights})
	}
	if b.plan.Exe != 0 {
		set.Paths = append(set.Paths, landlock.Path{FD: b.plan.Exe, Rights: landlock.Execute | landlock.ReadFile})
	}
	b.ruleset = set.Create(b.p)
	b.plan.LandlockABI = set.ABI
	return nil
}

// scopes shuts or refuses what a ruleset without scopes leaves open to a program in a namespace of the host's. In its network that is
// abstract sockets, and a filter can do no less than the scope: it takes all Unix sockets, for it does not see names. A signal
// has no such remedy.
func (b *builder) scopes(abi int) error {
	if abi >= 6 {
		return nil
	}
	if !b.ownNetwork() && !b.mayMiss("landlock-scope") {
		b.plan.NoUnixSockets = true
	} else if !b.ownNetwork() { // nothing else stands before its abstract sockets (CVE-2020-15257)
		return b.missing("landlock-scope", fmt.Sprintf("in the host's network its abstract sockets need Landlock ABI 6 (Linux 6.12) to be shut, the host has %d", abi))
	}
	if _, own := Namespace(b.spec, specs.PIDNamespace); !own {
		return b.missing("landlock-scope", fmt.Sprintf("among the host's processes it needs Landlock ABI 6 (Linux 6.12) to keep signals from them, the host has %d", abi))
	}
	return nil
}

// truncatable gives a place whose files strict mode must protect and only the right to truncate does, "" for none: open(2) with O_TRUNC
// and truncate(2) need no other. The files of devices, processes and groups have no length, and in a new tmpfs there are none.
func (b *builder) truncatable() string {
	if !b.annotated(annotation.Landlock, "strict") {
		return ""
	}
	if b.spec.Root == nil || !b.spec.Root.Readonly {
		return "/"
	}
	for i := range b.spec.Mounts {
		m := &b.spec.Mounts[i]
		name := path.Clean(m.Destination)
		o, err := mounts.Parse(m.Options)
		readOnly := o.ReadOnly() && (!o.Recursive || o.RecursiveSet&unix.MOUNT_ATTR_RDONLY != 0) // "ro" alone is not of the mounts below
		_, link := b.facts.Link(m.Source)
		if err != nil || readOnly || o.CopySymlink && link || name == "/dev" || name == "/dev/pts" {
			continue // an error is another step's to tell; a link is made anew in the root, as /bin of the host's where it is one
		}
		if o.Bind || o.TmpCopyUp || !slices.Contains([]string{"tmpfs", "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"}, m.Type) {
			return name
		}
	}
	return ""
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
