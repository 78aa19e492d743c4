package cgroup

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // sets cgroups.DevicesSetV2
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// filterDevices attaches a BPF program with the spec's device rules to a version 2 group, or replaces the one it has.
// The library writes the program: its emulator settles rules that overlap, which is delicate and well tested there.
func filterDevices(dir string, rules []specs.LinuxDeviceCgroup) error {
	if len(rules) == 0 {
		return nil
	}
	list, err := libraryRules(rules)
	if err != nil {
		return err
	}
	// The library lifts the limit on locked memory, which kernels before 5.11 charge BPF programs to. Ours is put back, for
	// the sandbox would inherit it.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err == nil {
		defer func() { _ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit) }()
	}
	if err := cgroups.DevicesSetV2(dir, &cgroups.Resources{Devices: list}); err != nil {
		return fmt.Errorf("set limit %sdevices: attach a BPF program to %s: %w: run as root on a kernel with CONFIG_CGROUP_BPF", prefix, dir, err)
	}
	return filterAttached(dir)
}

// filterAttached makes sure of the program: inside a user namespace the library takes a refusal for success.
func filterAttached(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	result, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: ebpf.AttachCGroupDevice})
	if err == nil && len(result.Programs) > 0 {
		return nil
	}
	if err == nil {
		err = unix.EPERM
	}
	return &MissingError{Limit: prefix + "devices", Controller: "devices", File: "BPF program (" + err.Error() + ")",
		Remedy: "run as root outside of user namespaces, leave the rules out, or accept less with --allow-missing=cgroup.devices"}
}

// libraryRules checks the rules as on version 1 and puts them into the library's words.
func libraryRules(rules []specs.LinuxDeviceCgroup) ([]*devices.Rule, error) {
	var s settings
	s.devices(rules)
	if s.err != nil {
		return nil, s.err
	}
	wild := func(n *int64) int64 {
		if n == nil || *n < 0 {
			return devices.Wildcard
		}
		return *n
	}
	list := make([]*devices.Rule, 0, len(rules)+1)
	for _, r := range rules {
		rule := &devices.Rule{Type: devices.WildcardDevice, Major: wild(r.Major), Minor: wild(r.Minor), Permissions: devices.Permissions(r.Access), Allow: r.Allow}
		if r.Type != "" {
			rule.Type = devices.Type(r.Type[0])
		}
		if r.Access == "" {
			rule.Permissions = "rwm"
		}
		list = append(list, rule)
	}
	return list, nil
}
