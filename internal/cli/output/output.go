// Package output writes results for people and for scripts: tables that fit the terminal, JSON, colours where there is a
// terminal and NO_COLOR is not set.
//
// Its place on the road: none. The command lines use it.
package output

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// Format is the --format flag that every command with a table has.
type Format string

// Register adds the flag.
func (f *Format) Register(s *pflag.FlagSet) {
	s.StringVar((*string)(f), "format", "table", "table or json")
}

// JSON says whether JSON was asked for, and refuses other words.
func (f Format) JSON() (bool, error) {
	switch f {
	case "json":
		return true, nil
	case "table", "":
		return false, nil
	}
	return false, fmt.Errorf("--format %q: there are table and json", string(f))
}

// JSON writes v, indented.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Width is the terminal's, or 0 where output goes elsewhere: nothing is cut then.
func Width(out *os.File) int {
	if !term.IsTerminal(int(out.Fd())) { //nolint:gosec // a file descriptor
		return 0
	}
	w, _, err := term.GetSize(int(out.Fd())) //nolint:gosec // a file descriptor
	if err != nil {
		return 0
	}
	return w
}

// Table prints rows below a header, or without one when it is nil, without lines between them, as ps and docker do. On a terminal the column named
// wrap is folded so that the table fits.
func Table(out *os.File, header []string, rows [][]string, wrap int) {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleDefault)
	style := t.Style()
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "   "
	style.Format.Header = text.FormatDefault
	total, widest := 0, make([]int, max(len(header), len(slices.Concat(rows[:min(len(rows), 1)]...))))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			for line := range strings.Lines(cell) {
				widest[i] = max(widest[i], text.StringWidthWithoutEscSequences(strings.TrimRight(line, "\n")))
			}
		}
	}
	for _, n := range widest {
		total += n + 3
	}
	if w := Width(out); w > 0 && total > w {
		room := max(widest[wrap]-(total-w)-1, 20)
		t.SetColumnConfigs([]table.ColumnConfig{{Number: wrap + 1, WidthMax: room, WidthMaxEnforcer: fold}})
	}
	if header != nil {
		t.AppendHeader(cells(header))
	}
	for _, row := range rows {
		t.AppendRow(cells(row))
	}
	t.SuppressTrailingSpaces()
	t.Render()
}

// fold folds each line of a cell by itself: text.WrapSoft makes one of them all.
func fold(cell string, width int) string {
	lines := strings.Split(cell, "\n")
	for i, line := range lines {
		lines[i] = text.WrapSoft(line, width)
	}
	return strings.Join(lines, "\n")
}

func cells(words []string) table.Row {
	row := make(table.Row, len(words))
	for i, w := range words {
		row[i] = w
	}
	return row
}

// Colour paints a word on a terminal, unless NO_COLOR (https://no-color.org) is set.
func Colour(out *os.File, c text.Color, word string) string {
	if os.Getenv("NO_COLOR") != "" || Width(out) == 0 {
		return word
	}
	return c.Sprint(word)
}

// Ago is a time as tables show it.
func Ago(t time.Time) string {
	d := time.Since(t)
	switch {
	case t.IsZero():
		return "-"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}

// Printable keeps words of a stranger's choosing (an image's, a registry's) from doing anything to the terminal: what controls it, and what
// turns the order of letters round, is shown as a sign that something was there.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp):
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
