package output

import "testing"

func TestFold(t *testing.T) {
	t.Parallel()
	// text.WrapSoft fills the lines that it makes up with blanks.
	for cell, want := range map[string]string{
		"short":                         "short",
		"what it is\nwhat to do":        "what it is\nwhat to do",
		"none is delegated\nstart it":   "none is     \ndelegated\nstart it",
		"a word-that-is-longer-than-it": "a           \nword-that-is\n-longer-than\n-it",
	} {
		if got := fold(cell, 12); got != want {
			t.Errorf("%q: %q, not %q", cell, got, want)
		}
	}
}
