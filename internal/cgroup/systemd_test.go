package cgroup

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestSystemdUnitNames(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]unit{
		"":                            {"", "brig", "box"},
		"system.slice:brig:abc":       {"system.slice", "brig", "abc"},
		"kubepods-pod1.slice:cri:abc": {"kubepods-pod1.slice", "cri", "abc"},
		"::abc":                       {"", "", "abc"},
		":x:a.slice":                  {"", "x", "a.slice"},
	} {
		u, err := parseUnit(Options{Path: path, ID: "box"})
		if err != nil || u != want {
			t.Errorf("%q: %+v, %v", path, u, err)
		}
		if got := unitFromState(u.String()); *got != u {
			t.Errorf("%q comes back from the state file as %+v", path, got)
		}
	}
	for _, path := range []string{"/a/b", "a:b", "a:b:c:d", "system.slice:x:", "a.slice:b:../c", "nonsense:b:c", "-.slice.slice:a:b"} {
		if u, err := parseUnit(Options{Path: path, ID: "box"}); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %+v, %v", path, u, err)
		}
	}
}

// The placeholder must be there, must not run, and must be gone after Settled.
func TestPlaceholderNeverRuns(t *testing.T) {
	t.Parallel()
	pid, err := startPlaceholder()
	if err != nil {
		t.Fatal(err)
	}
	c := &Cgroup{placeholder: pid}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	state := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[0]
	if state != "T" && state != "t" {
		t.Errorf("the placeholder is in state %s, want stopped", state)
	}
	for range 2 {
		if err := c.Settled(); err != nil {
			t.Fatal(err)
		}
	}
	if exists("/proc/" + strconv.Itoa(pid)) {
		t.Error("the placeholder is left")
	}
}
