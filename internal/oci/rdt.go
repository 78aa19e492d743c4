package oci

import (
	"fmt"

	"brig/internal/resctrl"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// planClass writes down which class of service the container gets (linux.intelRdt), before any is made.
func (c *container) planClass(spec *specs.Spec) error {
	r := spec.Linux.IntelRdt
	if r == nil {
		return nil
	}
	root, err := resctrl.Root()
	if err == nil {
		c.Class, err = resctrl.Plan(root, c.id, r)
	}
	return rdtError(err)
}

func (c *container) makeClass(spec *specs.Spec) error {
	if c.Class == nil {
		return nil
	}
	return rdtError(c.Class.Make(spec.Linux.IntelRdt))
}

// enterClass puts a process of the container's into its class of service, before the program runs.
func (c *container) enterClass(pid int) error {
	if c.Class == nil {
		return nil
	}
	return rdtError(c.Class.Attach(pid))
}

func (c *container) removeClass() error {
	if c.Class == nil {
		return nil
	}
	return rdtError(c.Class.Remove())
}

func rdtError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("config.json: linux.intelRdt: %w", err)
}
