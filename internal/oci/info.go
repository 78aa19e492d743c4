package oci

import (
	"flag"

	"brig/internal/caps"
	"brig/internal/mounts"
	"brig/internal/plan"
	"brig/internal/seccomp"
	"brig/internal/version"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// features tells engines what is built in (runtime-spec, "features.md").
func (a *app) features(*flag.FlagSet) func([]string) error {
	modes, flags := plan.MemoryPolicies()
	return func([]string) error {
		yes, no := true, false
		var arches []string
		for _, arch := range seccomp.Architectures() {
			arches = append(arches, string(arch))
		}
		f := features.Features{
			OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
			Hooks:        []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
			MountOptions: mounts.Known(),
			Linux: &features.Linux{
				Namespaces:   []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"},
				Capabilities: capabilityNames(),
				Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &yes},
				Seccomp: &features.Seccomp{
					Enabled: &yes, Archs: arches,
					Actions: []string{
						"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY",
						"SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
					},
					Operators: []string{
						"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
					},
					KnownFlags:     []string{"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"},
					SupportedFlags: []string{"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"},
				},
				Apparmor: &features.Apparmor{Enabled: &yes}, Selinux: &features.Selinux{Enabled: &yes},
				MemoryPolicy:    &features.MemoryPolicy{Modes: modes, Flags: flags},
				IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
				NetDevices:      &features.NetDevices{Enabled: &yes},
				MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			},
			Annotations: map[string]string{"run.brig.version": version.Version},
		}
		return writeJSON(a.out, f)
	}
}

func capabilityNames() []string {
	var list []string
	for c := caps.Cap(0); c <= caps.Max; c++ {
		list = append(list, c.String())
	}
	return list
}
