package oci

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"brig/internal/fault"
	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (a *app) start(*flag.FlagSet) func([]string) error {
	return func(args []string) error {
		id := args[0]
		c, err := a.open(id)
		if err != nil {
			return err
		}
		if err := a.startContainer(c); err != nil {
			return a.explained(err)
		}
		return a.tellReady(c, true)
	}
}

// startContainer lets the waiting process execute the program.
func (a *app) startContainer(c *container) error {
	lock, err := c.lock(lockTimeout)
	if err != nil {
		return err
	}
	defer lock.Close()                     //nolint:errcheck // which unlocks
	if c, err = a.open(c.id); err != nil { // it may have changed before the lock was ours
		return err
	}
	c.held = lock
	switch s := c.status(); s {
	case created:
	case stopped:
		return errors.New("cannot start a container that has stopped")
	default:
		return fmt.Errorf("cannot start an already %s container", s)
	}
	spec, err := c.outline()
	if err == nil && spec.Hooks != nil && len(spec.Hooks.StartContainer) > 0 {
		// They are programs of the container's, confined by all of its spec, and may execute the runtime as its first may.
		spec, err = a.sealedSpecOf(c)
	}
	if err != nil {
		return err
	}
	if c.onGVisor() {
		return a.startOnGVisor(c, spec)
	}
	fault.Point("locked for the start")
	child, err := c.attach()
	if err != nil {
		return err
	}
	defer child.Release() //nolint:errcheck // descriptors only
	if err := child.WaitFor(launch.PointStart); err != nil {
		return err
	}
	fault.Point("process attached")
	if err := c.startHooks(spec, child.PIDFD); err != nil {
		return c.failed(err)
	}
	fault.Point("inside hooks run")
	// Written down before the start is given: if this process dies in between, the container's ends too, without having begun;
	// afterwards a running program would be taken for one that waits.
	c.Started, c.Steps = true, nil
	if err := c.save(); err != nil {
		return err
	}
	fault.Point("start written down")
	if a.notify, err = c.listenNotify(); err != nil {
		return c.failed(err)
	}
	if err := child.Continue(); err != nil {
		return err
	}
	fault.Point("start given")
	if c.Agent {
		if err := c.startAgent(spec, child); err != nil {
			return c.failed(err)
		}
	}
	if err := child.WaitExec(); err != nil {
		return c.failed(programError(c.Rootfs, spec.Process, err))
	}
	fault.Point("program runs")
	if err := c.mine(); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(c.dir, startSock)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if h := spec.Hooks; h != nil {
		if err := runHooks("poststart", h.Poststart, c.ociState(running), hostHook(spec)); err != nil {
			return c.failed(err) // "stop the container" (runtime-spec runtime.md, "Lifecycle", step 9)
		}
	}
	return nil
}

// failed ends the process of a start that has failed, and waits for its end: an engine that hears of the failure deletes the
// container at once, and Docker leaves for ever what still runs then.
func (c *container) failed(err error) error {
	_ = c.kill(unix.SIGKILL, false)
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	return errors.Join(err, c.waitEnd(ctx))
}

// startAgent hands over the listener of a filter that the process loads as its last step.
func (c *container) startAgent(spec *specs.Spec, child *launch.Child) error {
	if err := child.WaitFor(launch.PointAgent); err != nil {
		return err
	}
	if err := c.tellAgent(spec, created, c.PID, child.Received()); err != nil {
		return err // and the child, which waits for the word, ends without it
	}
	return child.Continue()
}

func (c *container) attach() (*launch.Child, error) {
	pidfd, err := c.pidfd()
	if err != nil {
		return nil, errors.New("cannot start a container that has stopped")
	}
	dir, err := os.Open(c.dir)
	if err != nil {
		return nil, errors.Join(err, pidfd.Close())
	}
	defer dir.Close() //nolint:errcheck // read only
	child, err := launch.Attach(dir, startSock, c.PID, pidfd, c.Steps)
	if err != nil {
		if errors.Is(err, unix.ECONNREFUSED) {
			// It has been attached to before, by a start that died, and ends because of that.
			ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
			defer cancel()
			err = errors.Join(err, c.waitEnd(ctx))
		}
		if c.status() == stopped {
			err = errors.New("cannot start a container that has stopped")
		} else if errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w: somebody has removed %s, so the container can only be deleted", err, filepath.Join(c.dir, startSock))
		}
		return nil, errors.Join(err, pidfd.Close())
	}
	return child, nil
}
