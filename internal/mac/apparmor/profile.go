package apparmor

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"brig/internal/mounts"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options are what a profile is made from beside the spec.
type Options struct {
	// Peer is the profile that brig itself runs under; "" or "unconfined" for none. It may signal and trace the sandbox.
	Peer string
	// Files are open files of the host's that the program gets. They are looked up by the path they have outside.
	Files []string
	// Resolve says where in the root a path leads whose folders may be links there; nil for itself.
	Resolve func(string) string
	// Mqueue says that the kernel knows POSIX message queues, which a parser that does, too (apparmor 3.1), denies unless a rule
	// allows them.
	Mqueue bool
}

// Profile writes the profile of a spec under a name, in the language of apparmor.d(5). What no rule allows is denied: mount,
// umount, pivot_root, change_profile, raw and packet sockets, capabilities that the spec does not give, signals and ptrace to
// and from any other profile.
func Profile(name string, spec *specs.Spec, o Options) (string, error) {
	body, err := rules(spec, o)
	if err != nil {
		return "", err
	}
	return wrap(name, body), nil
}

// wrap gives rules a name. attach_disconnected is for files that were opened outside and are handed in; mediate_deleted for
// those whose name is gone, which are otherwise refused.
func wrap(name, body string) string {
	return "profile " + quote(name) + " flags=(attach_disconnected,mediate_deleted) {\n" + body + "}\n"
}

type writer struct {
	strings.Builder
	resolve func(string) string
}

// clean is the path that the kernel will know a path of the spec by.
func (w *writer) clean(name string) string {
	name = path.Clean("/" + name)
	if w.resolve != nil && name != "/" {
		name = path.Clean("/" + w.resolve(name))
	}
	return name
}

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, "  "+format+",\n", args...) }
func (w *writer) title(text string)               { fmt.Fprintf(w, "  # %s\n", text) }

func rules(spec *specs.Spec, o Options) (string, error) {
	w := &writer{resolve: o.Resolve}
	if err := w.files(spec); err != nil {
		return "", err
	}
	w.kernel(spec)
	w.devices(spec)
	w.passed(o.Files)
	w.capabilities(spec)
	w.network(spec)
	w.peers(o.Peer)
	if o.Mqueue {
		w.line("mqueue type=posix")
	}
	return w.String(), nil
}

// place is a mount and what its options leave of the rights to its files.
type place struct {
	path        string
	write, exec bool
}

// files allows what the mounts do. An option that takes a right away becomes a denial, and that holds over every other rule;
// so it is left out where a mount below gives the right back, and there the mount's flag stands alone.
func (w *writer) files(spec *specs.Spec) error {
	places, err := w.placesOf(spec)
	if err != nil {
		return err
	}
	root := places[0]
	w.title("files, as the mounts have them")
	w.line("/{,**} %s", rights(root))
	for i, p := range places[1:] {
		above := parent(places[:i+1], p.path)
		below := func(has func(place) bool) bool {
			return slices.ContainsFunc(places, func(b place) bool { return strings.HasPrefix(b.path, p.path+"/") && has(b) })
		}
		if p.write && !above.write || p.exec && !above.exec {
			w.line("%s %s", beneath(p.path), rights(p))
		}
		if above.write && !p.write && p.path != "/proc" && !below(func(b place) bool { return b.write }) {
			w.line("deny %s wl", beneath(p.path))
		}
		if above.exec && !p.exec && !below(func(b place) bool { return b.exec }) {
			w.line("deny %s mx", beneath(p.path))
		}
	}
	return nil
}

func rights(p place) string {
	r := "rk"
	if p.write {
		r = "rwlk"
	}
	if p.exec {
		r += "mix"
	}
	return r
}

// placesOf gives root and mounts, each after what it lies in.
func (w *writer) placesOf(spec *specs.Spec) ([]place, error) {
	list := []place{{"", spec.Root == nil || !spec.Root.Readonly, true}}
	for _, m := range spec.Mounts {
		o, err := mounts.Parse(m.Options)
		if err != nil {
			return nil, fmt.Errorf("AppArmor rule for the mount on %s: %w", m.Destination, err)
		}
		if o.CopySymlink {
			continue // what it leads to counts
		}
		p := place{w.clean(m.Destination), !o.ReadOnly(), (o.Set|o.RecursiveSet)&unix.MOUNT_ATTR_NOEXEC == 0}
		if m.Type == "proc" || m.Type == "sysfs" {
			p.write, p.exec = false, false // the kernel's files have rules of their own
		}
		if p.path == "/" {
			list[0] = place{"", p.write, p.exec}
			continue
		}
		list = slices.DeleteFunc(list, func(q place) bool { return q.path == p.path })
		list = append(list, p)
	}
	for _, must := range []string{"/proc", "/sys"} { // whatever a root without these mounts has there
		if !slices.ContainsFunc(list, func(q place) bool { return q.path == must }) {
			list = append(list, place{path: must})
		}
	}
	slices.SortStableFunc(list, func(a, b place) int { return cmp.Compare(a.path, b.path) })
	return list, nil
}

