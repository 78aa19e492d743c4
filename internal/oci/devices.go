package oci

import "github.com/opencontainers/runtime-spec/specs-go"

// allowDevices appends the rules that every container has, as runc does: nodes may be made (what they lead to is another
// rule's matter), and the default devices of runtime-spec ("Default Devices") may be used.
func allowDevices(spec *specs.Spec) {
	r := spec.Linux.Resources
	if r == nil || len(r.Devices) == 0 {
		return
	}
	for _, kind := range []string{"c", "b"} {
		r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: "m"})
	}
	for _, d := range []struct{ major, minor int64 }{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, -1}} {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d.major, Access: "rwm"}
		if d.minor >= 0 {
			rule.Minor = &d.minor
		}
		r.Devices = append(r.Devices, rule)
	}
}
