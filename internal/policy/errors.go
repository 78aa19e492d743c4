package policy

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"brig/internal/spelling"
)

// Error is something wrong in a policy. Path names the key ("limits.memory", "mounts[1].target"); File, Line and Column
// are where it stands, when it came from a file.
type Error struct {
	Path         string
	Msg          string
	File         string
	Line, Column int
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		fmt.Fprintf(&b, "%s:", e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, "%d:%d:", e.Line, e.Column)
		}
		b.WriteByte(' ')
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	return oneLine(b.String() + e.Msg)
}

// oneLine writes out what is not printable: a file or a name of somebody else's may hold line feeds and terminal
// sequences.
func oneLine(s string) string {
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func hidden(r rune) bool { return !unicode.IsPrint(r) }

func bad(path, format string, args ...any) error {
	return &Error{Path: path, Msg: fmt.Sprintf(format, args...)}
}

func quote(s string) string { return strconv.Quote(s) }

// nearest suggests the word that was probably meant, or lists them all.
func nearest(word string, known ...string) string {
	best, at := "", 3
	for _, k := range known {
		if d := spelling.Distance(strings.ToLower(word), strings.ToLower(k)); d < at {
			best, at = k, d
		}
	}
	if best != "" {
		return "; did you mean " + quote(best) + "?"
	}
	if len(known) == 1 {
		return "; there is only " + known[0]
	}
	return "; there are " + strings.Join(known, ", ")
}
