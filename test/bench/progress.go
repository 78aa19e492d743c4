package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// progress is one line on standard error that says how far the work is. Without a terminal it says nothing.
type progress struct {
	rounds int
	on     bool
}

func newProgress(rounds int) *progress {
	return &progress{rounds: rounds, on: term.IsTerminal(int(os.Stderr.Fd()))} //nolint:gosec // a file descriptor
}

const barWidth = 40

func (p *progress) round(n int) {
	if n < 0 {
		p.say("warming up")
		return
	}
	filled := barWidth * (n + 1) / p.rounds
	p.say(fmt.Sprintf("[%s%s] round %d of %d", strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), n+1, p.rounds))
}

func (p *progress) say(text string) {
	if p.on {
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s", text)
	}
}

func (p *progress) done() { p.say("") }
