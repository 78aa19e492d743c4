package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"
)

// Every flag of update arrives in its control file, alone and after others, with units, zeros and no limit at all.
func TestUpdate(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.CgroupV1Devices)
	e := newEngine(t)
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.spec.Linux.CgroupsPath = "/brig-oci-update-test"
	e.write()
	e.want(0, "", "run", "--detach", "--bundle", e.bundle, "update")
	t.Cleanup(func() { e.call("delete", "--force", "update") })
	e.want(1, "invalid value for memory", "update", "--memory", "50X", "update")
	e.want(1, "invalid value for cpu-period", "update", "--cpu-period", "-1", "update")
	e.want(1, "Intel RDT/CAT: l3 cache schema is not enabled", "update", "--l3-cache-schema", "L3:0=f", "update")
	for _, c := range []struct{ flags, file, want string }{
		{"--memory 50M", "memory/memory.limit_in_bytes", "52428800"},
		{"--memory-reservation 32m", "memory/memory.soft_limit_in_bytes", "33554432"},
		{"--memory -1", "memory/memory.limit_in_bytes", "9223372036854771712"},
		{"--cpu-share 200", "cpu/cpu.shares", "200"},
		{"--cpu-period 1000000 --cpu-quota 500000", "cpu/cpu.cfs_quota_us", "500000"},
		{"--cpu-period 10000 --cpu-quota 5000", "cpu/cpu.cfs_period_us", "10000"},
		{"--cpu-burst 4000", "cpu/cpu.cfs_burst_us", "4000"},
		{"--cpu-burst 0", "cpu/cpu.cfs_burst_us", "0"},
		{"--cpu-quota -1", "cpu/cpu.cfs_quota_us", "-1"},
		{"--cpu-idle 1", "cpu/cpu.idle", "1"},
		{"--cpuset-cpus 0", "cpuset/cpuset.cpus", "0"},
		{"--kernel-memory 1G", "pids/pids.max", "max"},
		{"--pids-limit 10", "pids/pids.max", "10"},
		{"--pids-limit 0", "pids/pids.max", "1"},
		{"--pids-limit -1", "pids/pids.max", "max"},
	} {
		e.want(0, "", append(append([]string{"update"}, strings.Fields(c.flags)...), "update")...)
		got, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", filepath.Dir(c.file), "brig-oci-update-test", filepath.Base(c.file)))
		if err != nil || strings.TrimSpace(string(got)) != c.want {
			t.Errorf("%s: %q, %v; want %s", c.flags, got, err, c.want)
		}
	}
}
