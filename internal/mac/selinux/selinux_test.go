package selinux

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// No two sandboxes have one pair, and a pair has two different categories in the order that the kernel prints.
func TestPairsAreUnique(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for n := range 70000 { // more than there are ranges of host ids
		l, err := ForPair(Local, n)
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
		if l, err := ForPair(Local, n); err != nil || !strings.HasSuffix(l.Process, ":"+want) {
			t.Errorf("%d: %+v, %v; want %s", n, l, err, want)
		}
	}
	for _, n := range []int{-1, Pairs} {
		if _, err := ForPair(Local, n); err == nil {
			t.Errorf("%d was given a pair", n)
		}
	}
}

func TestFileLabel(t *testing.T) {
	t.Parallel()
	for process, want := range map[string]string{
		"system_u:system_r:brig_t:s0:c1,c2":      "system_u:object_r:brig_file_t:s0:c1,c2",
		"system_u:system_r:brig_net_t:s0:c1,c2":  "system_u:object_r:brig_file_t:s0:c1,c2",
		"system_u:system_r:container_t:s0:c1,c2": "", "system_u:system_r:brig_t": "", "": "",
	} {
		if got, ok := FileLabel(process); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t", process, got, ok)
		}
	}
}

// The module is loaded beside others, so it declares no name that might be theirs; and the types that the package names are there.
func TestModuleDeclaresItsOwnNames(t *testing.T) {
	t.Parallel()
	own := declared(t, string(Module))
	for _, name := range own {
		if !strings.HasPrefix(name, "brig_") {
			t.Errorf("the module declares %s", name)
		}
	}
	for _, want := range []string{string(Local), string(Network), strings.Split(Image, ":")[2], strings.Split(Shared, ":")[2], "brig_file_t"} {
		if !slices.Contains(own, want) {
			t.Errorf("the module has no %s", want)
		}
	}
	other, err := os.ReadFile("../../../test/vm/container.cil")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range declared(t, string(other)) {
		if slices.Contains(own, name) {
			t.Errorf("%s is container-selinux's", name)
		}
	}
}

// declared are the names that a module in CIL brings.
func declared(t *testing.T, module string) (names []string) {
	t.Helper()
	statement := regexp.MustCompile(`(?m)\((?:type|typealias|typeattribute|role|roleattribute|user|boolean|tunable|block|macro|class|common|optional|sensitivity|category) ([^\s()]+)`)
	for _, m := range statement.FindAllStringSubmatch(module, -1) {
		names = append(names, m[1])
	}
	if len(names) == 0 {
		t.Fatal("no declaration was found")
	}
	return names
}
