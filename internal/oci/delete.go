package oci

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"brig/internal/cgroup"

	"golang.org/x/sys/unix"
)

func (a *app) delete(f *flag.FlagSet) func([]string) error {
	var force bool
	f.BoolVar(&force, "force", false, "kill it first when it runs; no error when it does not exist")
	f.BoolVar(&force, "f", false, "short for --force")
	return func(args []string) error {
		id := args[0]
		return a.destroy(id, force)
	}
}

// forceTimeout is how long delete --force waits for another verb before it goes on without it: that one hangs.
const forceTimeout = 5 * time.Second

// destroy removes a container: its processes, its cgroup, its folder; then the poststop hooks run.
func (a *app) destroy(id string, force bool) error {
	c, err := a.open(id)
	if errors.Is(err, errNotExist) || err != nil && force {
		return a.destroyRest(id, force, err)
	}
	if err != nil {
		return err
	}
	wait := lockTimeout
	if force {
		wait = forceTimeout
	}
	lock, err := c.lock(wait)
	if err != nil && (!force || !errors.Is(err, errBusy)) {
		return gone(err, force)
	}
	defer lock.Close()                   //nolint:errcheck // which unlocks; nil when a hung command has it
	if c, err = a.open(id); err != nil { // another delete was first
		return gone(err, force)
	}
	switch s := c.status(); {
	case s == stopped:
	case force || s == created:
		if err := c.kill(unix.SIGKILL, false); err != nil && c.status() != stopped {
			return err
		}
	default:
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", id, s)
	}
	spec, _ := c.spec()
	if err := c.clear(); err != nil {
		return err
	}
	a.poststopHooks(spec, c)
	return nil
}

// clear waits for the end of the processes and removes cgroup and folder.
func (c *container) clear() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	if err := c.waitEnd(ctx); err != nil {
		return err
	}
	if g := c.group(); g != nil {
		if err := g.Kill(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := g.Delete(ctx); err != nil {
			return fmt.Errorf("delete container %s: %w", c.id, err)
		}
	}
	if err := c.removeFolder(); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	return nil
}

// removeFolder removes the state last but one and the lock last: until then another delete finds the container whole and
// waits, and what a killed one leaves is found again.
func (c *container) removeFolder() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != stateFile && e.Name() != lockFile {
			err = errors.Join(err, os.RemoveAll(filepath.Join(c.dir, e.Name())))
		}
	}
	return errors.Join(err, os.RemoveAll(filepath.Join(c.dir, stateFile)), os.RemoveAll(filepath.Join(c.dir, lockFile)), os.RemoveAll(c.dir))
}

// gone passes over what does not exist any more, where that was the wish.
func gone(err error, force bool) error {
	if force && errors.Is(err, errNotExist) {
		return nil
	}
	return err
}

// waitEnd waits until the container's process is dead; its parent may not have taken its status yet.
func (c *container) waitEnd(ctx context.Context) error {
	pidfd, err := c.pidfd()
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	defer pidfd.Close() //nolint:errcheck // read only
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}, 100) //nolint:gosec // a file descriptor
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("container %s: its process %d does not end", c.id, c.PID)
		}
	}
}

// destroyRest removes what a killed create left: a folder without a readable state, and the cgroup of that name.
func (a *app) destroyRest(id string, force bool, why error) error {
	if err := checkID(id); err != nil {
		return err
	}
	dir := filepath.Join(a.root, id)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if force {
			return nil
		}
		return why
	}
	c := &container{id: id, dir: dir}
	// Its maker, or another delete, may be at it.
	lock, err := c.lock(forceTimeout)
	if err != nil && !errors.Is(err, errBusy) && !errors.Is(err, errNotExist) {
		return err
	}
	defer lock.Close() //nolint:errcheck // which unlocks
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return gone(why, force)
	}
	if spec, err := c.spec(); err == nil && !a.noCgroup {
		if g, err := cgroup.Create(nil, cgroup.Options{ID: id, Path: spec.Linux.CgroupsPath, All: true, AllowMissing: true}); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
			defer cancel()
			if err := errors.Join(g.Kill(ctx), g.Delete(ctx)); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}
