package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// cell is what a test proved of a layer in a set-up.
type cell struct{ outcome, test, how string }

// table is by layer and then by set-up.
type table map[string]map[string]cell

// add takes a line of testenv.Layer, and says whether it is one.
func (t table) add(setup, line string) bool {
	f := strings.Split(line, "\t")
	if len(f) != 5 || f[0] != "LAYER" {
		return false
	}
	if t[f[1]] == nil {
		t[f[1]] = map[string]cell{}
	}
	t[f[1]][setup] = cell{outcome: f[2], test: f[3], how: f[4]}
	return true
}

func (t table) layers() []string {
	var out []string
	for l := range t {
		out = append(out, l)
	}
	slices.Sort(out)
	return out
}

// print shows the table as a terminal likes it.
func (t table) print(w io.Writer) {
	if len(t) == 0 {
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "LAYER\tSET-UP\tOUTCOME\tHOW")
	for _, layer := range t.layers() {
		for _, s := range setups {
			if c, ok := t[layer][s.name]; ok {
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", layer, s.name, c.outcome, c.how)
			}
		}
	}
	_ = tw.Flush()
}

// markdown is the page in the docs.
func (t table) markdown() []byte {
	var b bytes.Buffer
	b.WriteString("# What was proved on which kernel\n\n" +
		"Made by `make test-vm-doc` from what the tests said in virtual machines; CI boots them again and compares. *Enforced*: an attack\n" +
		"failed with the layer and succeeded without it, in the same machine. *Refused*: the kernel has no such thing, and Brig said so\n" +
		"before anything was started. A layer without a row was proved on the machine that runs the other tests, or nowhere.\n\n" +
		"| set-up | kernel | what |\n|---|---|---|\n")
	for _, s := range setups {
		fmt.Fprintf(&b, "| %s | Debian's %s | %s |\n", s.name, s.kernel, s.what)
	}
	b.WriteString("\n| layer | set-up | outcome | how it was proved |\n|---|---|---|---|\n")
	for _, layer := range t.layers() {
		for _, s := range setups {
			if c, ok := t[layer][s.name]; ok {
				fmt.Fprintf(&b, "| %s | %s | %s | %s (`%s`) |\n", layer, s.name, c.outcome, strings.ReplaceAll(c.how, "|", "\\|"), c.test)
			}
		}
	}
	return b.Bytes()
}

// compare holds the table against the docs, or writes it there.
func (t table) compare(o *options) error {
	switch {
	case o.table == "":
		return nil
	case o.write:
		return os.WriteFile(o.table, t.markdown(), 0o644) //nolint:gosec // a page of the docs
	}
	have, err := os.ReadFile(o.table)
	if err != nil {
		return err
	}
	if want, got := rows(have), rows(t.markdown()); !slices.Equal(want, got) {
		return fmt.Errorf("what was proved is not what %s says: make test-vm-doc, and look at the difference\nonly there:\n  %s\nonly here:\n  %s",
			o.table, strings.Join(without(want, got), "\n  "), strings.Join(without(got, want), "\n  "))
	}
	return nil
}

// rows are the layers, set-ups and outcomes of a page. How it was proved may have a number that was measured.
func rows(page []byte) []string {
	var out []string
	for line := range strings.Lines(string(page)) {
		if f := strings.Split(line, " | "); len(f) >= 4 {
			out = append(out, strings.Join(f[:3], " | "))
		}
	}
	return out
}

func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(other, s) })
}
