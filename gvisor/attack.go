//go:build attack

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"
)

// With the build tag "attack" this program's kernel is a guest that got hold of it, and asks the file server, which is the true one and
// confined as ever, by raw messages of LISAFS for what no guest may have. test/attack starts it, and prepares /read-only, /volume and
// /other: volumes of the host's, of which the first is read-only.

func init() { commands["sentry"] = raid }

// raid does as a kernel does until the program is to be started, and prints for each attack a line.
func raid() error {
	j, f, err := receive()
	if err != nil {
		return err
	}
	for method := ""; method != "containerManager.StartRoot"; {
		if method, err = consent(f.control); err != nil {
			return err
		}
	}
	out := os.NewFile(uintptr(f.streams[1]), "stdout")
	trees := map[string]*tree{}
	sockets := append([]int{f.root}, f.more[j.PassFDs:]...)
	names := []string{"/"}
	for _, m := range j.Spec.Mounts {
		if m.Type == "bind" {
			names = append(names, m.Destination)
		}
	}
	for n, fd := range sockets {
		if trees[names[n]], err = mount(fd); err != nil {
			return fmt.Errorf("the file server's %s: %w", names[n], err)
		}
	}
	var end job.End
	for _, a := range raids {
		if j.Spec.Process.Args[1] == a.name {
			if got := a.try(trees); got == "" {
				fmt.Fprintln(out, "HELD all of it")
			} else {
				fmt.Fprintln(out, "ESCAPED", got)
				end.Status = 42 << 8
			}
		}
	}
	tell(os.NewFile(uintptr(f.status), "status"), end)
	return nil
}

// consent says yes to one call.
func consent(control int) (string, error) {
	fd, _, err := unix.Accept4(control, unix.SOCK_CLOEXEC)
	if err != nil {
		return "", err
	}
	c := os.NewFile(uintptr(fd), "control")
	defer c.Close() //nolint:errcheck // said
	var asked struct{ Method string }
	if err := json.NewDecoder(c).Decode(&asked); err != nil {
		return "", err
	}
	_, err = io.WriteString(c, `{"success":true}`)
	return asked.Method, err
}

// tree is one connection, and its root.
type tree struct {
	client *lisafs.Client
	root   lisafs.ClientFD
}

var ctx = context.Background()

func mount(fd int) (*tree, error) {
	socket, err := unet.NewSocket(fd)
	if err != nil {
		return nil, err
	}
	client, root, _, err := lisafs.NewClient(socket)
	if err != nil {
		return nil, err
	}
	return &tree{client, client.NewFD(root.ControlFD)}, nil
}

// walk gives what is at the end of names.
func (t *tree) walk(names ...string) (lisafs.ClientFD, error) {
	at := t.root
	for _, name := range names {
		status, inodes, err := at.WalkMultiple(ctx, []string{name})
		if err != nil {
			return at, err
		}
		if status != lisafs.WalkSuccess && len(inodes) == 0 {
			return at, unix.ENOENT
		}
		at = t.client.NewFD(inodes[len(inodes)-1].ControlFD)
	}
	return at, nil
}

// raids give what has worked that may not, or nothing.
var raids = []struct {
	name string
	try  func(trees map[string]*tree) string
}{
	{"read-only", raidReadOnly}, {"names", raidNames}, {"links", raidLinks}, {"nodes", raidNodes}, {"modes", raidModes}, {"owners", raidOwners},
	{"sockets", raidSockets}, {"numbers", raidNumbers}, {"race", raidRace}, {"procfs", raidProcfs}, {"messages", raidMessages},
	{"control", raidControl}, {"others", raidOthers},
}

// all joins what has worked.
type all []string

func (a *all) add(what string, err error) {
	if err == nil {
		*a = append(*a, what)
	}
}

func (a all) String() string { return strings.Join(a, ", ") }

const root = 0

