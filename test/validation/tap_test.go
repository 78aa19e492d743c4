package validation

import (
	"regexp"
	"strings"
	"testing"
)

// result is what one program has said.
type result struct {
	program string
	passed  int
	skipped int
	failed  map[string]int // description to how often it failed
	failure string         // the program itself failed
	words   string         // its standard error
}

// ends is the assertion that every program makes without saying so.
const ends = "(the program ends well)"

var line = regexp.MustCompile(`^(not )?ok\b *\d*(?: - )?(.*)$`)

// parse reads the Test Anything Protocol.
func parse(program, tap string) result {
	r := result{program: program, failed: map[string]int{}}
	for l := range strings.Lines(tap) {
		m := line.FindStringSubmatch(strings.TrimRight(l, "\n"))
		if m == nil {
			continue
		}
		text, directive, _ := strings.Cut(m[2], "#")
		directive = strings.ToUpper(strings.TrimSpace(directive))
		switch {
		case strings.HasPrefix(directive, "SKIP"), strings.HasPrefix(directive, "TODO"):
			r.skipped++
		case m[1] == "":
			r.passed++
		default:
			r.failed[strings.TrimSpace(text)]++
		}
	}
	return r
}

// all are the failures, with the program's own.
func (r *result) all() map[string]int {
	all := map[string]int{}
	for k, v := range r.failed {
		all[k] = v
	}
	if r.failure != "" {
		all[ends]++
	}
	return all
}

func (r *result) failures() (n int) {
	for _, v := range r.all() {
		n += v
	}
	return n
}

func TestParse(t *testing.T) {
	r := parse("p", "TAP version 13\nok 1 - one\nnot ok 2 - two\n  ---\n  ok: no\n  ...\nnot ok 3 - two\nok 4 # SKIP three\nnot ok 5 # TODO four\nok 6\n1..6\n")
	if r.passed != 2 || r.skipped != 2 || len(r.failed) != 1 || r.failed["two"] != 2 {
		t.Errorf("%+v", r)
	}
}
