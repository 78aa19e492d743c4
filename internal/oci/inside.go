package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"brig/internal/launch"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// insideHooks runs the startContainer hooks: their path is the container's, and they run in its namespaces, by a launch
// program of their own.
func (c *container) insideHooks(spec *specs.Spec) error {
	if spec.Hooks == nil || len(spec.Hooks.StartContainer) == 0 {
		return nil
	}
	state := c.ociState(created)
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for i := range spec.Hooks.StartContainer {
		if err := c.insideHook(spec, &spec.Hooks.StartContainer[i], text); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) insideHook(spec *specs.Spec, h *specs.Hook, state []byte) error {
	pidfd, err := c.pidfd()
	if err != nil {
		return err
	}
	defer pidfd.Close() //nolint:errcheck // read only
	in, err := stateFileOf(state)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // read only
	p := launch.New()
	sandbox, stdin := p.Input("container"), p.Input("state")
	p.Step(launch.Exec, "join the container's namespaces")
	p.Setns(sandbox, plan.NamespaceFlags(spec))
	p.ForkInto()
	p.Step(launch.Exec, "run the hook "+h.Path)
	p.Dup3(stdin, 0)
	p.Chdir("/")
	p.CloseOnExecFrom(3)
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	p.Execve(h.Path, args, h.Env)
	child, err := p.Start(launch.Clone{HighFD: 3}, map[launch.Reg]*os.File{sandbox: pidfd, stdin: in})
	if err != nil {
		return err
	}
	defer child.Release() //nolint:errcheck // descriptors only
	if err := child.WaitExec(); err != nil {
		return fmt.Errorf("hook %s: %w", h.Path, err)
	}
	return waitHook(child, h)
}

// waitHook waits for a hook's end, at most its timeout.
func waitHook(child *launch.Child, h *specs.Hook) error {
	var expired bool
	if h.Timeout != nil {
		timer := time.AfterFunc(time.Duration(*h.Timeout)*time.Second, func() {
			expired = true
			_ = unix.PidfdSendSignal(int(child.PIDFD.Fd()), unix.SIGKILL, nil, 0) //nolint:gosec // a file descriptor
		})
		defer timer.Stop()
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(child.PID, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return fmt.Errorf("hook %s: %w", h.Path, err)
			}
			break
		}
	}
	switch {
	case status.Signaled() && status.Signal() == unix.SIGKILL && expired:
		return fmt.Errorf("hook %s: it did not end within %d seconds", h.Path, *h.Timeout)
	case exitCode(status) != 0:
		return fmt.Errorf("hook %s: exit status %d", h.Path, exitCode(status))
	}
	return nil
}

// stateFileOf puts the state into a file in RAM that a hook reads as its standard input.
func stateFileOf(state []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "state")
	_, err = f.Write(state)
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
