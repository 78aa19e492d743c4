package resctrl

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A folder stands for the file system: what the kernel would put into a new group, writing makes.
func class(t *testing.T, root, name, schemata string) {
	t.Helper()
	err := os.MkdirAll(filepath.Join(root, name, "mon_groups"), 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(root, name, "schemata"), []byte(schemata), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, elements ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// TestOwnClass: without a closID the class has the container's name, and goes with it.
func TestOwnClass(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := &specs.LinuxIntelRdt{Schemata: []string{"L2:0=f", "L3:1=1"}, L3CacheSchema: "L3:0=7f0", MemBwSchema: "MB:0=20"}
	g, err := Plan(root, "box", r)
	if err != nil || !g.Own || g.Dir != filepath.Join(root, "box") {
		t.Fatalf("%+v, %v", g, err)
	}
	if err := g.Make(r); err != nil {
		t.Fatal(err)
	}
	if got := read(t, g.Dir, "schemata"); got != "L3:0=7f0\nMB:0=20\nL2:0=f\nL3:1=1\n" {
		t.Errorf("%q: l3CacheSchema comes first, then memBwSchema, schemata last", got)
	}
	if err := g.Attach(42); err != nil || read(t, g.Dir, "tasks") != "42" {
		t.Error(err)
	}
	// rmdir takes the files of a resctrl group away, and none of an ordinary folder's: that Remove asks for it shows.
	if err := g.Remove(); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("%v: not removed by rmdir", err)
	}
	if err := (&Group{Dir: filepath.Join(root, "gone"), Own: true}).Remove(); err != nil {
		t.Error(err)
	}
}

// TestNamedClass: one that exists is taken as it is, or refused, and never removed.
func TestNamedClass(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	class(t, root, "gold", "    L3:0=007f0;1=0001f\n    MB:0= 20;1= 70\n")
	for _, c := range []struct {
		r    specs.LinuxIntelRdt
		want string
	}{
		{specs.LinuxIntelRdt{ClosID: "gold"}, ""},
		{specs.LinuxIntelRdt{ClosID: "gold", Schemata: []string{"L3:0=7F0;1=1f", "MB:1=70"}}, ""},
		{specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=7f1"}, `L3:0 is "7f0", and "7f1" is asked for`},
		{specs.LinuxIntelRdt{ClosID: "gold", MemBwSchema: "MB:2=10"}, `MB:2 is "", and "10" is asked for`},
		{specs.LinuxIntelRdt{ClosID: "none"}, "does not exist"},
		{specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true}, ""},
		{specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true}, "make the monitoring group"}, // another container's of that name
	} {
		g, err := Plan(root, "box", &c.r)
		if err != nil || g.Own {
			t.Fatalf("%+v, %v", g, err)
		}
		if err = g.Make(&c.r); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.r, err, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "none")); err == nil {
		t.Error("a refused class was made")
	}
	g := &Group{Dir: filepath.Join(root, "gold"), Monitor: filepath.Join(root, "gold/mon_groups/box")}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(g.Monitor); err == nil {
		t.Error("the monitoring group is left")
	}
	if read(t, g.Dir, "schemata") == "" {
		t.Error("the class is gone")
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	for _, r := range []specs.LinuxIntelRdt{
		{ClosID: "."}, {ClosID: ".."}, {ClosID: "a/b"}, {ClosID: "../x"}, {ClosID: "a\n"}, {Schemata: []string{"L3:0=f\nL2:0=f"}}, {MemBwSchema: "L3:0=f"}, {L3CacheSchema: "L3:0=f\n"},
	} {
		if g, err := Plan("/sys/fs/resctrl", "box", &r); err == nil {
			t.Errorf("%+v: %+v", r, g)
		}
	}
	if g, err := Plan("/sys/fs/resctrl", "box", &specs.LinuxIntelRdt{ClosID: "/"}); err != nil || g.Dir != "/sys/fs/resctrl" || g.Own {
		t.Errorf("%+v, %v", g, err)
	}
}
