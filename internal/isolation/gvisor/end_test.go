package gvisor

import (
	"os"
	"strings"
	"testing"

	"brig/internal/isolation/gvisor/job"
)

// said is a kernel that has said something and is gone.
func said(t *testing.T, text string) *Process {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	go func() {
		_, _ = w.WriteString(text)
		_ = w.Close()
	}()
	return &Process{status: r}
}

func TestEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what, text string
		end        job.End
		fails      bool
	}{
		{"an end", "\n{\"status\":256}\n", job.End{Status: 256}, false},
		{"a warning before it and words after", "a library: hm\n{\"error\":\"no\"}\nbrig-gvisor: no\n", job.End{Error: "no"}, false},
		{"nothing", "", job.End{}, true},
		{"a panic", "panic: boom\n\ngoroutine 1 [running]:\n", job.End{}, true},
		{"more than is read", strings.Repeat("{\"status\":", mostSaid), job.End{}, true},
		{"nested lines", strings.Repeat("[", mostSaid-1) + "\n", job.End{}, true},
	} {
		end, _, err := said(t, c.text).end()
		if end != c.end || (err != nil) != c.fails {
			t.Errorf("%s: %+v, %v", c.what, end, err)
		}
	}
}

// What a kernel says may be its guest's.
func TestWords(t *testing.T) {
	t.Parallel()
	got := words([]byte("panic: \x1b[2Jboom\n\n\tat\r\xff\n" + strings.Repeat("more\n", 100)))
	if got[0] != "panic: �[2Jboom" || got[1] != "    at��" || len(got) != 61 {
		t.Errorf("%q", got)
	}
	e := &KernelError{2, got}
	if want := "gVisor's kernel ended with exit code 2: panic: �[2Jboom"; e.Error() != want {
		t.Errorf("%q", e.Error())
	}
}
