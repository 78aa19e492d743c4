package native

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"brig/internal/host"
	"brig/internal/plan"

	"golang.org/x/sys/unix"
)

// overlay is a root with a place to write over it, in the making. The child has only its configuration, from which it makes the
// mount when everything is in it.
type overlay struct {
	plan                     *plan.Overlay
	context                  *os.File // as fsopen(2) gives it
	lower, room, upper, work *os.File
}

// openOverlay prepares what needs no id maps.
func (l *launching) openOverlay(p *plan.Overlay) error {
	if p == nil {
		return nil
	}
	o := &overlay{plan: p}
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("a place to write over the root file system: this kernel has no overlayfs (CONFIG_OVERLAY_FS, `modprobe overlay`): %w", err)
	}
	o.context = os.NewFile(uintptr(fd), "overlay")
	l.own(p.Reg, o.context)
	if o.lower, err = detach(&p.Lower); err != nil {
		return err
	}
	l.opened = append(l.opened, o.lower)
	room := ramRoom
	if p.Disk {
		room = diskRoom
	}
	if o.room, err = room(p); err != nil {
		return fmt.Errorf("a place to write over %s: %w", p.Lower.Source, err)
	}
	l.opened = append(l.opened, o.room)
	for _, dir := range []struct {
		name string
		file **os.File
	}{{"upper", &o.upper}, {"work", &o.work}} {
		if *dir.file, err = makeFolder(o.room, dir.name); err != nil {
			return fmt.Errorf("a place to write over %s: %w", p.Lower.Source, err)
		}
		l.opened = append(l.opened, *dir.file)
	}
	l.overlay = o
	return nil
}

// detach gives a copy of a mount that is nowhere yet and gets no mount events.
func detach(b *plan.Bind) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", b.Source, err)
	}
	f := os.NewFile(uintptr(fd), b.Source)
	private := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &private); err != nil {
		return nil, errors.Join(fmt.Errorf("bind %s: keep mount events apart: %w", b.Source, err), f.Close())
	}
	return f, nil
}

// ramRoom is a tmpfs. Its pages are charged to whoever writes them, the sandbox's group.
func ramRoom(p *plan.Overlay) (*os.File, error) {
	data := []string{"mode=700", fmt.Sprintf("size=%d", p.Size), fmt.Sprintf("nr_inodes=%d", p.Inodes)}
	fd, err := newTmpfs(&plan.CopyUp{Source: "brig", Attrs: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Data: data})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tmpfs"), nil
}

func makeFolder(in *os.File, name string) (*os.File, error) {
	if err := unix.Mkdirat(int(in.Fd()), name, 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	fd, err := unix.Openat(int(in.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// configure makes the file system. own is the sandbox's user namespace, nil where the owners of the root folder stay as they are.
func (o *overlay) configure(own *os.File) error {
	fail := func(err error) error { return fmt.Errorf("a place to write over %s: %w", o.plan.Lower.Source, err) }
	if own != nil {
		if err := idmapMount(o.lower, &o.plan.Lower, own); err != nil {
			return err
		}
	}
	if err := o.likeLower(); err != nil {
		return fail(err)
	}
	fs := int(o.context.Fd())
	// What the kernel's configuration would decide otherwise. A copy-up of attributes alone would leave a file's content below.
	options := [][2]string{{"source", "brig"}, {"redirect_dir", "on"}, {"metacopy", "off"}, {"index", "off"}}
	for _, kv := range options {
		if err := unix.FsconfigSetString(fs, kv[0], kv[1]); err != nil {
			return fail(fmt.Errorf("option %s=%s: %w", kv[0], kv[1], err))
		}
	}
	if err := setOptions(fs, o.plan.Data); err != nil {
		return fail(err)
	}
	if o.plan.Disk {
		// Nothing of it outlives the sandbox, so nothing has to reach the disk (overlayfs.rst, "Volatile mount").
		if err := unix.FsconfigSetFlag(fs, "volatile"); err != nil {
			return fail(fmt.Errorf("option volatile: %w", err))
		}
	}
	if err := o.create(fs); err != nil {
		if errors.Is(err, unix.EINVAL) && own != nil {
			err = fmt.Errorf("overlayfs takes a root with mapped owners since Linux 5.19: %w", err)
		}
		return fail(err)
	}
	return nil
}

// likeLower gives the folder above the owner, the mode and the attributes of the root below: it is the one that is seen.
func (o *overlay) likeLower() error {
	lower, err := unix.Openat(int(o.lower.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(lower) //nolint:errcheck // read only
	var st unix.Stat_t
	if err := unix.Fstat(lower, &st); err != nil {
		return err
	}
	upper := int(o.upper.Fd())
	if err := unix.Fchown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := copyAttributes(lower, upper); err != nil {
		return err
	}
	if err := unix.Fchmod(upper, st.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(upper, "", times(&st), unix.AT_EMPTY_PATH)
}

// create names the folders to overlayfs and makes it. They are in mounts that are nowhere; where the kernel takes only such as the
// caller can reach, it is done in a mount namespace for this alone, in which they are.
func (o *overlay) create(fs int) error {
	kernel, err := host.Kernel()
	if err != nil {
		return err
	}
	if kernel.AtLeast(detachedLayers.Major, detachedLayers.Minor) {
		return o.createDetached(fs)
	}
	return onThread(func() error { return o.createAttached(fs) })
}

// onThread calls do on a thread that ends with it, and with what it has done to itself.
func onThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never let go
		if unix.Gettid() != unix.Getpid() {
			done <- do()
			return
		}
		// The first thread stays to the end of the process, and is what /proc/self shows. Kept here, it is not the next one's.
		defer runtime.UnlockOSThread()
		done <- onThread(do)
	}()
	return <-done
}

// detachedLayers is the first kernel whose overlayfs takes layers by descriptors (6.13) that are on detached mounts (6.15).
var detachedLayers = host.Version{Major: 6, Minor: 15}

func (o *overlay) createDetached(fs int) error {
	for _, layer := range []struct {
		key  string
		file *os.File
	}{{"lowerdir+", o.lower}, {"upperdir", o.upper}, {"workdir", o.work}} {
		if err := unix.FsconfigSetFd(fs, layer.key, int(layer.file.Fd())); err != nil {
			return fmt.Errorf("option %s: %w", layer.key, err)
		}
	}
	return unix.FsconfigCreate(fs)
}

func (o *overlay) createAttached(fs int) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mount events apart: %w", err)
	}
	for _, f := range []*os.File{o.lower, o.room} {
		if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attach a layer: %w", err)
		}
	}
	// What the program can see of these options is numbers of files that it does not have.
	for _, layer := range []struct {
		key  string
		file *os.File
	}{{"lowerdir", o.lower}, {"upperdir", o.upper}, {"workdir", o.work}} {
		if err := unix.FsconfigSetString(fs, layer.key, "/proc/self/fd/"+strconv.Itoa(int(layer.file.Fd()))); err != nil {
			return fmt.Errorf("option %s: %w", layer.key, err)
		}
	}
	return unix.FsconfigCreate(fs)
}
