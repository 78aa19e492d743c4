package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// log is where lines about the run go: the file of --log, or standard error. Its forms are runc's (logrus's), which
// engines parse.
type log struct {
	to    io.Writer
	file  bool // --log names one, so that standard error is told of errors, too
	json  bool
	debug bool
}

// openLog opens what --log names. A file is made at once, also when nothing is to be said.
func (a *app) openLog(name, format string, debug bool) error {
	a.log = log{to: a.err, debug: debug}
	switch format {
	case "text":
	case "json":
		a.log.json = true
	default:
		return fmt.Errorf("invalid log-format: %s", format) // runc's words
	}
	name, service, err := logTarget(name)
	switch {
	case err != nil:
		return fmt.Errorf("--log: %w", err)
	case service != nil:
		a.log.to, a.log.file = service, true
		return nil
	case name == "" || name == "/dev/stderr":
		return nil
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o644) //nolint:gosec // engines of other users read it
	if err != nil {
		return fmt.Errorf("--log: %w", err)
	}
	a.log.to, a.log.file = f, true
	return nil
}

func (l *log) line(level, text string) {
	if l.to == nil {
		l.to = os.Stderr
	}
	if s, ok := l.to.(*logService); ok {
		s.say(level, text)
		return
	}
	now := time.Now().Format(time.RFC3339)
	if l.json {
		line, _ := json.Marshal(struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{level, text, now})
		fmt.Fprintf(l.to, "%s\n", line)
		return
	}
	fmt.Fprintf(l.to, "time=%q level=%s msg=%s\n", now, level, quoted(text))
}

// quoted is a text as it is when it is one plain word, else in quotes.
func quoted(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._/@^+", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return strconv.Quote(text)
}

// debugf says with --debug what is being done. Where runc has a step of the same meaning, its words begin the line: tools and
// suites look for them.
func (a *app) debugf(format string, args ...any) {
	if a.log.debug {
		a.log.line("debug", fmt.Sprintf(format, args...))
	}
}

// warnf says what was passed over.
func (a *app) warnf(format string, args ...any) { a.log.line("warning", fmt.Sprintf(format, args...)) }

// report writes the error to the log in the form that engines read; a person gets it on standard error all the same.
func (a *app) report(err error) {
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	var program *programFailure
	if errors.As(err, &program) && !a.log.file {
		fmt.Fprintln(a.err, text)
		return
	}
	a.log.line("error", text)
	if a.log.file {
		fmt.Fprintln(a.err, text)
	}
}