// raidReadOnly writes where the mount says that nothing is written, by its own connection and by way of the root's.
func raidReadOnly(trees map[string]*tree) string {
	var worked all
	for _, way := range []struct {
		tree  string
		names []string
	}{{"/read-only", nil}, {"/", []string{"read-only"}}} {
		dir, err := trees[way.tree].walk(way.names...)
		if err != nil {
			continue // not to be found from there
		}
		file, err := trees[way.tree].walk(append(slices.Clone(way.names), "file")...)
		if err != nil {
			return "no file: " + err.Error()
		}
		_, _, _, err = dir.OpenCreateAt(ctx, "new", unix.O_RDWR, 0o644, root, root)
		worked.add("create", err)
		_, err = dir.MkdirAt(ctx, "new-dir", 0o755, root, root)
		worked.add("mkdir", err)
		_, err = dir.SymlinkAt(ctx, "new-link", "file", root, root)
		worked.add("symlink", err)
		_, err = dir.LinkAt(ctx, file.ID(), "new-name")
		worked.add("link", err)
		worked.add("unlink", dir.UnlinkAt(ctx, "file", 0))
		worked.add("rename", dir.RenameAt(ctx, "file", dir.ID(), "renamed", 0))
		for _, flags := range []uint32{unix.O_RDWR, unix.O_WRONLY, unix.O_RDONLY | unix.O_TRUNC} {
			open, fd, err := file.OpenAt(ctx, flags)
			if err == nil {
				f := file.Client().NewFD(open)
				_, err = f.Write(ctx, []byte("written"), 0)
				worked.add("write", err)
				worked.add("allocate", f.Allocate(ctx, 0, 0, 4096))
			}
			if fd >= 0 {
				_, err = unix.Pwrite(fd, []byte("written"), 0)
				worked.add("write to what was given", err)
			}
		}
		for what, stat := range map[string]linux.Statx{
			"chmod": {Mask: unix.STATX_MODE, Mode: 0o777}, "truncate": {Mask: unix.STATX_SIZE}, "chown": {Mask: unix.STATX_UID, UID: 1},
			"utimes": {Mask: unix.STATX_MTIME},
		} {
			failed, _, err := file.SetStat(ctx, &stat)
			if err == nil && failed&stat.Mask == 0 {
				worked.add(what, nil)
			}
		}
		worked.add("setxattr", file.SetXattr(ctx, "user.raid", "x", 0))
	}
	return worked.String()
}

// evil are names that are none.
var evil = []string{"..", ".", "", "../..", "/", "/etc", "file/../..", "./", "\x00", "..\x00x", strings.Repeat("../", 40) + "etc", strings.Repeat("n", 300)}

// raidNames goes up, in each message that has a name.
func raidNames(trees map[string]*tree) string {
	var worked all
	t := trees["/volume"]
	for _, name := range evil {
		what := fmt.Sprintf("%.20q", name)
		status, inodes, err := t.root.WalkMultiple(ctx, []string{name})
		if err == nil && (status == lisafs.WalkSuccess || len(inodes) > 0) {
			worked.add("walk "+what, nil)
		}
		status, inodes, err = t.root.WalkMultiple(ctx, []string{"folder", name, name})
		if err == nil && len(inodes) > 1 {
			worked.add(fmt.Sprintf("walk folder and %s: %v", what, status), nil)
		}
		if stats, err := t.root.WalkStat(ctx, []string{name, name}); err == nil && len(stats) > 0 && name != "" {
			worked.add("stat "+what, nil)
		}
		if stats, err := t.root.WalkStat(ctx, []string{"", name}); err == nil && len(stats) > 1 {
			worked.add("stat the root and "+what, nil)
		}
		_, _, _, err = t.root.OpenCreateAt(ctx, name, unix.O_RDWR, 0o644, root, root)
		worked.add("create "+what, err)
		_, err = t.root.MkdirAt(ctx, name, 0o755, root, root)
		worked.add("mkdir "+what, err)
		_, err = t.root.SymlinkAt(ctx, name, "x", root, root)
		worked.add("symlink "+what, err)
		_, err = t.root.MknodAt(ctx, name, linux.S_IFREG|0o644, root, root, 0, 0)
		worked.add("mknod "+what, err)
		worked.add("unlink "+what, t.root.UnlinkAt(ctx, name, 0))
		worked.add("rmdir "+what, t.root.UnlinkAt(ctx, name, unix.AT_REMOVEDIR))
		worked.add("rename to "+what, t.root.RenameAt(ctx, "file", t.root.ID(), name, 0))
		worked.add("rename from "+what, t.root.RenameAt(ctx, name, t.root.ID(), "stolen", 0))
		if file, err := t.walk("file"); err == nil {
			_, err = t.root.LinkAt(ctx, file.ID(), name)
			worked.add("link "+what, err)
		}
	}
	return worked.String()
}

