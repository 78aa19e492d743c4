package gvisor

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func pids(n int64) *specs.LinuxResources {
	return &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &n}}
}

// The guest holds what was asked for, never more than it had; the group around its kernel has room for that, and an end.
func TestProcesses(t *testing.T) {
	t.Parallel()
	nproc := func(soft, hard uint64) []specs.POSIXRlimit {
		return []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 5, Hard: 5}, {Type: "RLIMIT_NPROC", Soft: soft, Hard: hard}}
	}
	for _, c := range []struct {
		what       string
		asked      *specs.LinuxResources
		had        []specs.POSIXRlimit
		soft, hard uint64
	}{
		{"nothing", nil, nil, 0, 0},
		{"none", pids(-1), nil, 0, 0},
		{"zero is none", pids(0), nil, 0, 0},
		{"a limit", pids(7), nil, 7, 7},
		{"a limit, and a higher one", pids(7), nproc(9, 10), 7, 7},
		{"a limit, and a lower one", pids(7), nproc(3, 10), 3, 7},
		{"none, and one", nil, nproc(3, 10), 3, 10},
		{"the largest", pids(1 << 62), nil, 1 << 62, 1 << 62},
	} {
		guest := &specs.Spec{Process: &specs.Process{Rlimits: c.had}}
		limitProcesses(guest, c.asked)
		var soft, hard uint64
		for _, l := range guest.Process.Rlimits {
			if l.Type == "RLIMIT_NPROC" {
				soft, hard = l.Soft, l.Hard
			}
		}
		if soft != c.soft || hard != c.hard {
			t.Errorf("%s: the guest has %d, %d", c.what, soft, hard)
		}
		group := Resources(c.asked)
		if processes(c.asked) == 0 {
			if group != c.asked {
				t.Errorf("%s: the group has %+v", c.what, group)
			}
			continue
		}
		if n := *group.Pids.Limit; n > mostPids || n < min(processes(c.asked), mostPids) {
			t.Errorf("%s: the group has %d", c.what, n)
		}
	}
}

func TestCheckUpdate(t *testing.T) {
	t.Parallel()
	if err := CheckUpdate(pids(5), pids(5)); err != nil {
		t.Error(err)
	}
	if err := CheckUpdate(pids(5), &specs.LinuxResources{}); err != nil {
		t.Error(err)
	}
	for _, changed := range []*specs.LinuxResources{pids(4), pids(6), pids(-1)} {
		if err := CheckUpdate(pids(5), changed); err == nil {
			t.Errorf("%d", *changed.Pids.Limit)
		}
	}
}
