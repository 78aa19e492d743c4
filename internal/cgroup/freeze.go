package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Freeze stops every process of the group and returns when all are stopped, or with ctx's error after undoing it.
func (c *Cgroup) Freeze(ctx context.Context) error { return c.setFrozen(ctx, true) }

// Thaw lets them go on.
//
// A program may end as soon as it goes on, and its group go with it, which is no error then.
func (c *Cgroup) Thaw(ctx context.Context) error {
	existed := c.Exists()
	if err := c.setFrozen(ctx, false); !existed || !missingDir(err) || c.Exists() {
		return err
	}
	return nil
}

// Frozen says whether the group was asked to freeze and is frozen, in whichever version: a hybrid machine has two freezers, and
// others may have used the old one.
func (c *Cgroup) Frozen() (bool, error) {
	if c.unified != "" {
		events, err := readKeys(filepath.Join(c.unified, "cgroup.events"))
		if err == nil && events["frozen"] == 1 || c.legacy["freezer"] == "" {
			return events["frozen"] == 1, err
		}
	}
	text, err := os.ReadFile(filepath.Join(c.legacy["freezer"], "freezer.state"))
	return strings.TrimSpace(string(text)) == "FROZEN", err
}

// TakeBack moves a process into the group's freezer of version 1, which is not frozen. Somebody else may have put it into one
// that is, and there it would not even end by SIGKILL. Nothing happens where the group has no such freezer.
func (c *Cgroup) TakeBack(pid int) error {
	dir := c.legacy["freezer"]
	if dir == "" {
		return nil
	}
	return writeFile(dir, "cgroup.procs", strconv.Itoa(pid))
}

func (c *Cgroup) setFrozen(ctx context.Context, frozen bool) error {
	var err error
	switch {
	case c.unified != "":
		err = c.freezeUnified(ctx, frozen)
		if dir := c.legacy["freezer"]; dir != "" && !frozen && err == nil {
			if text, rerr := os.ReadFile(filepath.Join(dir, "freezer.state")); rerr == nil && strings.TrimSpace(string(text)) != "THAWED" {
				err = c.freezeLegacy(ctx, false) // somebody else froze it there
			}
		}
	case c.legacy["freezer"] != "":
		err = c.freezeLegacy(ctx, frozen)
	default:
		return &MissingError{Limit: "pause", Controller: "freezer", Remedy: "mount cgroup version 2, or the freezer of version 1"}
	}
	if err != nil && frozen {
		err = errors.Join(fmt.Errorf("freeze the sandbox: %w", err), c.setFrozen(context.WithoutCancel(ctx), false))
	}
	return err
}

func (c *Cgroup) freezeUnified(ctx context.Context, frozen bool) error {
	fd, err := unix.Open(filepath.Join(c.unified, "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	want, value := "frozen 0", "0"
	if frozen {
		want, value = "frozen 1", "1"
	}
	if err := writeFile(c.unified, "cgroup.freeze", value); err != nil {
		return err
	}
	buf := make([]byte, 256)
	for {
		n, err := unix.Pread(fd, buf, 0)
		if err != nil {
			return err
		}
		if strings.Contains(string(buf[:n]), want) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// The file becomes "exceptional" on every change; the bound is for ctx only.
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, 100); err != nil && err != unix.EINTR {
			return err
		}
	}
}

// freezeLegacy asks again while the state is FREEZING: a process that was forked meanwhile is only caught by
// another look (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst). Version 1 has no event for it.
func (c *Cgroup) freezeLegacy(ctx context.Context, frozen bool) error {
	dir := c.legacy["freezer"]
	state := "THAWED"
	if frozen {
		state = "FROZEN"
	}
	for {
		if err := writeFile(dir, "freezer.state", state); err != nil {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, "freezer.state"))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(text)) == state {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		_, _ = unix.Poll(nil, 1)
	}
}

// Kill ends every process of the group with SIGKILL and does not wait; Delete does. On kernels with cgroup.kill
// (5.14) one write does it, and no fork escapes.
func (c *Cgroup) Kill(ctx context.Context) error {
	if c.unified != "" {
		err := writeFile(c.unified, "cgroup.kill", "1")
		if err == nil || missingDir(err) && !exists(c.unified) {
			return nil
		}
		if !missingDir(err) {
			return fmt.Errorf("kill the sandbox's processes: %w", err)
		}
	}
	return c.killEach(ctx)
}

// killEach freezes the group so that nothing forks meanwhile, kills each process and thaws it, which is when the
// signals act. Without a freezer it goes round until a round finds nobody new.
func (c *Cgroup) killEach(ctx context.Context) error {
	if c.legacy["freezer"] != "" || c.unified != "" {
		if err := c.Freeze(ctx); err == nil {
			defer func() { _ = c.Thaw(context.WithoutCancel(ctx)) }()
		}
	}
	for done := map[int]bool{}; ; {
		pids, err := c.Pids()
		if err != nil {
			return err
		}
		fresh := false
		for _, pid := range pids {
			if !done[pid] {
				done[pid], fresh = true, true
				if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
					return fmt.Errorf("kill process %d of the sandbox: %w", pid, err)
				}
			}
		}
		if !fresh || ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }
