package validation

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"brig/internal/testenv"
)

var update = flag.Bool("update", false, "run the whole suite on all runtimes, rewrite differences.json and docs/validation.md")

const (
	listFile = "differences.json"
	docFile  = "../../docs/validation.md"
)

// difference is an assertion that brig-oci fails.
type difference struct {
	Program string `json:"program"`
	Case    string `json:"case"`
	// Times is how often it fails in one run of the program.
	Times int `json:"times"`
	// Runc and Crun are what these make of the same assertion: "fails", or "passes".
	Runc string `json:"runc"`
	Crun string `json:"crun"`
	// Sometimes: who wins a race in the program decides.
	Sometimes bool   `json:"sometimes,omitempty"`
	Reason    string `json:"reason"`
}

// list is differences.json.
type list struct {
	// Totals are what the last -update counted.
	Totals      map[string]total `json:"totals"`
	Differences []difference     `json:"differences"`
}

type total struct {
	Version string `json:"version,omitempty"`
	Passed  int    `json:"passed"`
	Failed  int    `json:"failed"`
	Skipped int    `json:"skipped"`
}

func readList(t *testing.T) *list {
	t.Helper()
	text, err := os.ReadFile(listFile)
	if err != nil {
		t.Fatal(err)
	}
	l := &list{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(l); err != nil {
		t.Fatalf("%s: %v", listFile, err)
	}
	for _, d := range l.Differences {
		if d.Reason == "" && !*update {
			t.Errorf("%s: %s: %s has no reason", listFile, d.Program, d.Case)
		}
	}
	return l
}

// TestSuite runs every program on brig-oci, and those that fail on the peers, and holds the list against it.
func TestSuite(t *testing.T) {
	want := readList(t)
	if testenv.Isolation() != "native" {
		guest(t, want)
		return
	}
	testenv.Check(t, testenv.Program("runc"), testenv.Program("crun"))
	s := newSuite(t)
	runtimes := s.runtimes()
	results := map[string][]result{runtimes[0].name: s.run(&runtimes[0], s.programs)}
	var failing []string
	for _, r := range results["brig-oci"] {
		if r.failures() > 0 || *update {
			failing = append(failing, r.program)
		}
	}
	for _, rt := range runtimes[1:] {
		results[rt.name] = s.run(&rt, failing)
	}
	if *update {
		rewrite(t, want, results)
	}
	compare(t, want, results)
	sum := count(results["brig-oci"])
	said := fmt.Sprintf("brig-oci passes %d assertions of the OCI validation suite and fails %d; %d programs\n", sum.Passed, sum.Failed, len(s.programs))
	t.Log(said)
	// go test shows nothing of a package that passes; make test shows this.
	if err := os.MkdirAll("../../build", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("../../build/validation.txt", []byte(said), 0o644); err != nil {
		t.Fatal(err)
	}
}

func count(results []result) (sum total) {
	for _, r := range results {
		sum.Passed += r.passed
		sum.Skipped += r.skipped
		sum.Failed += r.failures()
	}
	return sum
}

// compare holds the list against what came out.
func compare(t *testing.T, want *list, results map[string][]result) {
	t.Helper()
	listed := map[[2]string]*difference{}
	for i := range want.Differences {
		d := &want.Differences[i]
		listed[[2]string{d.Program, d.Case}] = d
	}
	for _, r := range results["brig-oci"] {
		failed := r.all()
		for _, name := range slices.Sorted(maps.Keys(failed)) {
			d := listed[[2]string{r.program, name}]
			switch {
			case d == nil:
				t.Errorf("%s: fails %d times, and is not in %s: %s\n%s", r.program, failed[name], listFile, name, r.words)
			case d.Times != failed[name] && !d.Sometimes:
				t.Errorf("%s: fails %d times, %s has %d: %s", r.program, failed[name], listFile, d.Times, name)
			}
		}
	}
	for _, d := range want.Differences {
		if fails(results["brig-oci"], &d) == "passes" && !d.Sometimes {
			t.Errorf("%s: passes, so its line in %s is out of date: %s", d.Program, listFile, d.Case)
			continue
		}
		for name, said := range map[string]string{"runc": d.Runc, "crun": d.Crun} {
			if got := fails(results[name], &d); got != said && got != "" && !d.Sometimes {
				t.Errorf("%s: %s %s, %s says %s: %s", d.Program, name, got, listFile, said, d.Case)
			}
		}
	}
}

// fails says what a runtime makes of an assertion. A program that ended early never came to it.
func fails(results []result, d *difference) string {
	i := slices.IndexFunc(results, func(r result) bool { return r.program == d.Program })
	switch {
	case i < 0:
		return ""
	case results[i].all()[d.Case] > 0:
		return "fails"
	case results[i].failures() > 0 && results[i].passed == 0:
		return "fails" // at another place
	}
	return "passes"
}

// rewrite makes the list anew. Reasons stay.
func rewrite(t *testing.T, l *list, results map[string][]result) {
	t.Helper()
	old := l.Differences
	l.Differences = nil
	for _, r := range results["brig-oci"] {
		failed := r.all()
		for _, name := range slices.Sorted(maps.Keys(failed)) {
			d := difference{Program: r.program, Case: name, Times: failed[name]}
			if i := slices.IndexFunc(old, func(o difference) bool { return o.Program == d.Program && o.Case == name }); i >= 0 {
				d.Reason, d.Sometimes = old[i].Reason, old[i].Sometimes
			} else {
				t.Errorf("%s: give a reason for: %s\n%s", d.Program, name, r.words)
			}
			l.Differences = append(l.Differences, d)
		}
	}
	for _, o := range old {
		if o.Sometimes && fails(results["brig-oci"], &o) == "passes" {
			l.Differences = append(l.Differences, o)
		}
	}
	for i := range l.Differences {
		d := &l.Differences[i]
		d.Runc, d.Crun = fails(results["runc"], d), fails(results["crun"], d)
	}
	slices.SortStableFunc(l.Differences, func(a, b difference) int { return strings.Compare(a.Program, b.Program) })
	for name, r := range results {
		sum := count(r)
		if name != "brig-oci" {
			sum.Version = version(name)
		}
		l.Totals[name] = sum
	}
	write(t, l)
}

// write writes the list, and the page from it.
func write(t *testing.T, l *list) {
	t.Helper()
	text := &bytes.Buffer{}
	e := json.NewEncoder(text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(l)
	if err == nil {
		err = os.WriteFile(listFile, text.Bytes(), 0o644)
	}
	if err == nil {
		err = os.WriteFile(docFile, document(l), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func version(program string) string {
	out, _ := exec.Command(program, "--version").Output()
	first, _, _ := strings.Cut(string(out), "\n")
	fields := strings.Fields(first)
	if len(fields) == 0 {
		return ""
	}
	return fields[len(fields)-1]
}

// document is docs/validation.md.
func document(l *list) []byte {
	var b bytes.Buffer
	b.WriteString(`# The OCI validation suite

Written by ` + "`go test ./test/validation -update`" + `. The suite is that of opencontainers/runtime-tools, pinned in
[test/validation/suite](../test/validation/suite/go.mod); a test runs it on every change and fails when an assertion fails that is
not below, and when one passes that is.

| runtime | passes | fails |
|---|---|---|
`)
	for _, name := range []string{"brig-oci", "brig-oci, gvisor", "runc", "crun"} {
		s := l.Totals[name]
		fmt.Fprintf(&b, "| %s | %d | %d |\n", strings.TrimSpace(name+" "+s.Version), s.Passed, s.Failed)
	}
	b.WriteString(`
A program that stops early makes fewer assertions. The machine has no CAP_SYS_RESOURCE, no AppArmor, no SELinux, cgroup version 1
without hugetlb, net_cls and net_prio, and no scheduler of disks with weights.

## Under gVisor

The row with gvisor is of brig-oci's handler for it (` + "`BRIG_TEST_ISOLATION=gvisor`" + `). What fails there and not natively, and the other way
round, is in [differences-gvisor.md](differences-gvisor.md), with reasons; ` + "`make test-isolation`" + ` holds it. All else passes, masked and read-only paths
and every program's rights, limits and devices among it; five programs that ask for what is refused run nothing.

The suite's program in the container compares its mounts with /proc/self/mountinfo, and panics when it does not find the first one. gVisor says "none"
there for what a mount is from, names the file system of /dev "dev", and mounts in an order of its own. So every program but "default", which fails
by that, finds a config.json in the container that says the same, and compares the rest: that each mount is there, with its type.

## What brig-oci fails

| program | assertion | times | runc | crun | reason |
|---|---|---|---|---|---|
`)
	for _, d := range l.Differences {
		times := fmt.Sprint(d.Times)
		if d.Sometimes {
			times = "sometimes"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", d.Program, cell(d.Case), times, d.Runc, d.Crun, cell(d.Reason))
	}
	return b.Bytes()
}

func cell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

// TestDocument holds the page against the list.
func TestDocument(t *testing.T) {
	have, err := os.ReadFile(docFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, document(readList(t))) {
		t.Errorf("%s is not what differences.json says: go test ./test/validation -update", docFile)
	}
}
