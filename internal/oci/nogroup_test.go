package oci

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"brig/internal/cgroup"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestWithoutGroup(t *testing.T) {
	one := int64(1)
	none, limit := &specs.LinuxResources{}, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &one}}
	devices := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}, Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}}
	for _, c := range []struct {
		name string
		r    *specs.LinuxResources
		path string
		why  error
		want string // in the error; empty for none
	}{
		{"no resources", nil, "", errNoGroups, ""},
		{"nothing limited", none, "", cgroup.ErrNotDelegated, ""},
		{"rules for devices", devices, "", errNoGroups, ""},
		{"a path is of no use", none, "/x", errNoGroups, ""},
		{"a path is asked for", none, "/x", cgroup.ErrNotDelegated, "delegated"},
		{"a limit", limit, "", errNoGroups, "config.json: linux.resources: cannot set pids limit"},
		{"a limit for a user", limit, "", cgroup.ErrNotDelegated, "cannot set pids limit"},
		{"another failure", none, "", fmt.Errorf("make a cgroup: %w", unix.ENOSPC), "no space"},
	} {
		err := (&app{}).withoutGroup(&specs.Spec{Linux: &specs.Linux{Resources: c.r, CgroupsPath: c.path}}, c.why)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !errors.Is(err, c.why)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
