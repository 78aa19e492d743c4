package script

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/rogpeppe/go-internal/testscript"
)

// differs OUTCOME WHAT REASON names what is otherwise under an isolation in the lines below it, up to the next empty line or comment. It
// has that isolation for its condition, as those lines have.
func differs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: [ISOLATION] differs OUTCOME WHAT REASON")
	}
	if _, ok := testenv.Outcomes[args[0]]; !ok {
		ts.Fatalf("differs: no outcome %q", args[0])
	}
	testenv.Say(os.Stdout, "TestScript/"+ts.Name(), testenv.Difference{Outcome: args[0], What: args[1], Reason: args[2]})
}

// TestDiffersIsSaid holds that no script goes another way under an isolation without saying what is otherwise.
func TestDiffersIsSaid(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range unsaid(string(text)) {
			t.Errorf("%s:%s", file, fault)
		}
	}
}

// unsaid gives the lines with the condition of an isolation that stand below no `differs`.
func unsaid(text string) (faults []string) {
	said := false
	n := 0
	for line := range strings.Lines(text) {
		n++
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "-- "):
			return faults // the files
		case line == "" || strings.HasPrefix(line, "#"):
			said = false
		case strings.HasPrefix(line, "[gvisor] differs "):
			said = true
		case strings.HasPrefix(line, "[!gvisor] stop "): // a script of that isolation's own
		case strings.Contains(line, "gvisor]") && !said:
			faults = append(faults, fmt.Sprintf("%d: say what is otherwise with `[gvisor] differs`: %s", n, line))
		}
	}
	return faults
}

func TestUnsaid(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"exec brig run": 0,
		"[gvisor] differs refused a b\n[gvisor] exit 125 brig run\n[gvisor] stderr x\nexec y\n[!gvisor] exec z": 0,
		"[gvisor] exit 125 brig run\n[gvisor] differs refused a b":                                              1,
		"[gvisor] differs refused a b\n\n[!gvisor] exec z\n[root] [gvisor] exec y":                              2,
		"[!gvisor] stop 'x'\n-- file --\n[gvisor] exec":                                                         0,
	} {
		if got := unsaid(text); len(got) != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
