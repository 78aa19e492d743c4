package cgroup

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"brig/internal/host"

	"golang.org/x/sys/unix"
)

// Sub is the group with other folders below its own, for a process that is to start there: each word of list is
// "PATH", or "CONTROLLER[,CONTROLLER...]:PATH" in version 1. The folders must exist. The words of the errors are runc's.
func (c *Cgroup) Sub(list []string) (*Cgroup, error) {
	sub := &Cgroup{unified: c.unified, legacy: maps.Clone(c.legacy), unit: c.unit}
	seen := map[string]bool{}
	for _, word := range list {
		controllers, path, several := strings.Cut(word, ":")
		if !several {
			if len(list) > 1 {
				return nil, fmt.Errorf("invalid --cgroup argument: %s (missing <controller>: prefix)", word)
			}
			return sub, sub.all(word)
		}
		for controller := range strings.SplitSeq(controllers, ",") {
			if seen[controller] {
				return nil, fmt.Errorf("invalid --cgroup argument: %s: the controller %q is named twice", word, controller)
			}
			seen[controller] = true
			if sub.legacy[controller] == "" {
				return nil, fmt.Errorf("unknown controller %q in --cgroup %s", controller, word)
			}
			var err error
			if sub.legacy[controller], err = below(c.legacy[controller], path); err != nil {
				return nil, err
			}
		}
	}
	return sub, nil
}

// all goes down in every hierarchy.
func (c *Cgroup) all(path string) (err error) {
	if c.unified != "" {
		if c.unified, err = below(c.unified, path); err != nil {
			return err
		}
	}
	for controller, dir := range c.legacy {
		if c.legacy[controller], err = below(dir, path); err != nil {
			return err
		}
	}
	return nil
}

// below is a folder inside a group, or the group's own. A cgroup file system has no links that lead out of it.
func below(dir, path string) (string, error) {
	sub := filepath.Join(dir, path)
	if sub != dir && !strings.HasPrefix(sub, dir+"/") {
		return "", fmt.Errorf("bad sub cgroup path: %s", path)
	}
	if err := unix.Access(sub, unix.F_OK); err != nil {
		return "", fmt.Errorf("error adding pid of the new process to cgroups: %s: %w", sub, err)
	}
	return sub, nil
}

// Of is the version 2 group that a process is in, for a further one where the sandbox's own group takes none: it has
// given controllers to groups inside, so that no process may be in it (Documentation/admin-guide/cgroup-v2.rst, "No Internal
// Process Constraint").
func (c *Cgroup) Of(pid int) (*Cgroup, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	tree, err := host.Cgroups()
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			rel, err := filepath.Rel(c.unified, filepath.Join(tree.Unified, path))
			if err != nil {
				return nil, err
			}
			dir, err := below(c.unified, rel)
			return &Cgroup{unified: dir, unit: c.unit}, err
		}
	}
	return nil, fmt.Errorf("process %d has no cgroup of version 2", pid)
}
