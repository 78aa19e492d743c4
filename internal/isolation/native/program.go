package native

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// MayWrite tells whether an id of the container's is one that may write to a file, or change its mode to that. Capabilities over
// a file are held only where both its owner and its group are mapped (capabilities(7), "Interaction with user namespaces").
func MayWrite(spec *specs.Spec, st *unix.Stat_t) bool {
	own := false
	for _, n := range spec.Linux.Namespaces {
		own = own || n.Type == specs.UserNamespace && n.Path == ""
	}
	if !own {
		return true
	}
	maps := func(list []specs.LinuxIDMapping, id uint32) bool {
		for _, m := range list {
			if id >= m.HostID && id-m.HostID < m.Size {
				return true
			}
		}
		return false
	}
	return maps(spec.Linux.UIDMappings, st.Uid) || st.Mode&0o020 != 0 && maps(spec.Linux.GIDMappings, st.Gid) || st.Mode&0o002 != 0
}

// SealedCopy is a copy of a file in RAM that nobody can write to (memfd_create(2), "File sealing"), under the file's name. It is the
// caller's to close.
func SealedCopy(from *os.File) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	name := filepath.Base(from.Name())
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 each one is executable
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	to := os.NewFile(uintptr(fd), name)
	if _, err = to.ReadFrom(from); err == nil {
		err = Seal(to)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("seal a copy of %s: %w", from.Name(), err), to.Close())
	}
	return to, nil
}

// sealTries is how often it is tried. Each time the kernel itself waits, for 0.2 s at most.
const sealTries = 20

// Seal forbids every change of a file in RAM. The kernel refuses that with EBUSY while somebody has a hold on one of its pages, as it has
// itself for a moment when it moves or looks for free memory (mm/memfd.c, memfd_wait_for_pins).
func Seal(f *os.File) (err error) {
	for range sealTries {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
		if !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	return err
}

// ReadOnly is a file on a mount of its own, in no tree, that is read-only: who gets at it by /proc/PID/exe changes neither its content nor
// its owner, mode or times. It needs CAP_SYS_ADMIN, and is the caller's to close.
func ReadOnly(f *os.File) (*os.File, error) {
	tree, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("open_tree %s: %w", f.Name(), err)
	}
	defer unix.Close(tree) //nolint:errcheck // not written
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return nil, fmt.Errorf("mount_setattr %s: %w", f.Name(), err)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", tree), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s on a mount of its own: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
