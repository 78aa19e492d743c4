package main

import (
	"strings"
	"testing"

	"brig/internal/testenv"
)

const run1 = `{"Action":"output","Test":"TestA","Output":"DIFFERENCE\tgvisor\tTestA\trefused\tan error\tno such thing\n"}
{"Action":"pass","Test":"TestA"}
{"Action":"output","Test":"TestB/x","Output":"words\n"}
{"Action":"fail","Test":"TestB/x"}
{"Action":"fail","Test":"TestB"}
{"Action":"skip","Test":"TestC"}
{"Action":"fail"}
`

func TestJudge(t *testing.T) {
	t.Parallel()
	other, err := readReport(strings.NewReader(run1))
	if err != nil {
		t.Fatal(err)
	}
	native := &report{Tests: map[string]string{"TestA": "pass", "TestB": "pass", "TestB/x": "pass", "TestC": "pass", "TestD": "fail"}}
	err = judge(native, other, map[string]testenv.Difference{"TestA": {}, "TestE": {}})
	if err == nil {
		t.Fatal("all is well")
	}
	for _, want := range []string{"TestB/x fails, and", "words", "TestC passes under native, is skipped", "TestD fails under native", "TestE is in the list"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "TestA") || strings.Contains(err.Error(), "TestB fails") {
		t.Error(err)
	}
	delete(native.Tests, "TestD")
	passing := &report{Tests: map[string]string{"TestA": "pass"}}
	if err := judge(passing, passing, map[string]testenv.Difference{"TestA": {}}); err == nil || !strings.Contains(err.Error(), "nothing in the test asks") {
		t.Error(err)
	}
	if err := judge(passing, other, nil); err == nil || strings.Contains(err.Error(), "TestA") {
		t.Error(err)
	}
}

// What the machine lacks it lacks under native, too.
func TestPassed(t *testing.T) {
	t.Parallel()
	r := &report{
		Tests: map[string]string{"TestA": "pass", "TestB": "skip", "TestC": "skip"},
		words: map[string][]string{"TestB": {"x_test.go:1: ", testenv.SkipMark + "swap: none"}, "TestC": {"SKIPPED"}},
	}
	err := judge(r.passed(), r, nil)
	if err == nil || !strings.Contains(err.Error(), "TestC") || strings.Contains(err.Error(), "TestB") {
		t.Error(err)
	}
}

func TestCompareShows(t *testing.T) {
	t.Parallel()
	a := markdown("gvisor", []result{{&suites[0], &report{Differences: []said{{"TestScript/x", testenv.Difference{Outcome: "differs", What: "a|b", Reason: "c"}}}}}})
	b := markdown("gvisor", []result{{&suites[0], &report{}}})
	if got := without(a, b); len(got) != 3 || !strings.Contains(got[2], `| x | differs | a\|b | c |`) {
		t.Errorf("%q", got)
	}
}