// raidLinks follows the links out of the volume that its owner, or the guest, has put there.
func raidLinks(trees map[string]*tree) string {
	var worked all
	t := trees["/volume"]
	for _, name := range []string{"to-canary", "to-root", "to-parent", "to-proc"} {
		link, err := t.walk(name)
		if err != nil {
			return name + " is not there: " + err.Error()
		}
		for _, below := range []string{"canary", "etc", "self", "passwd"} {
			if status, inodes, err := t.root.WalkMultiple(ctx, []string{name, below}); err == nil && len(inodes) > 1 {
				worked.add(fmt.Sprintf("walk through %s to %s: %v", name, below, status), nil)
			}
			if _, inodes, err := link.WalkMultiple(ctx, []string{below}); err == nil && len(inodes) > 0 {
				worked.add("walk from "+name+" to "+below, nil)
			}
			_, _, _, err = link.OpenCreateAt(ctx, "raid-"+below, unix.O_RDWR, 0o644, root, root)
			worked.add("create in "+name, err)
		}
		for _, flags := range []uint32{unix.O_RDONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_DIRECTORY} {
			_, _, err = link.OpenAt(ctx, flags)
			worked.add("open "+name, err)
		}
		if failed, _, err := link.SetStat(ctx, &linux.Statx{Mask: unix.STATX_MODE, Mode: 0o777}); err == nil && failed == 0 {
			worked.add("chmod "+name, nil)
		}
		worked.add("setxattr "+name, link.SetXattr(ctx, "user.raid", "x", 0))
		_, err = link.GetXattr(ctx, "user.raid", 100)
		worked.add("getxattr "+name, err)
	}
	return worked.String()
}

// raidNodes makes devices.
func raidNodes(trees map[string]*tree) string {
	var worked all
	for _, place := range []string{"/volume", "/"} {
		for what, kind := range map[string]linux.FileMode{"character device": linux.S_IFCHR, "block device": linux.S_IFBLK} {
			_, err := trees[place].root.MknodAt(ctx, "raid-node", kind|0o666, root, root, 5, 1)
			worked.add(what, err)
		}
	}
	return worked.String()
}

// raidModes makes files that give who executes them other ids. In a volume they are the volume's owner's.
func raidModes(trees map[string]*tree) string {
	var worked all
	t := trees["/volume"]
	for _, bits := range []uint32{unix.S_ISUID, unix.S_ISGID} {
		mode := linux.FileMode(bits | 0o755)
		name := func(s string) string { return fmt.Sprintf("raid-%s-%o", s, bits) }
		_, _, _, err := t.root.OpenCreateAt(ctx, name("created"), unix.O_RDWR, mode, root, root)
		worked.add("create "+mode.String(), err)
		_, err = t.root.MknodAt(ctx, name("made"), linux.S_IFREG|mode, root, root, 0, 0)
		worked.add("mknod "+mode.String(), err)
		if file, _, _, err := t.root.OpenCreateAt(ctx, name("plain"), unix.O_RDWR, 0o755, root, root); err == nil {
			fd := t.client.NewFD(file.ControlFD)
			if failed, _, err := fd.SetStat(ctx, &linux.Statx{Mask: unix.STATX_MODE, Mode: uint16(mode)}); err == nil && failed == 0 {
				worked.add("chmod "+mode.String(), nil)
			}
			worked.add("a capability", fd.SetXattr(ctx, "security.capability", "\x01\x00\x00\x02\x00\x00\x20\x00\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00", 0))
		} else {
			return "no plain file: " + err.Error()
		}
	}
	return worked.String()
}

