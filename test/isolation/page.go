package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"brig/internal/testenv"
)

// markdown is the page in the docs.
func markdown(isolation string, results []result) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# What is otherwise under --isolation %s\n\n"+
		"Made by `make test-isolation-doc`: the suites below pass under native isolation and under this one, but for the cases listed, each of which\n"+
		"holds what stands here instead. `make test-isolation` runs both again and compares, as CI does: a case that is otherwise and not listed fails, and one that is listed\n"+
		"and like native's, too.\n\n| outcome | is |\n|---|---|\n", isolation)
	for _, name := range slices.Sorted(maps.Keys(testenv.Outcomes)) {
		fmt.Fprintf(&b, "| %s | %s |\n", name, testenv.Outcomes[name])
	}
	for _, r := range results {
		fmt.Fprintf(&b, "\n## test/%s: %s\n\n", r.suite.name, r.suite.what)
		if len(r.Differences) == 0 {
			b.WriteString("Nothing is otherwise.\n")
			continue
		}
		b.WriteString("| case | outcome | what is seen | why |\n|---|---|---|---|\n")
		for _, d := range r.Differences {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", strings.ReplaceAll(d.Test, "TestScript/", ""), d.Outcome, cellText(d.What), cellText(d.Reason))
		}
	}
	return b.Bytes()
}

func cellText(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

// compare holds the page against the docs, or writes it there.
func compare(o *options, page []byte) error {
	switch {
	case o.page == "":
		return nil
	case o.write:
		return os.WriteFile(o.page, page, 0o644) //nolint:gosec // a page of the docs
	}
	have, err := os.ReadFile(o.page)
	if err != nil {
		return err
	}
	if bytes.Equal(have, page) {
		return nil
	}
	return fmt.Errorf("what is otherwise is not what %s says: make test-isolation-doc, and look at the difference\nonly there:\n  %s\nonly here:\n  %s",
		o.page, strings.Join(without(have, page), "\n  "), strings.Join(without(page, have), "\n  "))
}

// without gives the lines of a text that another one does not have.
func without(text, other []byte) []string {
	lines := func(b []byte) []string { return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") }
	return slices.DeleteFunc(lines(text), func(l string) bool { return slices.Contains(lines(other), l) })
}
