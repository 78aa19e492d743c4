package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brig/internal/fault"

	"golang.org/x/sys/unix"
)

// Delete removes the group and the groups inside it. While processes in it are still dying it waits for their end,
// by pidfd and by cgroup.events, until ctx ends. A group that is gone is no error. Nothing but empty cgroups can be removed:
// rmdir is the only call made, on names that are folders and no links.
func (c *Cgroup) Delete(ctx context.Context) error {
	if err := c.Settled(); err != nil {
		return err
	}
	if c.unit != nil {
		if err := c.stopScope(); err != nil {
			return err
		}
	}
	for {
		err := c.remove()
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: processes are left in it", err)
		}
		if waitErr := c.waitEmpty(ctx); waitErr != nil {
			return errors.Join(err, waitErr)
		}
	}
}

// remove makes one attempt in every hierarchy and gives the first error.
func (c *Cgroup) remove() error {
	var first error
	for _, dir := range c.folders() {
		if err := removeTree(dir); err != nil && first == nil {
			first = err
		}
		fault.Point("cgroup folder removed")
	}
	if parent := filepath.Dir(c.unified); first == nil && filepath.Base(parent) == usersGroup && os.Geteuid() != 0 {
		_ = unix.Rmdir(parent) // with the last sandbox in it
	}
	return first
}

// folders are the group's distinct folders, in a fixed order.
func (c *Cgroup) folders() []string {
	dirs := make([]string, 0, len(c.legacy)+1)
	if c.unified != "" {
		dirs = append(dirs, c.unified)
	}
	for _, k := range sortedKeys(c.legacy) {
		if !slices.Contains(dirs, c.legacy[k]) {
			dirs = append(dirs, c.legacy[k])
		}
	}
	return dirs
}

// removeTree removes a group after those inside it. The hot case, none inside, is one rmdir.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EBUSY && err != unix.ENOTEMPTY {
		return fmt.Errorf("remove cgroup %s: %w%s", dir, err, hint(err))
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil && !missingDir(readErr) {
		return fmt.Errorf("remove cgroup %s: %w", dir, readErr)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

// Pids are the processes in the group and the groups inside it, sorted. A pid may be gone or reused when the caller
// looks at it; open a pidfd and read Pids again before acting on one.
func (c *Cgroup) Pids() ([]int, error) {
	var pids []int
	for _, dir := range c.folders() {
		if err := collect(dir, &pids); err != nil {
			return nil, err
		}
		if dir == c.unified {
			break // every process is in it
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

func collect(dir string, pids *[]int) error {
	fields, err := readFields(filepath.Join(dir, "cgroup.procs"))
	if missingDir(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list processes of cgroup: %w", err)
	}
	for _, f := range fields {
		if pid := int(parseNumber(f)); pid > 0 { // 0 is a process outside this pid namespace
			*pids = append(*pids, pid)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !missingDir(err) {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := collect(filepath.Join(dir, e.Name()), pids); err != nil {
				return err
			}
		}
	}
	return nil
}

// waitStep bounds one wait: a group may be busy for the instant between a task's end and its removal from the group,
// for which version 1 has no event.
const waitStep = 20 // milliseconds

// waitEmpty returns when a process of the group has ended, or the group says it is empty, or ctx has ended, or a
// short time has passed.
func (c *Cgroup) waitEmpty(ctx context.Context) error {
	var fds []unix.PollFd
	defer func() {
		for _, fd := range fds {
			unix.Close(int(fd.Fd))
		}
	}()
	pids, err := c.Pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
		if len(fds) == 64 {
			break
		}
	}
	if c.unified != "" {
		if fd, err := unix.Open(filepath.Join(c.unified, "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			text := make([]byte, 256)
			n, _ := unix.Read(fd, text)
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLPRI})
			if strings.Contains(string(text[:max(n, 0)]), "populated 0") && len(pids) == 0 {
				fds[len(fds)-1].Events = 0 // it will not change again; the rest is a matter of the instant
			}
		}
	}
	for {
		_, err := unix.Poll(fds, waitStep)
		if err != unix.EINTR || ctx.Err() != nil {
			return nil
		}
	}
}

// missingDir says that an error is about a path that is not there (any more).
func missingDir(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}

func readFields(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	return strings.Fields(string(text)), err
}
