package cgroup

import (
	"errors"
	"fmt"
	"os"

	"brig/internal/fault"
	"brig/internal/host"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Locate decides where a group goes and compiles its limits, and makes nothing: the caller writes Paths down, so that whatever
// a killed Make leaves is found again, and then calls Make.
func Locate(r *specs.LinuxResources, o Options) (*Cgroup, error) {
	tree := o.Tree
	if tree == nil {
		var err error
		if tree, err = host.Cgroups(); err != nil {
			return nil, err
		}
	}
	c := &Cgroup{legacy: map[string]string{}, pending: &pending{tree: tree, resources: r, options: o}}
	list, err := compile(tree, r)
	if err != nil {
		return nil, err
	}
	if o.Systemd {
		u, err := parseUnit(o)
		c.unit = &u
		return c, err
	}
	if c.pending.list, err = c.available(tree, list, o.AllowMissing); err != nil {
		return nil, err
	}
	if err := c.place(tree, c.pending.list, o); err != nil {
		return nil, err
	}
	return c, nil
}

// pending is what Locate has decided and Make is to do.
type pending struct {
	tree      *host.CgroupTree
	list      []setting
	resources *specs.LinuxResources
	options   Options
}

// Make makes a group that Locate gave. What was made is removed again on an error.
func (c *Cgroup) Make() error {
	p := c.pending
	c.pending = nil
	if c.unit != nil {
		made, err := createScope(p.tree, p.resources, p.options)
		if err == nil {
			*c = *made
		}
		return err
	}
	if err := c.make(p.tree, p.list, p.resources, p.options); err != nil {
		return errors.Join(err, c.remove())
	}
	fault.Point("cgroup made")
	return nil
}

// Free makes sure that a located group is nobody's: processes in it are another's, and would be limited, counted and in the end
// killed with the sandbox; and the first process would stand still in a frozen one. The words are runc's.
func (c *Cgroup) Free() error {
	pids, err := c.Pids()
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("container's cgroup is not empty: %d processes (the first is %d) are in %s; give the container another id or cgroupsPath", len(pids), pids[0], c.folders()[0])
	}
	frozen, err := c.Frozen()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if frozen {
		return fmt.Errorf("container's cgroup unexpectedly frozen: %s", c.folders()[0])
	}
	return nil
}
