package gvisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"brig/internal/isolation/gvisor/job"
)

// mostSaid is what is read of what a kernel has said at its end: as much as its pipe holds (pipe(7)).
const mostSaid = 64 << 10

// end reads how the guest's program ended. Beside an error it gives what the kernel has said in place of that.
func (p *Process) end() (job.End, []byte, error) {
	text, err := io.ReadAll(io.LimitReader(p.status, mostSaid))
	if err != nil {
		return job.End{}, text, err
	}
	for _, line := range slices.Backward(bytes.Split(text, []byte("\n"))) {
		var end job.End
		if len(line) > 0 && json.Unmarshal(line, &end) == nil {
			return end, text, nil
		}
	}
	return job.End{}, text, errors.New("it did not say how its program ended")
}

// KernelError is a kernel that has ended by itself, before its guest.
type KernelError struct {
	ExitCode int
	// Words are the lines it said: mostly a panic of Go's runtime, with the calls that led to it. They are printable, but what is in them is
	// to be believed no more than the guest: it may have had the kernel in its hands.
	Words []string
}

func (e *KernelError) Error() string {
	if len(e.Words) == 0 {
		return fmt.Sprintf("gVisor's kernel ended with exit code %d and without a word", e.ExitCode)
	}
	return fmt.Sprintf("gVisor's kernel ended with exit code %d: %s", e.ExitCode, e.Words[0])
}

// words makes lines for a person of what a kernel said.
func words(text []byte) (lines []string) {
	const most = 60 // a panic and its goroutine
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\n"); line == "" {
			continue
		}
		if len(lines) == most {
			return append(lines, "…")
		}
		lines = append(lines, strings.Map(printable, strings.ReplaceAll(line, "\t", "    ")))
	}
	return lines
}

func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return unicode.ReplacementChar
	}
	return r
}
