package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultDevices are those that every sandbox has (runtime-spec config-linux.md, "Default Devices").
var defaultDevices = []struct {
	name         string
	major, minor int64
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

// device is a node to be made.
type device struct {
	path string // inside
	reg  launch.Reg
	spec *specs.LinuxDevice
}

// wantedDevices are the default devices and the spec's own; the spec's win. A /dev of the host's has the default ones.
func (b *builder) wantedDevices() []device {
	var list []device
	defaults := defaultDevices
	if !b.freshDev() {
		defaults = nil
	}
	for _, d := range defaults {
		at := "/dev/" + d.name
		if !slices.ContainsFunc(b.linux.Devices, func(o specs.LinuxDevice) bool { return o.Path == at }) {
			list = append(list, device{path: at, spec: &specs.LinuxDevice{Path: at, Type: "c", Major: d.major, Minor: d.minor}})
		}
	}
	for i := range b.linux.Devices {
		if b.pts != 0 && path.Clean(b.linux.Devices[i].Path) == "/dev/ptmx" {
			continue // the link to the sandbox's own is there; the host's would reach every terminal of the host
		}
		list = append(list, device{path: b.linux.Devices[i].Path, spec: &b.linux.Devices[i]})
	}
	return list
}

// freshDev tells whether the spec mounts a tmpfs on /dev, and nothing over it. A /dev bound from the host has its own nodes.
func (b *builder) freshDev() (fresh bool) {
	for i := range b.spec.Mounts {
		if path.Clean(b.spec.Mounts[i].Destination) == "/dev" {
			fresh = b.spec.Mounts[i].Type == "tmpfs"
		}
	}
	return fresh
}

// prepareDevices takes the host's nodes as bind mounts: mknod is not allowed in a user namespace, and a bind cannot be
// another device than the host's.
func (b *builder) prepareDevices() error {
	if err := b.takeNull(); err != nil {
		return err
	}
	for _, d := range b.wantedDevices() {
		if err := checkInside(d.path, "linux.devices"); err != nil {
			return err
		}
		if b.mayMakeNodes() || d.path == "/dev/null" && b.freshDev() {
			continue
		}
		b.p.Step(launch.Devices, "take "+d.path)
		bind := Bind{Source: d.path, Device: d.spec}
		if b.facts.Host(d.path) == Missing {
			if !b.facts.Privileged {
				return &UnsupportedError{"linux.devices", fmt.Sprintf("%s does not exist on the host, and in a user namespace no device can be made", d.path)}
			}
			bind.MakeNode = true
		}
		d.reg = b.bind(d.path, bind)
		b.nodes = append(b.nodes, d)
	}
	return nil
}

// mayMakeNodes tells whether the child may make nodes: not in a user namespace.
func (b *builder) mayMakeNodes() bool { return !b.hasUserNS() && !b.facts.Nested }

// makesNodes tells whether the sandbox's devices are nodes of its own.
func (b *builder) makesNodes() bool { return b.freshDev() && b.mayMakeNodes() }

// takeNull takes the host's /dev/null where the sandbox gets none of its own. A root that is the host's root could change
// that node's mode and owner, for the host, too: by /dev/null itself or by any file that is masked with it. It gets a node
// of its own, or where even /dev is the host's, masks that are read-only.
func (b *builder) takeNull() error {
	for _, d := range b.linux.Devices {
		if path.Clean(d.Path) == "/dev/null" && (d.Type != "c" && d.Type != "u" || d.Major != 1 || d.Minor != 3) {
			return &UnsupportedError{"linux.devices", "/dev/null must be the device c 1:3: paths are masked with it"}
		}
	}
	if b.makesNodes() {
		return nil
	}
	b.p.Step(launch.Devices, "take /dev/null, the one that masks are made of")
	b.null = b.bind("null", Bind{Source: "/dev/null", Device: &specs.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}})
	if !b.hasUserNS() && !b.freshDev() {
		b.p.MountSetattr(b.null, "", 0, unix.MOUNT_ATTR_RDONLY, 0, 0)
	}
	return nil
}

// devices fills /dev, and makes the spec's devices where else they are to be.
func (b *builder) devices() error {
	if b.dev != nil {
		b.devLinks()
	}
	for _, d := range b.wantedDevices() {
		b.p.Step(launch.Devices, "device "+d.path)
		if err := b.node(d); err != nil {
			return err
		}
	}
	if !b.spec.Process.Terminal {
		return nil
	}
	b.p.Step(launch.Devices, "a place for the terminal, before /dev may become read-only")
	var err error
	b.console, err = b.target("/dev/console", File)
	return err
}

