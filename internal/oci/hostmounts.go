package oci

import (
	"errors"
	"fmt"

	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container without a mount namespace of its own leaves its mounts in the runtime's: its root, and all that is mounted in
// it. They lie on top of what was at the root's path before, which the record names by the id of its mount.

// noteMounts writes down what mount the root file system lies in before the container's own comes upon it.
func (c *container) noteMounts(spec *specs.Spec) error {
	if !plan.HostMounts(spec) || spec.Root == nil {
		return nil
	}
	id, _, err := mountOf(spec.Root.Path)
	c.Beneath = id
	return err
}

// mountOf gives the id of the mount that a path leads to, and whether the path is the root of it.
func mountOf(name string) (id uint64, root bool, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil {
		return 0, false, fmt.Errorf("look at %s: %w", name, err)
	}
	return st.Mnt_id, st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// noteRoot writes down the mount of the container's root itself, when it is there.
func (c *container) noteRoot() error {
	if c.Beneath == 0 {
		return nil
	}
	id, _, err := mountOf(c.Rootfs)
	c.Mount = id
	return err
}

// unmount takes the container's root away where it is the host's mount. What the record names as beneath is never touched, nor what
// else the path leads to by now: whoever owns a folder of the bundle's can put a link to any other in its place.
func (c *container) unmount() error {
	if c.Beneath == 0 {
		return nil
	}
	id, root, err := mountOf(c.Rootfs)
	if errors.Is(err, unix.ENOENT) || err == nil && (!root || id == c.Beneath) {
		return nil
	}
	if err == nil && c.Mount != 0 && id != c.Mount {
		err = errors.New("it is not what was mounted there: unmount that by hand, and then what is at this path")
	}
	if err == nil {
		err = unix.Unmount(c.Rootfs, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("unmount the root of container %s at %s: %w", c.id, c.Rootfs, err)
	}
	return nil
}
