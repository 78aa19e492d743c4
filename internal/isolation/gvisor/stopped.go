package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// A kernel whose process is stopped (SIGSTOP) takes a call and answers nothing, and so does one that waits for its file server, for one of its
// stubs, or whose supervisor is. Whoever waits for an answer looks at them when it is late.

// StoppedError is a process that is stopped, and without which there is no answer.
type StoppedError struct {
	PID  int
	Name string
}

func (e *StoppedError) Error() string {
	return fmt.Sprintf("%s, process %d, is stopped (SIGSTOP)", e.Name, e.PID)
}

func isStoppedError(err error) bool {
	var e *StoppedError
	return errors.As(err, &e)
}

// givenUp says of a start that it was ended for such a process.
func givenUp(err error) error {
	if isStoppedError(err) {
		return fmt.Errorf("%w, and the start is given up", err)
	}
	return err
}

const (
	// lateAfter is when an answer is late, and how often it is looked from then on. What is seen stopped twice is.
	lateAfter = 500 * time.Millisecond
	// stubsAfter is when stubs are looked at: most are of no importance for a call, an operator may have stopped one on purpose, and each is
	// stopped for a moment when it is made (gVisor's pkg/sentry/platform/systrap, subprocess.go).
	stubsAfter = 5 * time.Second
)

// Asked are the processes that an answer of a kernel's may need, 0 for what there is not: the kernel, the supervisor that is asked in its
// place, and what is beside the kernel, but not in its pid namespace: a file server of a pod's container.
type Asked struct {
	Kernel, Supervisor int
	Beside             func() []int // nil for nothing
}

// Watched is a context for a conversation with a kernel: it ends, by a StoppedError, when that takes long and one of the processes is
// stopped. The caller calls done.
func (a Asked) Watched(ctx context.Context) (_ context.Context, done func()) {
	ctx, end := context.WithCancelCause(ctx)
	over := a.WhenStopped(func(e *StoppedError) { end(e) })
	return ctx, func() {
		over()
		end(nil)
	}
}

// WhenStopped calls tell once when, before over is called, some time has passed and one of the processes is stopped.
func (a Asked) WhenStopped(tell func(*StoppedError)) (over func()) {
	ctx, end := context.WithCancel(context.Background())
	begun := time.Now()
	late := time.AfterFunc(lateAfter, func() { // an answer that is not late costs a timer
		look := time.NewTicker(lateAfter)
		defer look.Stop()
		for before := 0; ctx.Err() == nil; {
			e := a.Stopped(time.Since(begun) > stubsAfter)
			if e != nil && e.PID == before {
				tell(e)
				return
			}
			if before = 0; e != nil {
				before = e.PID
			}
			select {
			case <-ctx.Done():
			case <-look.C:
			}
		}
	})
	return func() {
		late.Stop()
		end()
	}
}

// Awake refuses to ask where the kernel or the supervisor is stopped already. It is looked at before files are sent: they would lie in the
// queue of that process, open, and whoever reads the other end of one, as of a program's output, would wait for its end.
func (a Asked) Awake() error {
	if e := a.first(); e != nil {
		return e
	}
	return nil
}

func (a Asked) first() *StoppedError {
	for _, p := range []StoppedError{{a.Supervisor, "the supervisor of the sandbox"}, {a.Kernel, "gVisor's kernel"}} {
		if p.PID > 0 && isStopped(p.PID) {
			return &p
		}
	}
	return nil
}

// Stopped gives the first of the processes that is stopped, nil for none. A stub counts only where it is said so.
func (a Asked) Stopped(stubs bool) *StoppedError {
	if e := a.first(); e != nil {
		return e
	}
	pids := beside(a.Kernel)
	if a.Beside != nil {
		pids = append(pids, a.Beside()...)
	}
	for _, pid := range pids {
		serves := isServer(pid)
		switch {
		case !serves && !stubs, !isStopped(pid):
		case serves:
			return &StoppedError{pid, "the file server of the sandbox"}
		default:
			return &StoppedError{pid, "a process of gVisor's kernel (a stub)"}
		}
	}
	return nil
}

// beside are the other processes of a kernel's sandbox. They have its pid namespace to themselves, where it is not the host's.
func beside(kernel int) (pids []int) {
	space := func(pid string) string {
		name, _ := os.Readlink("/proc/" + pid + "/ns/pid")
		return name
	}
	own := space(strconv.Itoa(kernel))
	if kernel <= 0 || own == "" || own == space("self") {
		return nil
	}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		name := filepath.Base(dir)
		if pid, err := strconv.Atoi(name); err == nil && pid != kernel && space(name) == own {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// isServer tells a file server from a stub, which has its kernel's words or none.
func isServer(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && slices.ContainsFunc(bytes.Split(line, []byte{0}), func(word []byte) bool { return string(word) == serverCommand })
}

// isStopped tells whether a process is, by a signal (proc_pid_stat(5), field 3). One under a debugger is not: it goes on and stands still.
func isStopped(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := bytes.LastIndex(text, []byte(") ")) // the name before may hold anything
	return err == nil && i >= 0 && bytes.HasPrefix(text[i+2:], []byte("T"))
}
