package oci

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"brig/internal/cgroup"
	"brig/internal/fault"
	"brig/internal/isolation/gvisor"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (a *app) delete(f *flag.FlagSet) func([]string) error {
	var force bool
	f.BoolVar(&force, "force", false, "kill it first when it runs; no error when it does not exist")
	f.BoolVar(&force, "f", false, "short for --force")
	var regex bool
	f.BoolVar(&regex, "regex", false, "the argument is a regular expression; every container whose id it matches is deleted")
	f.BoolVar(&regex, "r", false, "short for --regex")
	return func(args []string) error {
		if regex {
			return a.destroyMatching(args[0], force)
		}
		return a.destroy(args[0], force, nil)
	}
}

// destroyMatching is crun's delete --regex: one that cannot be deleted does not keep the others.
func (a *app) destroyMatching(pattern string, force bool) error {
	expression, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(a.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var all error
	for _, e := range entries {
		if checkID(e.Name()) == nil && expression.MatchString(e.Name()) {
			all = errors.Join(all, a.destroy(e.Name(), force, nil))
		}
	}
	return all
}

// forceTimeout is how long delete --force waits for another verb before it goes on without it: that one hangs.
const forceTimeout = 5 * time.Second

// destroy removes a container: its processes, its cgroup, its folder; then the poststop hooks run. With mine it is done only if
// the container is still that one: another may have its id since.
func (a *app) destroy(id string, force bool, mine *container) error {
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
	if mine != nil && (c.PID != mine.PID || c.StartTime != mine.StartTime) {
		return nil
	}
	fault.Point("locked for deletion")
	if err := c.end(force); err != nil {
		return err
	}
	spec, _ := c.outline()
	if err := c.clear(); err != nil {
		return err
	}
	fault.Point("folder removed")
	a.poststopHooks(spec, c)
	return nil
}

// end kills the container's process where that is asked for. The lock is the caller's, or a hung command's that is passed over.
func (c *container) end(force bool) error {
	s := c.status()
	if s != stopped && s != created && !force && !c.Creating {
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", c.id, s)
	}
	pidfd, err := c.pidfd()
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	defer pidfd.Close() //nolint:errcheck // read only
	if err := c.kill(unix.SIGKILL, false); err != nil && c.status() != stopped {
		return err
	}
	fault.Point("process killed")
	return nil
}

// clear waits for the end of the processes and removes cgroup and folder.
func (c *container) clear() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	if err := c.waitEnd(ctx); err != nil {
		return err
	}
	fault.Point("process ended")
	if c.Pod != "" { // which that process has seen to, unless it was killed
		gvisor.Forget(c.kernelDir(), c.id)
	}
	if g := c.group(); g != nil {
		if err := g.Kill(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := g.Delete(ctx); err != nil {
			return fmt.Errorf("delete container %s: %w", c.id, err)
		}
		fault.Point("cgroup removed")
	}
	if err := errors.Join(c.unmount(), c.removeClass()); err != nil {
		return err
	}
	if err := c.removeFolder(); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	return nil
}

// removeFolder removes the state last but one and the lock last: until then another delete finds the container whole and
// waits, and what a killed one leaves is found again.
func (c *container) removeFolder() error {
	if err := c.releaseIDs(); err != nil {
		return err
	}
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a command that was passed has come to its end meanwhile
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != stateFile && e.Name() != lockFile {
			err = errors.Join(err, os.RemoveAll(filepath.Join(c.dir, e.Name())))
			fault.Point("file removed")
		}
	}
	for _, name := range []string{filepath.Join(c.dir, stateFile), filepath.Join(c.dir, lockFile), c.dir} {
		// Not with all that is in it: when the lock is gone, somebody may begin anew.
		if rerr := os.Remove(name); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			return errors.Join(err, rerr)
		}
		fault.Point("state, lock and folder removed")
	}
	return err
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
		if g := c.group(); g != nil {
			_ = g.TakeBack(c.PID) // a frozen process does not die
		}
		if ctx.Err() != nil {
			return fmt.Errorf("container %s: its process %d does not end", c.id, c.PID)
		}
	}
}

// destroyRest removes a folder without a readable state: a create was killed in its first instants, a delete in its last, or
// something else has written there. The container's cgroup is where its spec says, if that is left, and everything in it ends.
func (a *app) destroyRest(id string, force bool, why error) error {
	if err := checkID(id); err != nil {
		return err
	}
	c := &container{id: id, dir: filepath.Join(a.root, id)}
	if info, err := os.Lstat(c.dir); err != nil || !info.IsDir() {
		return gone(why, force)
	}
	lock, err := c.lockFolder(forceTimeout) // its maker, or another delete, may be at it
	if err != nil && !errors.Is(err, errBusy) {
		return gone(err, force)
	}
	defer lock.Close() //nolint:errcheck // which unlocks
	if _, err := a.open(id); err == nil {
		// Its maker has written the state meanwhile, and let go of the lock or hangs.
		return errors.Join(lock.Close(), a.destroy(id, force, nil))
	}
	if err := a.destroyLostGroup(c); err != nil {
		return err
	}
	if err := c.sweepIDs(); err != nil {
		return err
	}
	if err := c.removeFolder(); err != nil {
		return fmt.Errorf("delete container %s: %w", id, err)
	}
	return nil
}

// destroyLostGroup ends what is in the cgroup of a container whose state is lost.
func (a *app) destroyLostGroup(c *container) error {
	if _, err := os.Lstat(filepath.Join(c.dir, stateFile)); errors.Is(err, fs.ErrNotExist) {
		return nil // the state is written before anything else is made, and removed after
	}
	spec, err := c.spec()
	if err != nil {
		spec = &specs.Spec{Linux: &specs.Linux{}} // the cgroup may still be where it is by default
	}
	if a.noCgroup {
		return nil
	}
	g, err := cgroup.Locate(spec.Linux.Resources, cgroup.Options{ID: a.groupID(c.id), Path: spec.Linux.CgroupsPath, Systemd: a.systemd, All: true, AllowMissing: true})
	if errors.Is(err, cgroup.ErrNotDelegated) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the cgroup of container %s, whose state is lost: %w", c.id, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	if err := g.Kill(ctx); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	return g.Delete(ctx)
}
