package engine

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"
)

// names of what is another's at each run, which no list can have.
var passing = regexp.MustCompile(`/tmp/Test[^/ ]*/\d+|/run/brig-[a-z]+-\d+|brig-(containerd|docker|cri|podman)-\d+|[0-9a-f]{64}|/proc/\d+`)

// hold is one check of a test: what was asked of an engine, whether it went as it has to, and how it went. Under another isolation than
// native a check may be in the suite's list of differences, by a name made of what was asked; it is a test of its own then.
func hold(t *testing.T, ok bool, what, how string) bool {
	t.Helper()
	if testenv.Isolation() == "native" {
		if !ok {
			t.Errorf("%s: %s", what, how)
		}
		return ok
	}
	name := checkName(what)
	if ok && !listed(t, what) {
		return true
	}
	return t.Run(name, func(t *testing.T) {
		d, named := testenv.Differs(t)
		switch {
		case !named:
			t.Errorf("%s: %s", what, how)
		case ok:
			t.Errorf("testdata/%s.json says %s, and it is as under native: %s", testenv.Isolation(), d.Outcome, what)
		case d.Outcome == "refused" && !strings.Contains(how, "isolation "+testenv.Isolation()+" cannot do it"):
			t.Errorf("it is not refused: %s: %s", what, how)
		}
	})
}

// listed tells whether a check is in the list of differences.
func listed(t *testing.T, what string) bool {
	t.Helper()
	list, err := testenv.Differences()
	if err != nil {
		t.Fatal(err)
	}
	_, ok := list[t.Name()+"/"+checkName(what)]
	return ok
}

func checkName(what string) string {
	name := passing.ReplaceAllString(what, "X")
	name = strings.Trim(regexp.MustCompile(`[^A-Za-z0-9.:=,-]+`).ReplaceAllString(name, "_"), "_")
	return name[:min(len(name), 90)]
}

// waiting is how long a check that repeats waits: not long for what is otherwise.
func waiting(t *testing.T, what string) time.Duration {
	t.Helper()
	if listed(t, what) {
		return 2 * time.Second
	}
	return patience
}

// refused ends a test at a check that is listed as refused: there is nothing to go on with. Whoever runs it recovers (goOn).
type refused struct{}

// goOn is deferred by what runs a test that may end so.
func goOn() {
	if r := recover(); r != nil && r != any(refused{}) {
		panic(r)
	}
}
