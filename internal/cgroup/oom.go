package cgroup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WatchOOM calls report each time when the group has run out of memory, until it is gone or ctx ends. It calls ready when none is
// missed any more.
func (c *Cgroup) WatchOOM(ctx context.Context, ready, report func()) error {
	dir := c.dir("memory")
	if dir == "" {
		return &MissingError{Limit: "memory", Controller: "memory", Remedy: "there are no events of it then"}
	}
	if len(c.legacy) > 0 {
		return watchLegacy(ctx, dir, ready, report)
	}
	return c.watchUnified(ctx, ready, report)
}

// watchLegacy has the kernel signal an eventfd (Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control"). The end of
// the group is signalled, too.
func watchLegacy(ctx context.Context, dir string, ready, report func()) error {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return err
	}
	defer control.Close() //nolint:errcheck // read only
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch for an OOM: eventfd: %w", err)
	}
	defer unix.Close(fd)
	if err := writeFile(dir, "cgroup.event_control", fmt.Sprintf("%d %d", fd, control.Fd())); err != nil {
		return err
	}
	ready()
	for {
		if err := wait(ctx, fd); err != nil {
			return ended(err)
		}
		var count [8]byte
		if _, err := unix.Read(fd, count[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
			return err
		}
		if !exists(filepath.Join(dir, "cgroup.event_control")) {
			return nil
		}
		if binary.NativeEndian.Uint64(count[:]) > 0 {
			report()
		}
	}
}

// watchUnified looks at memory.events whenever it changes (cgroup-v2.rst: it "generates a file modified event"), and now and then: a
// group that is removed wakes nobody. Reading the file arms the event again, and takes away one that has come meanwhile; so the count
// is looked up after it, and once more when the watch is over.
func (c *Cgroup) watchUnified(ctx context.Context, ready, report func()) error {
	fd, err := unix.Open(filepath.Join(c.unified, "memory.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("watch for an OOM: %w", err)
	}
	defer unix.Close(fd)
	before, err := c.OOMKills()
	if err != nil {
		return err
	}
	ready()
	for over := false; !over; {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, 100); err != nil && !errors.Is(err, unix.EINTR) { //nolint:gosec // a file descriptor
			return err
		}
		over = ctx.Err() != nil
		if _, err := unix.Pread(fd, make([]byte, 256), 0); err != nil {
			return ended(err)
		}
		now, err := c.OOMKills()
		if err != nil {
			return ended(err)
		}
		if now > before {
			report()
		}
		before = now
	}
	return nil
}

// ended passes over what the end of the watched group, or of the watch, looks like.
func ended(err error) error {
	if missingDir(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// wait waits until a file can be read.
func wait(ctx context.Context, fd int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100) //nolint:gosec // a file descriptor
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

// Exists says whether the group is still there.
func (c *Cgroup) Exists() bool {
	dirs := c.folders()
	return len(dirs) > 0 && exists(dirs[len(dirs)-1])
}
