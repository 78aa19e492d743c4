package sandbox

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A killed process ends when it leaves the host's kernel. Where it waits there for a disk, or for a file system of somebody's (FUSE), that does
// not answer, it takes no signal, SIGKILL neither, and nobody can end it (state D of proc_pid_stat(5)).

// StuckError is a sandbox that is killed and does not end.
type StuckError struct {
	ID   string
	Task int    // the thread that waits
	In   string // a function of the host's kernel, where that tells
}

func (e *StuckError) Error() string {
	return fmt.Sprintf("sandbox %s is killed, but its process %d takes no signal: it waits in the host's kernel (%s), mostly for a disk or a file system that does not answer; the sandbox ends when that does",
		e.ID, e.Task, cmp.Or(e.In, "state D"))
}

// stuckAfter is for how long a thread must have waited, each time it was looked at.
const stuckAfter = 10 * time.Second

// waiters are the threads of a sandbox that wait so, and since when.
type waiters map[string]time.Time

// look looks at the threads, and gives an error by the first that has waited for that long.
func (w waiters) look(b *Sandbox, st *State, bound time.Duration) error {
	pids := []int{st.PID}
	if len(st.Cgroups) > 0 {
		if all, err := b.group(st).Pids(); err == nil {
			pids = all
		}
	}
	now, there := time.Now(), map[string]bool{}
	for _, pid := range pids {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		for _, task := range tasks {
			there[task] = taskState(task) == 'D'
		}
	}
	for task := range w {
		if !there[task] {
			delete(w, task)
		}
	}
	for task, waits := range there {
		if !waits {
			continue
		}
		if _, before := w[task]; !before {
			w[task] = now
		}
		if now.Sub(w[task]) >= bound {
			e := &StuckError{ID: b.ID}
			_, _ = fmt.Sscan(filepath.Base(task), &e.Task)
			in, _ := os.ReadFile(filepath.Join(task, "wchan")) //nolint:gosec // of a thread
			e.In = strings.Trim(string(in), "0 \n")
			return e
		}
	}
	return nil
}

// taskState is the state of a process or thread by its folder in /proc, 0 of one that is gone.
func taskState(dir string) byte {
	text, err := os.ReadFile(filepath.Join(dir, "stat")) //nolint:gosec // of a thread
	i := bytes.LastIndex(text, []byte(") "))             // the name may hold anything
	if err != nil || i < 0 || i+2 >= len(text) {
		return 0
	}
	return text[i+2]
}
