package main

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A kernel that cannot go on says why in the pipe of its end, however much that is.
func TestLastWords(t *testing.T) {
	t.Parallel()
	if os.Getenv("TEST_LAST_WORDS") != "" {
		if err := lastWords(3); err != nil {
			os.Exit(3)
		}
		panic(strings.Repeat("boom ", 100_000))
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestLastWords$") //nolint:gosec // this program
	cmd.Env = append(os.Environ(), "TEST_LAST_WORDS=1")
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if err := within(cmd.Wait); cmd.ProcessState.ExitCode() != 2 { // before its words are read
		t.Errorf("it ended with %v", err)
	}
	text, err := io.ReadAll(r)
	if err != nil || !strings.HasPrefix(string(text), "panic: boom boom") {
		t.Errorf("it said %.80q, %v", text, err)
	}
}