func (b *builder) devLinks() {
	b.p.Step(launch.Devices, "fill /dev")
	for _, l := range [][2]string{{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}} {
		b.p.Symlinkat(l[0], b.dev.reg, l[1])
	}
	if b.pts != 0 {
		b.p.Symlinkat("pts/ptmx", b.dev.reg, "ptmx")
	}
}

func (b *builder) node(d device) error {
	reg := b.deviceMount(d.path)
	if d.path == "/dev/null" && b.freshDev() && !b.makesNodes() {
		reg = b.null
	}
	if reg == 0 {
		return b.mknod(d)
	}
	at, err := b.target(d.path, File)
	if err != nil {
		return err
	}
	b.p.MoveMount(reg, at)
	return nil
}

func (b *builder) deviceMount(inside string) launch.Reg {
	for _, d := range b.nodes {
		if d.path == inside {
			return d.reg
		}
	}
	return 0
}

// mknod makes a node as the spec describes it, where the sandbox has no user namespace.
func (b *builder) mknod(d device) error {
	mode := uint32(0o666)
	var kind uint32
	switch d.spec.Type {
	case "c", "u":
		kind = unix.S_IFCHR
	case "b":
		kind = unix.S_IFBLK
	case "p":
		kind = unix.S_IFIFO
	default:
		return &UnsupportedError{"linux.devices", fmt.Sprintf("%s has the unknown type %q", d.path, d.spec.Type)}
	}
	// The kernel's dev_t has 12 and 20 bits (include/linux/kdev_t.h); more, and less than none, would become another device.
	if d.spec.Major < 0 || d.spec.Major >= 1<<12 || d.spec.Minor < 0 || d.spec.Minor >= 1<<20 {
		return &UnsupportedError{"linux.devices", fmt.Sprintf("%s: there is no device %d:%d", d.path, d.spec.Major, d.spec.Minor)}
	}
	if d.spec.FileMode != nil {
		mode = uint32(d.spec.FileMode.Perm())
	}
	m, rel := b.deepest(path.Dir(d.path))
	switch {
	case m.source != "":
		if b.facts.Host(path.Join(m.source, rel, path.Base(d.path))) == Missing {
			return &UnsupportedError{"linux.devices", fmt.Sprintf("%s would be made in %s of the host", d.path, m.source)}
		}
		return nil // a /dev of the host's has it
	case !m.fresh:
		return b.mknodInRoot(d, kind|mode)
	}
	name := strings.TrimPrefix(path.Join(rel, path.Base(d.path)), "/")
	folder := ""
	for part := range strings.SplitSeq(rel, "/") { // a privileged container of Docker's has /dev/cpu/0/cpuid
		if folder = path.Join(folder, part); folder != "" && m.made[folder] == Missing {
			b.p.Mkdirat(m.reg, folder, 0o755)
			m.made[folder] = Dir
		}
	}
	m.made[name] = File
	b.p.Mknodat(m.reg, name, kind|mode, unix.Mkdev(uint32(d.spec.Major), uint32(d.spec.Minor))) //nolint:gosec // device numbers
	fd := b.p.Openat2(d.path, m.reg, name, unix.O_PATH|unix.O_NOFOLLOW, 0, launch.NoLinks)
	if d.path == "/dev/null" {
		b.null = fd
	}
	b.own(fd, d.spec)
	return nil
}

// mknodInRoot makes a node in the root file system. One that is there, from an earlier start, is taken: whatever it is, what may be
// done with it the cgroup says.
func (b *builder) mknodInRoot(d device, mode uint32) error {
	dir, err := b.target(path.Dir(d.path), Dir)
	if err != nil {
		return err
	}
	base := path.Base(d.path)
	b.p.Mknodat(dir, base, mode, unix.Mkdev(uint32(d.spec.Major), uint32(d.spec.Minor))).Tolerate(unix.EEXIST) //nolint:gosec // device numbers
	if d.spec.UID != nil || d.spec.GID != nil {
		b.own(b.p.Openat2(d.path, dir, base, unix.O_PATH|unix.O_NOFOLLOW, 0, launch.NoLinks), d.spec)
	}
	return nil
}

// own gives a node to the owner that the spec names.
func (b *builder) own(fd launch.Reg, d *specs.LinuxDevice) {
	if d.UID != nil || d.GID != nil {
		var uid, gid uint32
		if d.UID != nil {
			uid = *d.UID
		}
		if d.GID != nil {
			gid = *d.GID
		}
		b.p.Fchown(fd, uid, gid)
	}
}