// raidOwners gives files to users that the sandbox does not have.
func raidOwners(trees map[string]*tree) string {
	var worked all
	t := trees["/volume"]
	for _, id := range []uint32{65536, 100_000, 1 << 31, 1<<32 - 2} {
		_, _, _, err := t.root.OpenCreateAt(ctx, fmt.Sprintf("raid-of-%d", id), unix.O_RDWR, 0o644, lisafs.UID(id), lisafs.GID(id))
		worked.add(fmt.Sprintf("a file of user %d", id), err)
	}
	return worked.String()
}

// raidSockets talks with whoever listens in a volume, listens there, and opens a pipe of the host's.
func raidSockets(trees map[string]*tree) string {
	var worked all
	t := trees["/volume"]
	socket, err := t.walk("socket")
	if err != nil {
		return "no socket: " + err.Error()
	}
	for _, kind := range []linux.SockType{linux.SOCK_STREAM, linux.SOCK_DGRAM, linux.SOCK_SEQPACKET, 0} {
		_, err = socket.Connect(ctx, kind, lisafs.NoUID, lisafs.NoGID)
		worked.add("connect", err)
		_, err = socket.Connect(ctx, kind, root, root)
		worked.add("connect as root", err)
		_, _, err = t.root.BindAt(ctx, kind, fmt.Sprintf("raid-socket-%d", kind), 0o777, root, root)
		worked.add("bind", err)
	}
	pipe, err := t.walk("pipe")
	if err != nil {
		return worked.String() // not to be had at all
	}
	for _, flags := range []uint32{unix.O_RDONLY | unix.O_NONBLOCK, unix.O_RDWR | unix.O_NONBLOCK} {
		_, fd, err := pipe.OpenAt(ctx, flags)
		worked.add(fmt.Sprintf("open a pipe (%d)", fd), err)
	}
	return worked.String()
}

// raidNumbers uses descriptors of one connection in another.
func raidNumbers(trees map[string]*tree) string {
	var worked all
	a, b := trees["/volume"], trees["/other"]
	made, err := a.root.MkdirAt(ctx, "raid-number", 0o755, root, root)
	if err != nil {
		return "no folder: " + err.Error()
	}
	// b has fewer, so that those of a are nothing there.
	var last lisafs.FDID
	for range 50 {
		if in, err := a.walk("raid-number"); err == nil {
			last = in.ID()
		}
	}
	for _, id := range []lisafs.FDID{made.ControlFD, last, 0, 1 << 40, 1<<64 - 1} {
		fd := b.client.NewFD(id)
		var st lisafs.Statx
		if id != b.root.ID() {
			worked.add(fmt.Sprintf("stat number %d", id), fd.StatTo(ctx, &st))
		}
		worked.add("rename to another tree", b.root.RenameAt(ctx, "file", id, "file", 0))
		_, err := b.root.LinkAt(ctx, id, "raid-link")
		worked.add("link from another tree", err)
	}
	// Within the connection of the root, which has the volumes' mounts below it.
	if from, err := trees["/"].walk("read-only", "file"); err == nil {
		if to, err := trees["/"].walk("volume"); err == nil {
			_, err = to.LinkAt(ctx, from.ID(), "raid-link")
			worked.add("link between volumes", err)
			worked.add("rename between volumes", to.RenameAt(ctx, "file", from.ID(), "file", 0))
		}
	}
	return worked.String()
}

// raidRace looks for the canary behind a folder that is exchanged with a link all the time by the host, and writes there.
func raidRace(trees map[string]*tree) string {
	var worked all
	t := trees["/volume"]
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until) && len(worked) == 0; {
		if dir, err := t.walk("swapped"); err == nil {
			if _, inodes, err := dir.WalkMultiple(ctx, []string{"canary"}); err == nil && len(inodes) > 0 {
				worked.add("walk to the canary", nil)
			}
			if file, _, _, err := dir.OpenCreateAt(ctx, "raid-race", unix.O_RDWR, 0o644, root, root); err == nil {
				fd := t.client.NewFD(file.ControlFD)
				_, _ = dir.LinkAt(ctx, fd.ID(), "raid-race-link")
				_ = dir.RenameAt(ctx, "raid-race-link", dir.ID(), "raid-race-renamed", 0)
				_, _, _ = fd.SetStat(ctx, &linux.Statx{Mask: unix.STATX_MTIME | unix.STATX_MODE, Mode: 0o600})
				fd.Close(ctx, false)
			}
			for _, name := range []string{"raid-race", "raid-race-link", "raid-race-renamed"} {
				_ = dir.UnlinkAt(ctx, name, 0)
			}
			dir.Close(ctx, false)
		}
		if _, inodes, err := t.root.WalkMultiple(ctx, []string{"swapped", "canary"}); err == nil && len(inodes) > 1 {
			worked.add("walk to the canary at once", nil)
		}
	}
	return worked.String()
}

