package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"brig/internal/testenv"
)

// report is one run of a suite.
type report struct {
	// Tests are pass, fail or skip, by name.
	Tests map[string]string `json:"tests"`
	// Differences are what the tests said, in the order of names.
	Differences []said `json:"differences,omitempty"`

	words map[string][]string // what each test printed
}

// said is a difference, and who said it.
type said struct {
	Test string `json:"test"`
	testenv.Difference
}

// event is a line of go test -json (go doc test2json).
type event struct{ Action, Test, Output string }

func readReport(from io.Reader) (*report, error) {
	r := &report{Tests: map[string]string{}, words: map[string][]string{}}
	for d := json.NewDecoder(from); ; {
		var e event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read what go test says: %w", err)
		}
		switch e.Action {
		case "pass", "fail", "skip":
			if e.Test != "" {
				r.Tests[e.Test] = e.Action
			}
		case "output", "build-output":
			if _, test, d, ok := testenv.Said(e.Output); ok {
				r.Differences = append(r.Differences, said{test, d})
				continue
			}
			r.words[e.Test] = append(r.words[e.Test], e.Output)
		}
	}
	slices.SortStableFunc(r.Differences, func(a, b said) int { return strings.Compare(a.Test, b.Test) })
	r.Differences = slices.Compact(r.Differences) // several cases may be one entry's
	return r, nil
}

func (r *report) save(file string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644) //nolint:gosec // no secret
}

func (r *report) counts() string {
	n := map[string]int{}
	for _, outcome := range r.Tests {
		n[outcome]++
	}
	return fmt.Sprintf("%d pass, %d fail, %d are skipped, %d differences", n["pass"], n["fail"], n["skip"], len(r.Differences))
}

// failures are the tests that failed, without those that failed for a part of theirs.
func (r *report) failures() (list []string) {
	for _, name := range slices.Sorted(maps.Keys(r.Tests)) {
		part := func(other string) bool { return strings.HasPrefix(other, name+"/") && r.Tests[other] == "fail" }
		if r.Tests[name] == "fail" && !slices.ContainsFunc(slices.Collect(maps.Keys(r.Tests)), part) {
			list = append(list, name)
		}
	}
	return list
}

// passed is a report in which every test of r has passed, but for those that the machine lacks something for.
func (r *report) passed() *report {
	p := &report{Tests: map[string]string{}}
	for name := range r.Tests {
		p.Tests[name] = "pass"
		if r.Tests[name] == "skip" && strings.Contains(strings.Join(r.words[name], ""), testenv.SkipMark) {
			p.Tests[name] = "skip"
		}
	}
	return p
}

// judge finds what is otherwise in the second run and was not said, and what a list says and no test held.
func judge(native, other *report, list map[string]testenv.Difference) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for _, name := range native.failures() {
		fault("%s fails under native:\n%s", name, strings.Join(native.words[name], ""))
	}
	for _, name := range other.failures() {
		fault("%s fails, and names no difference:\n%s", name, strings.Join(other.words[name], ""))
	}
	for _, name := range slices.Sorted(maps.Keys(native.Tests)) {
		says := slices.ContainsFunc(other.Differences, func(d said) bool { return d.Test == name })
		if outcome := other.Tests[name]; native.Tests[name] == "pass" && outcome != "pass" && outcome != "fail" && !says {
			fault("%s passes under native, is skipped under the other isolation, and names no difference", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(list)) {
		if outcome := other.Tests[name]; outcome == "" {
			fault("%s is in the list of differences, and there is no such test", name)
		} else if outcome == "pass" && !slices.ContainsFunc(other.Differences, func(d said) bool { return d.Test == name }) {
			fault("%s is in the list of differences, and nothing in the test asks for that", name)
		}
	}
	return errors.Join(faults...)
}
