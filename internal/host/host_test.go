package host

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/internal/caps"
	"brig/internal/mac"
)

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]int{
		"6.18.44-fc": {6, 18}, "5.15": {5, 15}, "6.1.0-40-amd64": {6, 1}, "7.0-rc1": {7, 0}, "4.18.0-553.el8": {4, 18},
	} {
		v, err := parseVersion(text)
		if err != nil || v.Major != want[0] || v.Minor != want[1] {
			t.Errorf("%s: %v %v", text, v, err)
		}
	}
	for _, text := range []string{"", "x.y", "6", "6."} {
		if _, err := parseVersion(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	v := Version{Major: 6, Minor: 1}
	if !v.AtLeast(5, 15) || !v.AtLeast(6, 1) || v.AtLeast(6, 2) || v.AtLeast(7, 0) {
		t.Error("AtLeast")
	}
}

func TestAnUnknownIsAskedAgainAndAYesIsNot(t *testing.T) {
	t.Parallel()
	calls := 0
	f := &Feature{probe: func() Finding {
		calls++
		if calls < 3 {
			return unknown("busy")
		}
		return yes("")
	}}
	for range 5 {
		f.Check()
	}
	if calls != 3 {
		t.Errorf("%d calls, want 3", calls)
	}
}

func TestSyscallFinding(t *testing.T) {
	t.Parallel()
	for errno, want := range map[unix.Errno]Outcome{
		unix.ENOSYS: No, unix.EPERM: Unknown, unix.EINVAL: Yes, unix.EIO: Unknown,
	} {
		if got := syscallFinding(errno, unix.EINVAL); got.Outcome != want {
			t.Errorf("%v: %v", errno, got)
		}
	}
	if got := syscallFinding(nil); got.Outcome != Yes {
		t.Errorf("no error: %v", got)
	}
	if got := syscallFinding(&os.PathError{Err: unix.ENOSYS}); got.Outcome != No {
		t.Errorf("wrapped: %v", got)
	}
}

// A kernel at or above the stated version must have what it brought, so that a probe that is broken shows as a failure and not as "no".
func TestProbesAgreeWithTheKernelsVersion(t *testing.T) {
	t.Parallel()
	v, err := Kernel()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*Feature{Openat2, Clone3, PIDFD, CloseRange, MountAPI, MountSetattr, SeccompNotify} {
		since, err := parseVersion(f.Since)
		if err != nil {
			t.Fatal(err)
		}
		got := f.Check()
		if v.AtLeast(since.Major, since.Minor) && got.Outcome == No || !v.AtLeast(since.Major, since.Minor) && got.Outcome == Yes {
			t.Errorf("%s on %s: %v %s", f.Name, v.Release, got.Outcome, got.Detail)
		}
	}
}

func TestDoctorOnThisMachine(t *testing.T) {
	t.Parallel()
	before := descriptors(t)
	r := Doctor()
	if len(r.Layers) != 14 || len(r.Features) != len(Features()) {
		t.Errorf("%d layers, %d features", len(r.Layers), len(r.Features))
	}
	for _, l := range r.Layers {
		if l.Layer == "" || l.Detail == "" || l.Status != Full && l.Meaning == "" {
			t.Errorf("layer says too little: %+v", l)
		}
	}
	text, err := json.Marshal(r)
	if err != nil || strings.Contains(string(text), ":null") {
		t.Errorf("JSON: %v %s", err, text)
	}
	// Other tests run beside this one, so a few more are no leak; a probe that leaks would add one a round.
	for range 20 {
		Collect()
	}
	if after := descriptors(t); after > before+15 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// best is a machine that has everything.
func best() Facts {
	f := Facts{
		Kernel: Version{6, 18, "6.18.0"}, Caps: caps.All, LastCap: 40, Landlock: 7,
		Seccomp:     []string{"kill_process", "user_notif", "log", "errno", "allow"},
		Cgroups:     &CgroupTree{Unified: "/sys/fs/cgroup", Controllers: strings.Fields("memory pids cpu cpuset io hugetlb")},
		SwapCounted: true, MAC: mac.Host{AppArmor: true, OwnAttr: true}, Features: map[string]Finding{},
	}
	for _, x := range Features() {
		f.Features[x.Name] = yes("")
	}
	return f
}

func TestReport(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(f *Facts)
		layer  string // the one that is less than full; empty for none
		status Status
	}{
		"everything":         {func(*Facts) {}, "", Full},
		"no Landlock":        {func(f *Facts) { f.Landlock = 0 }, "Landlock", Absent},
		"old Landlock":       {func(f *Facts) { f.Landlock = 3 }, "Landlock", Partial},
		"no LSM":             {func(f *Facts) { f.MAC = mac.Host{} }, "AppArmor / SELinux", Absent},
		"no parser":          {func(f *Facts) { f.NoParser = true }, "AppArmor / SELinux", Absent},
		"no module":          {func(f *Facts) { f.MAC = mac.Host{SELinux: true, Enforcing: true} }, "AppArmor / SELinux", Absent},
		"labels":             {func(f *Facts) { f.MAC = mac.Host{SELinux: true, Enforcing: true, Module: true} }, "", Full},
		"permissive":         {func(f *Facts) { f.MAC = mac.Host{SELinux: true} }, "AppArmor / SELinux", Partial},
		"hybrid":             {func(f *Facts) { f.Cgroups.Legacy = map[string]string{"memory": "x", "devices": "y"} }, "cgroup", Partial},
		"no cgroup":          {func(f *Facts) { f.Cgroups.Controllers = []string{"memory"} }, "cgroup", Partial},
		"no hugetlb":         {func(f *Facts) { f.Cgroups.Controllers = f.Cgroups.Controllers[:5] }, "", Full},
		"uncounted swap":     {func(f *Facts) { f.SwapCounted, f.SwapOn = false, true }, "cgroup", Partial},
		"not delegated":      {func(f *Facts) { f.Delegated = ErrNotDelegated }, "cgroup", Absent},
		"no user namespaces": {func(f *Facts) { f.Features[UserNamespaces.Name] = no("off") }, "namespaces", Absent},
		"no seccomp":         {func(f *Facts) { f.Seccomp = nil }, "seccomp", Absent},
		"no erofs":           {func(f *Facts) { f.Features[EROFS.Name] = no("none") }, "root file system", Partial},
		"cgroup unmounted":   {func(f *Facts) { f.CgroupsErr = errors.New("none") }, "cgroup", Absent},
	} {
		f := best()
		c.change(&f)
		for _, l := range f.Report().Layers {
			want := Full
			if l.Layer == c.layer {
				want = c.status
			}
			if l.Status != want {
				t.Errorf("%s: %s is %s (%s), want %s", name, l.Layer, l.Status, l.Detail, want)
			}
			if l.Status != Full && l.Meaning == "" {
				t.Errorf("%s: %s says no meaning", name, l.Layer)
			}
		}
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	f := best()
	if n := f.notes(); len(n) != 0 {
		t.Errorf("a hardened host has notes: %v", n)
	}
	f.Settings = map[string]string{"kernel/core_pattern": "|/usr/lib/systemd/systemd-coredump", "kernel/kptr_restrict": "1", "kernel/perf_event_paranoid": "-1", "smt": "0"}
	f.Vulnerable = map[string]string{"mds": "Vulnerable: no microcode"}
	f.Caps &^= caps.SysResource.Mask()
	var got []string
	for _, n := range f.notes() {
		got = append(got, n.Setting)
	}
	if s := strings.Join(got, ","); s != "kernel/core_pattern,kernel/perf_event_paranoid,cpu vulnerability mds,capabilities of Brig" {
		t.Errorf("notes: %s", s)
	}
}

func TestCgroupsAtNothing(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if _, err := cgroupsAt(dir); err == nil || !strings.Contains(err.Error(), "mount a cgroup2") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func BenchmarkHotPath(b *testing.B) {
	for b.Loop() {
		LandlockABI()
		if _, err := Cgroups(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestBPFLSM(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]Outcome{
		"lockdown,capability,landlock,yama,apparmor,bpf,ima\n": Yes, "bpf": Yes, "capability,landlock\n": No, "": No, "capability,bpfx": No,
	} {
		if got := bpfLSM(list, nil); got.Outcome != want || want == No && !strings.Contains(got.Detail, "lsm=") {
			t.Errorf("%q: %+v, want %v", list, got, want)
		}
	}
	if got := bpfLSM("", unix.ENOENT); got.Outcome != Unknown || !strings.Contains(got.Detail, "mount -t securityfs") {
		t.Errorf("without securityfs: %+v", got)
	}
}
