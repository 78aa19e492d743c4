package oci

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"

	"brig/internal/isolation/gvisor"
	"brig/internal/isolation/native"
	"brig/internal/operator"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mounts is crun's verb: `mounts add ID FILE` adds the mounts in FILE, a JSON array as in config.json, to a running container, and
// `mounts remove ID FILE` unmounts what is at their destinations.
func (a *app) mounts(*flag.FlagSet) func([]string) error {
	return func(args []string) error {
		if args[0] != "add" && args[0] != "remove" {
			return fmt.Errorf("mounts %q: there are add and remove", args[0])
		}
		c, err := a.open(args[1])
		if err != nil {
			return err
		}
		if c.onGVisor() {
			return &gvisor.UnsupportedError{Key: "mounts", Reason: "those of the guest are its own kernel's, and cannot be changed from here"}
		}
		lock, err := c.lock(lockTimeout)
		if err != nil {
			return err
		}
		defer lock.Close() //nolint:errcheck // which unlocks
		list, err := readMounts(args[2])
		if err != nil {
			return err
		}
		policy, err := operator.Load()
		if err != nil {
			return err
		}
		if err := policy.CheckMounts(list); err != nil && args[0] == "add" {
			return err
		}
		// A process of ours will be in its namespaces: its /proc/PID/exe is the runtime.
		spec, err := a.sealedSpecOf(c)
		if err != nil {
			return err
		}
		return c.changeMounts(spec, list, args[0] == "remove")
	}
}

func readMounts(file string) ([]specs.Mount, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []specs.Mount
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("mounts in %s: %w", file, placed(text, err))
	}
	return list, nil
}

func (c *container) changeMounts(spec *specs.Spec, list []specs.Mount, remove bool) error {
	pidfd, err := c.pidfd()
	if err != nil {
		return errors.New("container not running")
	}
	defer pidfd.Close() //nolint:errcheck // read only
	spec.Mounts = list
	spec.Root = &specs.Root{Path: fmt.Sprintf("/proc/%d/root", c.PID)}
	return native.Mounts(spec, pidfd, remove)
}
