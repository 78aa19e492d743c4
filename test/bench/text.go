package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
)

// print writes the tables for a person at a terminal.
func (r *report) print(w io.Writer) {
	for _, g := range r.grids() {
		if len(g.rows) == 0 {
			continue
		}
		t := g.writer()
		t.SetTitle(g.title)
		t.SetStyle(table.StyleLight)
		fmt.Fprintf(w, "%s\n\n", t.Render())
	}
	fmt.Fprintf(w, "load before %s, after %s; %.0f%% of the processors' time went to others and to the kernel's own threads\n",
		r.Machine.LoadBefore, r.Machine.LoadAfter, 100*r.Machine.Others)
}

func (g grid) writer() table.Writer {
	t := table.NewWriter()
	t.AppendHeader(cells(g.header))
	for _, row := range g.rows {
		t.AppendRow(cells(row))
	}
	return t
}

func cells(texts []string) table.Row {
	row := make(table.Row, len(texts))
	for i, text := range texts {
		row[i] = text
	}
	return row
}

// markdown is README.md.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("# Brig beside others\n\n" +
		"<!-- Written by `make bench` (test/bench). Do not edit. -->\n\n" +
		"Every number is from one run on one machine. Each round runs every contender once, in an order drawn anew, so that\n" +
		"whatever else the machine does hits all alike. Whole processes are timed from before the fork to after the wait.\n" +
		"The samples are in [results.json](results.json).\n\n" +
		"![How long one sandbox takes](startup.svg)\n\n")
	for _, g := range r.grids() {
		if len(g.rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "## %s\n\n", g.title)
		if text := after[g.title]; text != "" {
			fmt.Fprintf(&b, "%s\n", text)
		}
		t := g.writer()
		fmt.Fprintf(&b, "%s\n\n", t.RenderMarkdown())
	}
	r.notes(&b)
	r.circumstances(&b)
	return b.String()
}

// Markers around the part of the project's README that is this program's.
const (
	readmeBegin = "<!-- bench: written by make bench -->\n"
	readmeEnd   = "<!-- /bench -->"
)

// frontPage puts the goals and what a sandbox costs, alone and under an engine, into the README at name, between the markers.
func (r *report) frontPage(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), readmeBegin)
	_, behind, ok2 := strings.Cut(rest, readmeEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s: the markers of the table are gone", name)
	}
	var b strings.Builder
	b.WriteString(before + readmeBegin)
	for _, g := range r.frontGrids() {
		if len(g.rows) > 0 {
			fmt.Fprintf(&b, "\n%s:\n\n%s\n", g.title, g.writer().RenderMarkdown())
		}
	}
	b.WriteString("\n![How long one sandbox takes](docs/bench/startup.svg)\n\n" + readmeEnd + behind)
	return os.WriteFile(name, []byte(b.String()), 0o644) //nolint:gosec // a page
}

// after is what a reader has to know of a table, under its title.
var after = map[string]string{
	"The design's goals": "Ratios are of medians. The range holds 95 of 100 repetitions, found by drawing the rounds anew\n" +
		"(for package init: half of the samples). \"Perhaps\" means that the range holds the goal.\n",
	kindTitles[kindEngine]: "`ctr run --rm`, one container after the other, the runtimes in turns. Most of it is containerd's own\n" +
		"work and its shim's; the processor time is that of `ctr` alone.\n",
	kindTitles[kindGVisor]: "runsc is built of the release that Brig's kernel is of. The processor time is that of the tool and of what it waited for: what is\n" +
		"done before by `brig warm`, and by processes that the tool leaves, is not in it.\n",
	idleTitle: "Two seconds after its start, all processes of it: the kernel, those that run the guest's code, the file server, and Brig's monitor where\n" +
		"there is one. A second after a start Brig's processes let go of what they have mapped of their own program, which is then page cache;\n" +
		"\"of no file\" is what that changes nothing of.\n",
	imagesTitle: "Debian as debootstrap makes it, from a registry on the loopback: from nothing to the end of `true`, and the same once the image is\n" +
		"here. Before each first run the image and all that was made of it is removed, by the tool itself. Disk is the tool's whole store after the\n" +
		"first run.\n",
	"Many at once": "The median of the repetitions. With more clients than cores this is processor time more than waiting.\n",
	"Memory at most": "Resident memory of the tool or of its largest child. runc and crun leave no process of their own beside a detached container; an\n" +
		"engine puts one there (conmon, a shim). The monitor of a detached sandbox of Brig's is in the first table; it was the\n" +
		"only one, so that it shared its program with nobody.\n",
	"What confined the program": "Read from /proc inside each sandbox before anything was measured. A tool that does less is faster.\n",
}

func (r *report) notes(b *strings.Builder) {
	b.WriteString("## What each of them does\n\n")
	for _, res := range r.Results {
		if res.Note != "" {
			fmt.Fprintf(b, "- **%s**: %s.\n", res.Name, res.Note)
		}
	}
	for _, i := range r.Images {
		fmt.Fprintf(b, "- **%s** (images): %s.\n", i.Name, i.Note)
	}
	b.WriteString("\nThe bare contenders are two because a whole process has its own start to pay: compare whole processes with the\n" +
		"bare helper, and calls in this process with the bare one in this process.\n\n")
}

func (r *report) circumstances(b *strings.Builder) {
	m := &r.Machine
	kind := "a machine"
	if m.Virtual {
		kind = "a virtual machine"
	}
	fmt.Fprintf(b, "## The machine\n\n%s, %d cores, %.0f GiB of RAM, %s with Linux %s; /run is on %s. %s.\n",
		m.CPU, m.Cores, float64(m.RAM)/(1<<30), kind, m.Kernel, m.StateFS, m.System)
	fmt.Fprintf(b, "%s: %d rounds, and %d that were discarded because others disturbed them.\n"+
		"Load before: %s; after: %s, from the many clients.\n"+
		"Other people's work and the kernel's own threads used %.0f%% of the processors' time between, pauses included.\n"+
		"Command line: `go run ./test/bench %s`.\n\n",
		m.Date.Format("2 January 2006, 15:04 MST"), r.Rounds, r.Discarded, m.LoadBefore, m.LoadAfter, 100*m.Others, strings.Join(m.Command, " "))
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		fmt.Fprintf(b, "- %s: %s\n", name, m.Versions[name])
	}
	if len(r.Missing) > 0 {
		fmt.Fprintf(b, "\nNot installed, and so not measured: %s. `scripts/setup.sh` installs them.\n", joined(r.Missing))
	}
}
