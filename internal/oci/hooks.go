package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"brig/internal/fault"
	"brig/internal/isolation/native"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// createsWithHooks says whether there are hooks of the create phase, for which a start stops before the root is entered.
func createsWithHooks(h *specs.Hooks) bool {
	//nolint:staticcheck // Prestart is old, and Docker still uses it
	return h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0
}

// createHooks runs the hooks of the create phase: prestart and createRuntime on the host, createContainer in the
// container's namespaces (runtime-spec config.md, "POSIX-platform Hooks").
func (c *container) createHooks(spec *specs.Spec, p *native.Process) error {
	c.PID = p.PID
	ctx, stop := untilDeath(p.PIDFD())
	defer stop()
	host := runOnHost(ctx, spec)
	state := c.ociState("creating")
	state.Annotations = spec.Annotations
	h := spec.Hooks
	//nolint:staticcheck // see above
	if err := runHooks("prestart", h.Prestart, state, host); err != nil {
		return err
	}
	if err := runHooks("createRuntime", h.CreateRuntime, state, host); err != nil {
		return err
	}
	fault.Point("hooks of creation run")
	return runHooks("createContainer", h.CreateContainer, state, c.insideHook(spec, p.PIDFD(), false))
}

// errDied ends a hook that nobody needs any more: `delete --force` has ended a container whose hook hangs, say.
var errDied = errors.New("the container's process has died meanwhile")

// untilDeath gives a context that ends with the process, and a function that ends the watch.
func untilDeath(pidfd *os.File) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	r, w, err := os.Pipe()
	if err != nil {
		cancel(err)
		return ctx, func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}, {Fd: int32(r.Fd())}} //nolint:gosec // file descriptors
		for {
			if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		cancel(errDied)
	}()
	return ctx, func() {
		_ = w.Close() // poll(2) tells of it without being asked: POLLHUP
		<-done
		_ = r.Close()
	}
}

// startHooks runs the startContainer hooks, which are programs of the container's and as confined as it is.
func (c *container) startHooks(spec *specs.Spec, pidfd *os.File) error {
	if spec.Hooks == nil {
		return nil
	}
	return runHooks("startContainer", spec.Hooks.StartContainer, c.ociState(created), c.insideHook(spec, pidfd, true))
}

// poststopHooks run when the container is gone. A failure is a warning, and the next one runs (runtime-spec runtime.md,
// "Lifecycle").
func (a *app) poststopHooks(spec *specs.Spec, c *container) {
	if spec == nil || spec.Hooks == nil {
		return
	}
	state := &specs.State{Version: specs.Version, ID: c.id, Status: stopped, Bundle: c.Bundle, Annotations: spec.Annotations}
	for i := range spec.Hooks.Poststop {
		if err := runHooks("poststop", spec.Hooks.Poststop[i:i+1], state, hostHook(spec)); err != nil {
			a.warnf("%v", saidLikeCrun(err))
		}
	}
}

// saidLikeCrun puts crun's words before the failure of a poststop hook that has ended by itself.
func saidLikeCrun(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return fmt.Errorf("poststop hook failed with exit code %d: %w", exit.ExitCode(), err)
	}
	return err
}

// hookRunner runs one hook to its end. bundle is a folder of the host's.
type hookRunner func(h *specs.Hook, state []byte, bundle string) error

// runHooks runs hooks in their order; the first failure ends it.
func runHooks(kind string, list []specs.Hook, state *specs.State, run hookRunner) error {
	if len(list) == 0 {
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for i := range list {
		if err := run(&list[i], text, state.Bundle); err != nil {
			return &hookError{kind, i, list[i].Path, err}
		}
	}
	return nil
}

// hookError is a hook that failed, so that a program of its own that is missing is not taken for the container's.
type hookError struct {
	kind   string
	number int
	path   string
	err    error
}

func (e *hookError) Error() string { // the first words are runc's
	return fmt.Sprintf("error running %s hook #%d: %s: %v", e.kind, e.number, e.path, e.err)
}
func (e *hookError) Unwrap() error { return e.err }

// hostHook is runOnHost for a hook that nothing but its timeout ends.
func hostHook(spec *specs.Spec) hookRunner { return runOnHost(context.Background(), spec) }

// runOnHost gives what runs a hook in the runtime's namespaces, with an environment of its own only and the bundle as its working
// directory (CVE-2025-23266: never the container's).
func runOnHost(ctx context.Context, spec *specs.Spec) hookRunner {
	return func(h *specs.Hook, state []byte, bundle string) error {
		said, complaint, err := hostHookSays(ctx, h, state, bundle)
		if err != nil {
			err = withOutput(err, append(said, complaint...))
		}
		return errors.Join(err, keepSaid(spec.Annotations, said, complaint))
	}
}

func hostHookSays(ctx context.Context, h *specs.Hook, state []byte, bundle string) (said, complaint []byte, err error) {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env, cmd.Dir, cmd.Stdin = h.Env, bundle, bytes.NewReader(state)
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // a child of the hook's may hold the pipes
	err = cmd.Run()
	cause := context.Cause(ctx)
	switch {
	case cause != nil && !errors.Is(cause, context.DeadlineExceeded):
		err = cause
	case ctx.Err() != nil:
		err = expired(h)
	case errors.Is(err, exec.ErrWaitDelay):
		err = nil
	}
	return stdout.Bytes(), stderr.Bytes(), err
}

// withOutput adds what a failed hook has said.
func withOutput(err error, said []byte) error {
	if said = bytes.TrimSpace(said); len(said) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, said)
}

func expired(h *specs.Hook) error { return fmt.Errorf("it did not end within %d seconds", *h.Timeout) }

// insideHook gives what runs a hook in the namespaces of the container that pidfd refers to. Its streams are files in RAM:
// unlike a pipe, nobody can keep the runtime waiting at one.
func (c *container) insideHook(spec *specs.Spec, pidfd *os.File, entered bool) hookRunner {
	return func(h *specs.Hook, state []byte, bundle string) error {
		in, err := memory("state", state)
		if err != nil {
			return err
		}
		defer in.Close() //nolint:errcheck // in RAM
		out, err := memory("output", nil)
		if err != nil {
			return err
		}
		defer out.Close() //nolint:errcheck // in RAM
		stderr, err := memory("errors", nil)
		if err != nil {
			return err
		}
		defer stderr.Close() //nolint:errcheck // in RAM
		options := native.Options{Cgroup: c.group(), Stdio: [3]*os.File{in, out, stderr}, Agent: c.agent(spec, running)}
		p, err := native.Hook(spec, h, entered, bundle, pidfd, options)
		if err != nil {
			return err
		}
		defer p.Release() //nolint:errcheck // descriptors only
		err = waitHook(p, h)
		said, complaint := written(out), written(stderr)
		if err != nil {
			err = withOutput(err, append(said, complaint...))
		}
		return errors.Join(err, keepSaid(spec.Annotations, said, complaint))
	}
}

// waitHook waits for a hook's end, at most its timeout.
func waitHook(p *native.Process, h *specs.Hook) error {
	var late atomic.Bool
	if h.Timeout != nil {
		timer := time.AfterFunc(time.Duration(*h.Timeout)*time.Second, func() {
			late.Store(true)
			_ = p.Signal(unix.SIGKILL)
		})
		defer timer.Stop()
	}
	status, err := p.Wait()
	switch {
	case err != nil:
		return err
	case status.Signaled() && late.Load():
		return expired(h)
	case status.Signaled():
		return fmt.Errorf("signal: %s", status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return nil
}

// memory is a file in RAM with content.
func memory(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(content)
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
