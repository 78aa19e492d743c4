package plan

import (
	"fmt"
	"maps"
	"slices"

	"brig/internal/netdev"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// netDevices checks the devices of the host's that are to move into the sandbox; the parent moves them when the namespaces
// are there. The words are runc's.
func (b *builder) netDevices() error {
	const field = "linux.netDevices"
	if len(b.linux.NetDevices) == 0 {
		return nil
	}
	if _, ok := Namespace(b.spec, specs.NetworkNamespace); !ok {
		return &UnsupportedError{field, "unable to move network devices without a NET namespace"}
	}
	if !b.facts.Privileged {
		return &UnsupportedError{field, "network devices are not supported for rootless containers"}
	}
	names := map[string]string{}
	for _, host := range slices.Sorted(maps.Keys(b.linux.NetDevices)) {
		d := netdev.Device{Host: host, Name: b.linux.NetDevices[host].Name}
		if d.Name == "" {
			d.Name = host
		}
		for _, name := range []string{d.Host, d.Name} {
			if err := netdev.CheckName(name); err != nil {
				return &UnsupportedError{field, err.Error()}
			}
		}
		if other := names[d.Name]; other != "" {
			return &UnsupportedError{field, fmt.Sprintf("%s and %s would both be named %s", other, host, d.Name)}
		}
		if names[d.Name] = host; slices.Contains([]byte(d.Name), '%') {
			delete(names, d.Name) // a template: each gets a number of its own
		}
		b.plan.NetDevices = append(b.plan.NetDevices, d)
	}
	return nil
}
