package oci

import (
	"context"
	"flag"
	"fmt"

	"brig/internal/cgroup"
	"brig/internal/isolation/gvisor"
)

func (a *app) pause(*flag.FlagSet) func([]string) error {
	return a.frozen(running, (*cgroup.Cgroup).Freeze)
}

func (a *app) resume(*flag.FlagSet) func([]string) error {
	return a.frozen(paused, (*cgroup.Cgroup).Thaw)
}

func (a *app) frozen(from string, do func(*cgroup.Cgroup, context.Context) error) func([]string) error {
	return func(args []string) error {
		id := args[0]
		c, err := a.open(id)
		if err != nil {
			return err
		}
		if s := c.status(); s != from && (from != running || s != created) {
			return fmt.Errorf("container not %s: it is %s", from, s)
		}
		if c.Pod != "" {
			return &gvisor.UnsupportedError{Key: "pause", Reason: "the kernel is its pod's; pause the sandbox, and everything in it is"}
		}
		g := c.group()
		if g == nil {
			return fmt.Errorf("container %s has no cgroup", id)
		}
		ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
		defer cancel()
		if from == running && c.onGVisor() && c.status() == running {
			return c.toContinue(gvisor.Still(ctx, c.dir, a.asked(c), g.Freeze))
		}
		return do(g, ctx)
	}
}
