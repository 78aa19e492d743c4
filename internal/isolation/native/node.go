package native

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// makeNode makes a device in a tmpfs of its own that is mounted nowhere, and gives a detached mount of it: in a user namespace
// neither can mknod(2) be used nor a node of a file system that was made there.
func (l *launching) makeNode(d *specs.LinuxDevice) (*os.File, error) {
	kind, ok := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
	if !ok {
		return nil, fmt.Errorf("unknown type %q", d.Type)
	}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	uid, err := hostID(d.UID, l.options.Maps.UID)
	if err != nil {
		return nil, err
	}
	gid, err := hostID(d.GID, l.options.Maps.GID)
	if err != nil {
		return nil, err
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs) //nolint:errcheck // a context
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(mnt) //nolint:errcheck // the copy holds the file system
	const name = "node"
	if err := unix.Mknodat(mnt, name, kind|mode, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))); err != nil { //nolint:gosec // device numbers
		return nil, err
	}
	if err := unix.Fchmodat(mnt, name, mode, 0); err != nil { // whatever the umask
		return nil, err
	}
	if err := unix.Fchownat(mnt, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	fd, err := cloneTree(mnt, name)
	if errors.Is(err, unix.EINVAL) {
		fd, err = cloneAttached(mnt, name)
	}
	if err != nil {
		return nil, fmt.Errorf("open_tree of a fresh device: %w", err)
	}
	return os.NewFile(uintptr(fd), d.Path), nil
}

func cloneTree(dir int, name string) (int, error) {
	return unix.OpenTree(dir, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
}

// cloneAttached is cloneTree for kernels before 6.15, which clone what is mounted in the caller's mount namespace alone: a
// thread that is used for nothing else attaches it in a namespace of its own, and ends with it.
func cloneAttached(mnt int, name string) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		fd, err := attachAndClone(mnt, name)
		done <- result{fd, err}
	}()
	r := <-done
	return r.fd, r.err
}

func attachAndClone(mnt int, name string) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return 0, fmt.Errorf("a mount namespace to attach it in: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, err
	}
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, "/dev", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return 0, err
	}
	return cloneTree(mnt, name)
}

// hostID is the host's id of one of the sandbox's; nil is its root.
func hostID(id *uint32, maps []specs.LinuxIDMapping) (int, error) {
	var want uint32
	if id != nil {
		want = *id
	}
	for _, m := range maps {
		if want >= m.ContainerID && want-m.ContainerID < m.Size {
			return int(m.HostID + want - m.ContainerID), nil
		}
	}
	return 0, fmt.Errorf("its owner %d has no id in the user namespace's map", want)
}
