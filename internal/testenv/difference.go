package testenv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
)

// Difference is what is otherwise in one case of a suite under another isolation than native.
//
// A suite names those of its cases in testdata/ISOLATION.json, by the test's name; a script has the command `differs` for it. A case
// that is named holds what the entry says, so that one that is not otherwise any more fails; a case that is otherwise and not named fails
// as it stands. test/isolation runs the suites, and writes the page of the docs from what they said.
type Difference struct {
	// Outcome is one of Outcomes; a suite with verdicts of its own has these.
	Outcome string `json:"outcome"`
	// What is seen in place of native's: one line for the docs.
	What string `json:"what"`
	// Reason says why it is so.
	Reason string `json:"reason"`
}

// Outcomes are the words for what becomes of a case.
var Outcomes = map[string]string{
	"refused": "Brig says that this isolation cannot do it, and starts nothing",
	"differs": "it runs, and something in it is another than native's",
	"absent":  "what the case is about is not there",
}

// Differences are those of the suite whose folder is the current one; none for native.
var Differences = sync.OnceValues(func() (map[string]Difference, error) {
	if Isolation() == "native" {
		return nil, nil
	}
	return ReadDifferences("testdata/" + Isolation() + ".json")
})

// ReadDifferences reads a suite's list. A suite may have none.
func ReadDifferences(file string) (map[string]Difference, error) {
	text, err := os.ReadFile(file) //nolint:gosec // a file of the tree
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := map[string]Difference{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for name, d := range list {
		if err := d.check(); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, name, err)
		}
	}
	return list, nil
}

func (d Difference) check() error {
	if d.Outcome == "" || d.What == "" || d.Reason == "" {
		return errors.New("a difference has an outcome, what is seen, and a reason")
	}
	if strings.ContainsAny(d.Outcome+d.What+d.Reason, "\n\t") {
		return errors.New("a difference is told in lines without tabs")
	}
	return nil
}

// Differs gives what is otherwise in this test under the isolation that the suite is run for, if its list names it. The test has to hold
// that then, in place of what it holds under native.
func Differs(t testing.TB) (Difference, bool) {
	t.Helper()
	list, err := Differences()
	if err != nil {
		t.Fatal(err)
	}
	d, ok := list[t.Name()]
	if ok {
		t.Cleanup(func() {
			if !t.Failed() {
				Say(os.Stdout, t.Name(), d)
			}
		})
	}
	return d, ok
}

// EndRefused ends a test that is listed as refused where Brig has refused: there is nothing to go on with. how is what Brig said, and the call
// is for every answer that may be a refusal.
func EndRefused(t testing.TB, how string) {
	t.Helper()
	list, err := Differences()
	if err != nil {
		t.Fatal(err)
	}
	if list[t.Name()].Outcome == "refused" && strings.Contains(how, "isolation "+Isolation()+" cannot do it") {
		Differs(t)
		t.Skip("refused, as listed: " + how)
	}
}

// Outcome holds what became of a case against what has to become of it: want under native, and under another isolation what the
// suite's list says of the test, or want.
func Outcome(t testing.TB, want, got, how string) {
	t.Helper()
	d, listed := Differs(t)
	switch {
	case listed && d.Outcome == want:
		t.Errorf("testdata/%s.json: %s: %q is native's outcome, too", Isolation(), t.Name(), want)
	case listed && got != d.Outcome:
		t.Errorf("%s, and testdata/%s.json says %s: %s", got, Isolation(), d.Outcome, how)
	case !listed && got != want:
		t.Errorf("%s, not %s: %s", got, want, how)
	}
}

// Say tells test/isolation of a difference that was held.
func Say(w io.Writer, test string, d Difference) {
	fmt.Fprintf(w, "\nDIFFERENCE\t%s\t%s\t%s\t%s\t%s\n", Isolation(), test, d.Outcome, d.What, d.Reason)
}

// Said reads such a line.
func Said(line string) (isolation, test string, d Difference, ok bool) {
	f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
	if len(f) != 6 || f[0] != "DIFFERENCE" {
		return "", "", d, false
	}
	return f[1], f[2], Difference{f[3], f[4], f[5]}, true
}
