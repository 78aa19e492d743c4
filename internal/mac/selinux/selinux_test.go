package selinux

import (
	"strings"
	"testing"
)

// No two sandboxes have one pair, and a pair has two different categories in the order that the kernel prints.
func TestPairsAreUnique(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for n := range 70000 { // more than there are ranges of host ids
		l, err := ForPair(n)
		if err != nil {
			t.Fatal(err)
		}
		_, level, _ := strings.Cut(l.Process, "brig_t:")
		if before, ok := seen[level]; ok {
			t.Fatalf("%d and %d have %s", before, n, level)
		}
		seen[level] = n
		if !strings.HasSuffix(l.File, level) {
			t.Fatalf("%+v", l)
		}
	}
	for n, want := range map[int]string{0: "s0:c0,c1", 1: "s0:c0,c2", 2: "s0:c1,c2", Pairs - 1: "s0:c1022,c1023"} {
		if l, err := ForPair(n); err != nil || !strings.HasSuffix(l.Process, ":"+want) {
			t.Errorf("%d: %+v, %v; want %s", n, l, err, want)
		}
	}
	for _, n := range []int{-1, Pairs} {
		if _, err := ForPair(n); err == nil {
			t.Errorf("%d was given a pair", n)
		}
	}
}
