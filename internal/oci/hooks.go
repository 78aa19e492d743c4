package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"brig/internal/isolation/native"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hooked says whether there are hooks that come before the root is entered.
func hooked(h *specs.Hooks) bool {
	//nolint:staticcheck // Prestart is old, and Docker still uses it
	return h != nil
}

// createHooks runs the hooks of the create phase: prestart, createRuntime, createContainer (runtime-spec, "POSIX-platform
// Hooks").
func (c *container) createHooks(spec *specs.Spec, p *native.Process) error {
	c.PID = p.PID
	state := c.ociState("creating")
	state.Annotations = spec.Annotations
	//nolint:staticcheck // see above
	for _, list := range [][]specs.Hook{spec.Hooks.Prestart, spec.Hooks.CreateRuntime, spec.Hooks.CreateContainer} {
		if err := runHooks(list, state); err != nil {
			return err
		}
	}
	return nil
}

// runHooks runs hooks in their order; the first failure ends it.
func runHooks(list []specs.Hook, state *specs.State) error {
	if len(list) == 0 {
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for i := range list {
		if err := runHook(&list[i], text, state.Bundle); err != nil {
			return err
		}
	}
	return nil
}

// runHook runs one hook in the runtime's namespaces, with an environment of its own only and the bundle as its working
// directory (CVE-2025-23266: never the container's).
func runHook(h *specs.Hook, state []byte, cwd string) error {
	ctx := context.Background()
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env, cmd.Dir, cmd.Stdin = h.Env, cwd, bytes.NewReader(state)
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // a child of the hook's may hold the pipes
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("hook %s: it did not end within %d seconds", h.Path, *h.Timeout)
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("hook %s: %w: %s", h.Path, err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

// runLateHooks runs poststart or poststop hooks: a failure is reported and the next one runs (runtime-spec, "lifecycle").
func (a *app) runLateHooks(list []specs.Hook, state *specs.State) {
	for i := range list {
		if err := runHooks(list[i:i+1], state); err != nil {
			a.warnf("%v", err)
		}
	}
}
