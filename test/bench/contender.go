package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"brig/test/bench/fork"
)

// The kinds of work that are compared.
const (
	kindRun    = "run"    // one sandbox from nothing to nothing, by a whole process
	kindInside = "inside" // the same by a call in this process
	kindExec   = "exec"   // one more program in a running sandbox, by a whole process
	kindLife   = "life"   // create, start and delete, by three processes
	kindEngine = "engine" // one container through containerd; these have turns of their own
	kindGVisor = "gvisor" // one sandbox on gVisor's kernel; these too
)

// contender is one way to do one kind of work.
type contender struct {
	key  string // its name in results.json
	name string // its name for people
	kind string
	note string // what a person has to know to judge it

	lane *lane
	// argv is the command line of the n-th call; argument vectors differ where a tool wants an id for every container.
	argv func(n int64) []string
	// env are words of the environment beside everybody's.
	env []string
	// before waits for what a call needs to find, and is not measured.
	before func() error
	// probe is a command line like argv that prints what confines it, or nil.
	probe []string
	// prepare readies one call in this process, and gives the part that is measured.
	prepare func() (func() error, error)
	// start readies what an exec needs; stop ends it.
	start, stop func() error

	calls atomic.Int64
}

// sample is one measured call.
type sample struct {
	wall, cpu time.Duration
}

// once is one measured call, on the contender's own lane.
func (c *contender) once(s *stage) (sample, error) { return c.onceOn(c.lane, s) }

func (c *contender) onceOn(l *lane, s *stage) (out sample, err error) {
	if c.prepare != nil {
		return c.callOn(l)
	}
	if c.before != nil {
		if err := c.before(); err != nil {
			return out, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	argv := c.argv(c.calls.Add(1))
	l.do(func() {
		var u fork.Usage
		u, err = fork.Run(argv, &syscall.ProcAttr{Dir: s.dir, Env: append(environment(), c.env...), Files: s.files()})
		out = sample{u.Wall, u.CPU}
	})
	if err != nil {
		return out, fmt.Errorf("%s: %w; by hand: %s", c.name, err, strings.Join(argv, " "))
	}
	return out, nil
}

// callOn measures a call in this process. The processor time is this process's and that of the children it waited for.
func (c *contender) callOn(l *lane) (out sample, err error) {
	run, err := c.prepare()
	if err != nil {
		return out, fmt.Errorf("%s: %w", c.name, err)
	}
	l.do(func() {
		before := ownCPU()
		begin := time.Now()
		err = run()
		out.wall = time.Since(begin)
		out.cpu = ownCPU() - before
	})
	if err != nil {
		return out, fmt.Errorf("%s: %w", c.name, err)
	}
	return out, nil
}

func ownCPU() time.Duration {
	var own, children syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &own)
	_ = syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children)
	return fork.CPU(&own) + fork.CPU(&children)
}

// environment is the same small one for everybody.
func environment() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
}

// ownTurns tells whether a contender does not run with the others, in turns.
func (c *contender) ownTurns() bool { return c.kind == kindEngine || c.kind == kindGVisor }

// output runs a command line on a lane and gives what it printed; an error has what it complained of.
func output(l *lane, s *stage, argv []string) (string, error) { return outputIn(l, s, nil, argv) }

// outputIn is output with more words of the environment.
func outputIn(l *lane, s *stage, env, argv []string) (text string, err error) {
	out, err := os.CreateTemp(s.dir, "output-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, out.Close(), os.Remove(out.Name())) }()
	l.do(func() {
		_, err = fork.Run(argv, &syscall.ProcAttr{Dir: s.dir, Env: append(environment(), env...), Files: []uintptr{s.null.Fd(), out.Fd(), out.Fd()}})
	})
	data, rerr := os.ReadFile(out.Name())
	if err != nil {
		return "", fmt.Errorf("%w: %s: %s", err, strings.Join(argv, " "), lastLine(string(data)))
	}
	return string(data), rerr
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
