package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"brig/internal/host"
	"brig/internal/testenv"
)

func dev(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	d := specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
	if major >= 0 {
		d.Major = &major
	}
	if minor >= 0 {
		d.Minor = &minor
	}
	return d
}

func TestDeviceRulesAreReadBackAsWritten(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root, testenv.CgroupV1Devices)
	for i, c := range []struct {
		rules []specs.LinuxDeviceCgroup
		want  string
	}{
		{[]specs.LinuxDeviceCgroup{dev(false, "a", -1, -1, "rwm")}, ""},
		{[]specs.LinuxDeviceCgroup{dev(false, "", -1, -1, ""), dev(true, "c", 1, 3, "rw"), dev(true, "c", 136, -1, "rwm")}, "c 1:3 rw\nc 136:* rwm"},
		{[]specs.LinuxDeviceCgroup{dev(true, "c", 1, 3, "rwm"), dev(false, "c", 1, 3, "m")}, "c 1:3 rw"},
		{[]specs.LinuxDeviceCgroup{dev(true, "c", 1, 3, "rw"), dev(false, "a", -1, -1, "rwm"), dev(true, "b", 7, 0, "r")}, "b 7:0 r"},
		{[]specs.LinuxDeviceCgroup{dev(false, "a", -1, -1, "rwm"), dev(true, "a", -1, -1, "rwm")}, "a *:* rwm"},
	} {
		g := made(t, fmt.Sprint("devices", i), &specs.LinuxResources{Devices: c.rules})
		l, err := g.Effective()
		if err != nil || strings.Join(l.Devices, "\n") != c.want {
			t.Errorf("%d: %q, %v; want %q", i, l.Devices, err, c.want)
		}
	}
}

// The kernel would leave 136:5 open without a word.
func TestATakenBackPartOfADeviceRuleIsRefused(t *testing.T) {
	t.Parallel()
	for _, rules := range [][]specs.LinuxDeviceCgroup{
		{dev(true, "c", 136, -1, "rw"), dev(false, "c", 136, 5, "rw")},
		{dev(true, "c", 1, 3, "rw"), dev(false, "c", -1, -1, "rw")},
		{dev(true, "a", -1, -1, "rwm"), dev(false, "c", -1, 3, "rw"), dev(true, "c", 1, 3, "r")},
	} {
		var s settings
		s.devices(rules)
		if s.err == nil || !strings.Contains(s.err.Error(), "takes back a part") {
			t.Errorf("%v: %v", rules, s.err)
		}
	}
	var s settings
	s.devices([]specs.LinuxDeviceCgroup{dev(true, "c", 136, -1, "rw"), dev(false, "b", 136, 5, "rw"), dev(false, "a", -1, -1, "rwm"), dev(false, "c", 136, 5, "rw")})
	if s.err != nil {
		t.Error(s.err)
	}
}

func TestBadDeviceRules(t *testing.T) {
	t.Parallel()
	for _, r := range []specs.LinuxDeviceCgroup{
		dev(true, "x", 1, 1, "r"), dev(true, "c", 1, 1, "rx"), dev(true, "a", 1, -1, "rwm"), dev(false, "a", -1, -1, "r"), dev(true, "cc", 1, 1, "r"),
	} {
		var s settings
		s.devices([]specs.LinuxDeviceCgroup{r})
		var bad *ValueError
		if !errors.As(s.err, &bad) || strings.Contains(s.err.Error(), "\n") {
			t.Errorf("%+v: %v", r, s.err)
		}
	}
}

// The BPF filter is that of version 2; a hybrid machine's version 2 hierarchy serves to try it.
func TestDeviceFilterHoldsAProcess(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root, testenv.CgroupV2Mounted)
	tree, err := host.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(tree.Unified, fmt.Sprintf("brig-test-bpf-%d", os.Getpid()))
	if err := makeDir(dir); err != nil {
		t.Fatal(err)
	}
	g := Open(map[string]string{"": dir})
	t.Cleanup(func() {
		if err := g.Delete(context.Background()); err != nil {
			t.Error(err)
		}
	})
	into, _, err := g.Attach()
	if err != nil {
		t.Fatal(err)
	}
	defer into.Close()
	try := func(rules ...specs.LinuxDeviceCgroup) string {
		if err := filterDevices(dir, rules); err != nil {
			t.Fatal(err)
		}
		out := ""
		for _, path := range []string{"null", "full", "zero"} {
			cmd := exec.Command("/bin/dd", "if=/dev/"+path, "of=/proc/self/fd/1", "bs=1", "count=1")
			cmd.SysProcAttr = sysProcAttr(into)
			if cmd.Run() == nil {
				out += path + " "
			}
		}
		return out
	}
	deny := dev(false, "a", -1, -1, "rwm")
	null := dev(true, "c", 1, 3, "rwm") // which os/exec needs for standard input and output
	if got := try(deny, null, dev(true, "c", 1, 5, "rw")); got != "null zero " {
		t.Errorf("null and zero allowed: %s could be read", got)
	}
	if got := try(deny, null, dev(true, "c", 1, -1, "rw"), dev(true, "c", 1, 7, "rw")); got != "null full zero " {
		t.Errorf("all of major 1 allowed by a second filter: %s could be read", got)
	}
}

func BenchmarkDeviceFilter(b *testing.B) {
	testenv.Check(b, testenv.Root, testenv.CgroupV2Mounted)
	tree, err := host.Cgroups()
	if err != nil {
		b.Fatal(err)
	}
	dir := filepath.Join(tree.Unified, "brig-test-bench-bpf")
	for b.Loop() {
		if err := makeDir(dir); err != nil {
			b.Fatal(err)
		}
		if err := filterDevices(dir, defaults().Devices); err != nil {
			b.Fatal(err)
		}
		if err := removeTree(dir); err != nil {
			b.Fatal(err)
		}
	}
}
