package gvisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
)

// mostSaid is what is read of what a kernel has said at its end: as much as its pipe holds (pipe(7)).
const mostSaid = 64 << 10

// end reads how the guest's program ended, when the kernel process has or is about to. Beside an error it gives what the kernel has said in
// place of that. The pipe ends with the kernel, unless that has given it to somebody.
func (p *Process) end() (job.End, []byte, error) {
	if err := p.status.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return job.End{}, nil, err
	}
	return readEnd(p.status)
}

func readEnd(status io.Reader) (job.End, []byte, error) {
	text, err := io.ReadAll(io.LimitReader(status, mostSaid))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return job.End{}, text, err
	}
	for _, line := range slices.Backward(bytes.Split(text, []byte("\n"))) {
		var end job.End
		if len(line) > 0 && json.Unmarshal(line, &end) == nil {
			end.Error = shown(end.Error)
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

// maxText bounds what a person is shown of an error of the kernel's.
const maxText = 4 << 10

// shown is a text of the kernel's as a person's terminal may have it: a control character could write over what Brig has said.
func shown(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + "…"
	}
	return strings.Map(printable, text)
}

// waitStatus is what the kernel says of the end of a program, which has to be an end.
func waitStatus(said uint32) (unix.WaitStatus, error) {
	s := unix.WaitStatus(said)
	if said>>16 != 0 || !s.Exited() && !s.Signaled() {
		return 0, fmt.Errorf("gVisor's kernel says that the program ended with the status %#x, with which none ends", said)
	}
	return s, nil
}

func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return unicode.ReplacementChar
	}
	return r
}