// raidProcfs looks for the host's, or the sandbox's, file systems of the kernel in what is served.
func raidProcfs(trees map[string]*tree) string {
	var worked all
	for _, names := range [][]string{{"proc", "self"}, {"proc", "1"}, {"proc", "sys", "kernel"}, {"sys", "kernel"}, {"sys", "fs", "cgroup", "cgroup.procs"}, {"dev", "mqueue", "x"}} {
		if at, err := trees["/"].walk(names[:len(names)-1]...); err == nil {
			if _, inodes, err := at.WalkMultiple(ctx, names[len(names)-1:]); err == nil && len(inodes) > 0 {
				worked.add("/"+strings.Join(names, "/"), nil)
			}
		}
	}
	return worked.String()
}

// raidMessages says what no client says. What of it ends the file server, ends the sandbox.
func raidMessages(trees map[string]*tree) string {
	t := trees["/other"]
	for mid := range lisafs.MID(64) {
		for _, size := range []uint32{0, 1, 8, 64, 4096, 1 << 19} {
			junk := func(b []byte) []byte {
				for i := range b {
					b[i] = 0xff
				}
				return b[len(b):]
			}
			if mid == lisafs.Channel && size > 0 {
				continue
			}
			_ = t.client.SndRcvMessage(mid, size, junk, func([]byte) ([]byte, bool) { return nil, true }, nil, func() string { return "" }, func() string { return "" })
		}
	}
	if _, err := trees["/volume"].walk("file"); err != nil {
		return "the file server serves nothing any more: " + err.Error()
	}
	return ""
}

// raidControl does what may be done, as the others do what may not.
func raidControl(trees map[string]*tree) string {
	var worked all
	t := trees["/volume"]
	file, _, _, err := t.root.OpenCreateAt(ctx, "raid-control", unix.O_RDWR, 0o644, root, root)
	worked.add("create", err)
	if err == nil {
		_, err = t.root.LinkAt(ctx, file.ControlFD, "raid-control-link")
		worked.add("link", err)
		fd := t.client.NewFD(file.ControlFD)
		failed, _, err := fd.SetStat(ctx, &linux.Statx{Mask: unix.STATX_MODE, Mode: 0o600})
		if err == nil && failed == 0 {
			worked.add("chmod", nil)
		}
		worked.add("rename", t.root.RenameAt(ctx, "raid-control", t.root.ID(), "raid-control-2", 0))
	}
	_, err = trees["/read-only"].walk("file")
	worked.add("read-only", err)
	for until, was := time.Now().Add(10*time.Second), [2]bool{}; time.Now().Before(until) && was != [2]bool{true, true}; {
		if _, inodes, err := t.root.WalkMultiple(ctx, []string{"swapped"}); err == nil && len(inodes) > 0 {
			link := inodes[0].Stat.Mode&unix.S_IFMT == unix.S_IFLNK
			if was[0] = was[0] || link; !link {
				was[1] = true
			}
			if was == [2]bool{true, true} {
				worked.add("race", nil)
			}
		}
	}
	return worked.String()
}

// raidOthers reads, and makes, what is another user's of the host in a volume of root's: the file server may, with its capabilities.
func raidOthers(trees map[string]*tree) string {
	var worked all
	t := trees["/volume"]
	if file, err := t.walk("private"); err == nil {
		_, _, err = file.OpenAt(ctx, unix.O_RDONLY)
		worked.add("read", err)
	}
	_, _, _, err := t.root.OpenCreateAt(ctx, "raid-of-another", unix.O_RDWR, 0o644, 1000, 1000)
	worked.add("create", err)
	return worked.String()
}
