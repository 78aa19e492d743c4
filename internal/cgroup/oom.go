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

// WatchOOM calls report each time when the group has run out of memory, until it is gone or ctx ends.
func (c *Cgroup) WatchOOM(ctx context.Context, report func()) error {
	dir := c.dir("memory")
	if dir == "" {
		return &MissingError{Limit: "memory", Controller: "memory", Remedy: "there are no events of it then"}
	}
	if len(c.legacy) > 0 {
		return watchLegacy(ctx, dir, report)
	}
	return c.watchUnified(ctx, report)
}

// watchLegacy has the kernel signal an eventfd (Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control"). The end of
// the group is signalled, too.
func watchLegacy(ctx context.Context, dir string, report func()) error {
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
	for {
		if err := wait(ctx, fd, unix.POLLIN); err != nil {
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

// watchUnified looks at memory.events whenever it changes (cgroup-v2.rst: it "generates a file modified event").
func (c *Cgroup) watchUnified(ctx context.Context, report func()) error {
	fd, err := unix.Open(filepath.Join(c.unified, "memory.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("watch for an OOM: %w", err)
	}
	defer unix.Close(fd)
	before, err := c.OOMKills()
	if err != nil {
		return err
	}
	for {
		if err := wait(ctx, fd, unix.POLLPRI); err != nil {
			return ended(err)
		}
		now, err := c.OOMKills()
		if missingDir(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if now > before {
			report()
		}
		before = now
		var text [256]byte
		if _, err := unix.Pread(fd, text[:], 0); err != nil { // which is what re-arms the event
			return ended(err)
		}
	}
}

// ended passes over what the end of the watched group, or of the watch, looks like.
func ended(err error) error {
	if missingDir(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// wait waits for events on a file. A removed group wakes nobody in version 2, so it looks up now and then.
func wait(ctx context.Context, fd int, events int16) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 100) //nolint:gosec // a file descriptor
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		}
		if events == unix.POLLPRI {
			if _, err := unix.Pread(fd, make([]byte, 1), 0); err != nil {
				return err
			}
		}
	}
}

// Exists says whether the group is still there.
func (c *Cgroup) Exists() bool {
	dirs := c.folders()
	return len(dirs) > 0 && exists(dirs[len(dirs)-1])
}
