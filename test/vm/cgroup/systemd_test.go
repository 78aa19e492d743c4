//go:build vm

package cgroup

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// needSystemd is a guest that systemd has booted.
var needSystemd = testenv.Need{Name: "systemd", Missing: func() string {
	if !systemdRuns() {
		return "systemd is not this machine's first process"
	}
	return ""
}}

// TestScope: systemd has a scope with the limits as its properties; they outlive a reload of systemd's, which writes what it knows
// anew; and the scope ends with the container.
func TestScope(t *testing.T) {
	testenv.Check(t, needSystemd)
	b := bySystemd.probe(t, ask{set: func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: ptr(int64(48 << 20)), Swap: ptr(int64(48 << 20)), Reservation: ptr(int64(1 << 20))}
		r.CPU = &specs.LinuxCPU{Quota: ptr(int64(30000)), Period: ptr(uint64(100000)), Shares: ptr(uint64(512)), Cpus: "1", Mems: "0"}
		r.Pids = &specs.LinuxPids{Limit: ptr(int64(77))}
		r.BlockIO = &specs.LinuxBlockIO{ThrottleReadBpsDevice: throttled(1 << 20)}
		r.Devices[len(r.Devices)-1].Access = "r"
	}}, "open", "/dev/disk")
	scope := "brigvm-" + b.id + ".scope"
	if want := filepath.Join("/sys/fs/cgroup/system.slice", scope); b.group != want {
		t.Errorf("the group is %s, want %s", b.group, want)
	}
	properties := map[string]string{
		"ActiveState": "active", "Delegate": "yes", "MemoryMax": "50331648", "MemorySwapMax": "0", "MemoryLow": "1048576", "TasksMax": "77",
		"CPUQuotaPerSecUSec": "300ms", "CPUWeight": "59", "AllowedCPUs": "1", "DevicePolicy": "strict", "Slice": "system.slice",
	}
	for name, want := range properties {
		if got := systemctl(t, "show", "--value", "-p", name, scope); got != want {
			t.Errorf("%s of the scope is %q, want %q", name, got, want)
		}
	}
	files := map[string]string{
		"memory.max": "50331648", "memory.swap.max": "0", "memory.low": "1048576", "memory.oom.group": "1", "pids.max": "77",
		"cpu.max": "30000 100000", "cpu.weight": "59", "cpuset.cpus": "1", "cpuset.cpus.effective": "1",
	}
	check := func(when string) {
		t.Helper()
		for file, want := range files {
			if got := b.file(file); got != want {
				t.Errorf("%s %s says %q, want %q", when, file, got, want)
			}
		}
		if got := b.file("io.max"); !strings.Contains(got, "rbps=1048576") {
			t.Errorf("%s io.max says %q", when, got)
		}
	}
	check("at first")
	version := 0
	if _, err := fmt.Sscanf(systemctl(t, "--version"), "systemd %d", &version); err != nil || version < 253 {
		delete(files, "memory.oom.group") // until then systemd has no OOMPolicy= for scopes, and its reload takes it back
	}
	systemctl(t, "daemon-reload")
	check("after systemd's reload")
	if _, err := bySystemd.call(t, "update", "--memory", "56M", "--memory-swap", "56M", "--pids-limit", "66", "--cpu-period", "50000", b.id); err != nil {
		t.Error(err)
	}
	files["memory.max"], files["pids.max"], files["cpu.max"] = "58720256", "66", "30000 50000"
	check("after an update")
	systemctl(t, "daemon-reload")
	check("after an update and a reload")
	if r := b.finish(); r.said != "refused" {
		t.Errorf("the device filter is gone: code %d, %q, %s", r.code, r.said, r.errs)
	}
	if got := systemctl(t, "show", "--value", "-p", "LoadState", scope); got != "not-found" {
		t.Errorf("the scope is left: %s", got)
	}
	testenv.Layer(t, "cgroup scope of systemd", testenv.Enforced, "every limit is a property of the scope and in force, also after an update and daemon-reload")
}

// TestScopeOfKilledContainer: nothing but systemd and the runtime takes it away.
func TestScopeOfKilledContainer(t *testing.T) {
	testenv.Check(t, needSystemd)
	bundle := makeBundle(t, "", []string{"/bin/busybox", "sleep", "1000"}, ask{})
	const id = "killed"
	if out, err := bySystemd.call(t, "create", "--bundle", bundle, id); err != nil {
		t.Fatal(out, err)
	}
	t.Cleanup(func() { _, _ = bySystemd.call(t, "delete", "--force", id) })
	units := func() string { return systemctl(t, "list-units", "--all", "--plain", "--no-legend", "brig-*.scope") }
	if got := units(); !strings.Contains(got, "-"+id+".scope") {
		t.Errorf("units: %q", got)
	}
	for _, args := range [][]string{{"start", id}, {"kill", id, "KILL"}, {"delete", "--force", id}} {
		if _, err := bySystemd.call(t, args...); err != nil {
			t.Error(err)
		}
	}
	if got := units(); got != "" {
		t.Errorf("left behind: %q", got)
	}
}

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}