func parent(above []place, name string) place {
	for i := len(above) - 1; i > 0; i-- {
		if strings.HasPrefix(name, above[i].path+"/") {
			return above[i]
		}
	}
	return above[0]
}

// beneath is a path and everything below it.
func beneath(name string) string { return `"` + escape(name) + `{,/**}"` }

// own are files of /proc/PID that a program writes about itself and that give it nothing: names of threads, priorities for the
// OOM killer, dumps.
const own = "{comm,oom_score_adj,oom_adj,coredump_filter,timerslack_ns,clear_refs,autogroup,sched}"

// kernel is for /proc and /sys: besides the program's own files none is written, and the worst are not even read.
func (w *writer) kernel(spec *specs.Spec) {
	w.title("the kernel's files")
	w.line(`"/proc/[0-9]*/{,task/[0-9]*/}%s" rw`, own)
	w.line(`deny "/proc/[^0-9]{,*,*/**}" wl`)
	w.line(`deny "/proc/[0-9]*/{,task/[0-9]*/}{attr/**,mem,uid_map,gid_map,projid_map,setgroups}" wl`)
	w.line(`deny "/proc/{kcore,kmem,mem,sysrq-trigger}" rwlkmx`)
	w.line(`deny "/sys/{kernel/security,firmware,kernel/debug,kernel/tracing}/**" rwlkmx`)
	if spec.Linux == nil {
		return
	}
	for _, p := range spec.Linux.MaskedPaths {
		w.line("deny %s wlmx", beneath(path.Clean("/"+p)))
	}
	for _, p := range spec.Linux.ReadonlyPaths {
		w.line("deny %s wl", beneath(path.Clean("/"+p)))
	}
}

func (w *writer) devices(spec *specs.Spec) {
	w.title("devices")
	w.line("/dev/{null,zero,full,random,urandom,tty,ptmx,console} rwk")
	w.line("/dev/pts/* rwk")
	if spec.Linux == nil {
		return
	}
	for _, d := range spec.Linux.Devices {
		w.line("%s rwk", quote(w.clean(d.Path)))
	}
}

func (w *writer) passed(files []string) {
	for i, f := range files {
		if i == 0 {
			w.title("open files that are handed in")
		}
		w.line("%s rwk", quote(f))
	}
}

func (w *writer) capabilities(spec *specs.Spec) {
	if spec.Process == nil || spec.Process.Capabilities == nil {
		return
	}
	c := spec.Process.Capabilities
	all := slices.Concat(c.Bounding, c.Permitted, c.Effective, c.Inheritable, c.Ambient)
	slices.Sort(all)
	for i, name := range slices.Compact(all) {
		if i == 0 {
			w.title("capabilities, as granted")
		}
		if word := strings.ToLower(strings.TrimPrefix(name, "CAP_")); !strings.ContainsFunc(word, notWord) {
			w.line("capability %s", word)
		}
	}
}

func notWord(r rune) bool { return !(r >= 'a' && r <= 'z' || r == '_') }

// network has no raw and no packet sockets but with CAP_NET_RAW, which they need anyway, and no families beside these.
func (w *writer) network(spec *specs.Spec) {
	w.title("sockets")
	w.line("network unix")
	w.line("unix")
	w.line("network netlink raw")
	w.line("network netlink dgram")
	for _, family := range []string{"inet", "inet6"} {
		w.line("network %s stream", family)
		w.line("network %s dgram", family)
	}
	if c := spec.Process; c != nil && c.Capabilities != nil && slices.Contains(c.Capabilities.Bounding, "CAP_NET_RAW") {
		w.line("network inet raw")
		w.line("network inet6 raw")
		w.line("network packet")
	}
}

func (w *writer) peers(peer string) {
	w.title("other processes")
	w.line("signal peer=@{profile_name}")
	w.line("ptrace peer=@{profile_name}")
	w.line("signal (receive) peer=unconfined")
	if peer != "" && peer != "unconfined" {
		w.line("signal (receive) peer=%s", quote(peer))
		w.line("ptrace (readby, tracedby) peer=%s", quote(peer))
	}
}

func quote(text string) string { return `"` + escape(text) + `"` }

// escape writes a text so that the parser takes every byte for itself. All but letters, digits and what is plain in a path
// goes as octal digits, which the parser (its processquoted) reads back as the byte, escaped where the byte is a wildcard: so
// nothing can close the quotes, begin a variable or be a pattern.
func escape(text string) string {
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("/_.-", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\%03o`, c)
		}
	}
	return b.String()
}
