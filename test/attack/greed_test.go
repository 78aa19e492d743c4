package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// withMark are the processes that have a word in their environment.
func withMark(mark string) (pids []int) {
	for _, pid := range marked() {
		environ, err := os.ReadFile("/proc/" + pid + "/environ")
		if n, nerr := strconv.Atoi(pid); err == nil && nerr == nil && bytes.Contains(environ, []byte(mark)) {
			pids = append(pids, n)
		}
	}
	return pids
}

// TestSwapHog takes more than memory and swap together.
func TestSwapHog(t *testing.T) {
	t.Parallel()
	need(t)
	testenv.Check(t, testenv.Swap)
	if word, reason := run(t, views()[0], []string{"-m", "32m"}, "hog", "anonymous", "128").verdict(); word != "HELD" {
		t.Errorf("%s: %s", word, reason)
	}
	if word, reason := run(t, views()[0], []string{"-m", "32m", "--memory-swap", "-1"}, "hog", "anonymous", "128").verdict(); word != "ESCAPED" {
		t.Errorf("control: %s: %s", word, reason)
	}
}

// TestFlood writes without end.
func TestFlood(t *testing.T) {
	t.Parallel()
	need(t)
	for _, preset := range presets {
		for _, extra := range [][]string{nil, {"-t"}, {"--init"}} {
			each(t, append([]string{"--preset", preset}, extra...), func(t *testing.T, flags []string) {
				r := run(t, views()[0], append(flags, "--output-limit", "1m"), "flood")
				if r.code != 137 || len(r.out) > 1<<20 || !strings.Contains(r.errors, "wrote more than") {
					t.Errorf("code %d, %d bytes, %s", r.code, len(r.out), r.errors)
				}
			})
		}
	}
	// The control: without the limit it goes on. A reader that leaves ends it.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := brigCommand(ctx, runArgs(views()[0], nil, "flood")...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	n, err := io.CopyN(io.Discard, out, 8<<20)
	if n != 8<<20 {
		t.Errorf("control: %d bytes, %v", n, err)
	}
	_ = out.Close()
	_ = c.Wait()
}

// TestFloodedLog writes without end into the log of a detached sandbox: the disk must not fill.
func TestFloodedLog(t *testing.T) {
	t.Parallel()
	need(t)
	const most = 64 << 20
	name := "flood-" + random()
	if r := run(t, views()[0], []string{"-d", "--name", name, "--timeout", "3s"}, "flood"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	defer brig(t, "rm", "-f", name)
	if r := brig(t, "wait", name); r.code != 124 {
		t.Errorf("wait: %+v", r)
	}
	var size int64
	_ = filepath.WalkDir(bench.state, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(filepath.Base(path), "log") {
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
				size += info.Size()
			}
		}
		return nil
	})
	if size == 0 || size > most {
		t.Errorf("the log has %d bytes; at most %d are expected, and some", size, most)
	}
}

// TestStubborn ignores every signal that can be ignored.
func TestStubborn(t *testing.T) {
	t.Parallel()
	need(t)
	for _, preset := range presets {
		for _, extra := range [][]string{{"--init=false"}, {"--init"}, {"-u", "1000"}} {
			each(t, append([]string{"--preset", preset}, extra...), stubborn)
		}
	}
	// The control: outside, a polite request changes nothing.
	p, err := start(command(t.Context(), bench.attacker, "ignore"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.kill()
	if err := unix.Kill(p.cmd.Process.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(p.cmd.Process.Pid, 0); err != nil {
		t.Errorf("control: %v", err)
	}
	var status unix.WaitStatus
	if pid, err := unix.Wait4(p.cmd.Process.Pid, &status, unix.WNOHANG, nil); pid != 0 {
		t.Errorf("control: it ended: %v %v", status, err)
	}
}

func stubborn(t *testing.T, flags []string) {
	if r := run(t, views()[0], append(flags, "--timeout", "500ms"), "ignore"); r.code != 124 || !strings.Contains(r.out, "READY") {
		t.Errorf("--timeout: %+v", r)
	}
	name := "stubborn-" + random()
	if r := run(t, views()[0], append(flags, "-d", "--name", name), "ignore"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	awaitReady(t, name)
	if r := brig(t, "stop", "-t", "200ms", name); r.code != 0 {
		t.Errorf("stop: %+v", r)
	}
	if r := brig(t, "wait", name); r.code != 137 {
		t.Errorf("wait: %+v", r)
	}
	if r := brig(t, "rm", name); r.code != 0 {
		t.Errorf("rm: %+v", r)
	}
}

// TestOrphans leaves a process behind that has forked twice, in a session of its own.
func TestOrphans(t *testing.T) {
	t.Parallel()
	need(t)
	mark := "BRIG_ORPHAN=" + random()
	for _, preset := range presets {
		for _, extra := range [][]string{{"--init=false"}, {"--init"}, {"-t"}, {"--output-limit", "1m"}, {"--userns", "host"}} {
			if preset == "strict" && extra[0] == "--userns" {
				continue // a contradiction
			}
			each(t, append([]string{"--preset", preset}, extra...), func(t *testing.T, flags []string) {
				r := run(t, views()[0], append(flags, "-e", mark), "orphan")
				if r.code != 0 || !strings.Contains(r.out, "READY") {
					t.Errorf("%+v", r)
				}
				if left := withMark(mark); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
	c := command(t.Context(), bench.attacker, "orphan")
	c.Env = append(c.Env, mark)
	if r := finish(c); r.code != 0 {
		t.Fatalf("control: %+v", r)
	}
	left := withMark(mark)
	if len(left) == 0 {
		t.Error("control: nothing is left behind without a sandbox either")
	}
	for _, pid := range left {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// TestExecOrphans leaves a process behind by `brig exec`, which ends with the sandbox.
func TestExecOrphans(t *testing.T) {
	t.Parallel()
	need(t)
	mark := "BRIG_ORPHAN=" + random()
	name := "orphans-" + random()
	if r := run(t, views()[0], []string{"-d", "--name", name, "-e", mark}, "sleep"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if r := brig(t, "exec", name, "/attack", "orphan"); r.code != 0 {
		t.Errorf("%+v", r)
	}
	n := len(withMark(mark))
	if testenv.Isolation() == "gvisor" { // whose processes the host does not see
		out := brig(t, "exec", name, "/bin/busybox", "ps").out
		n = strings.Count(out, "/attack sleep") + strings.Count(out, "orphan last")
	}
	if n != 2 {
		t.Errorf("control: %d processes, want the first and the orphan", n)
	}
	if r := brig(t, "rm", "-f", name); r.code != 0 {
		t.Errorf("%+v", r)
	}
	if left := withMark(mark); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestBomb forks in every process as fast as it can. The host must stay in charge.
func TestBomb(t *testing.T) {
	t.Parallel()
	need(t)
	mark := "BRIG_BOMB=" + random()
	for _, preset := range presets {
		r := run(t, views()[0], []string{"--preset", preset, "--cpus", "0.5", "--pids-limit", "100", "-e", mark, "--timeout", "500ms"}, "bomb")
		if r.code != 124 {
			t.Errorf("%s: --timeout: %+v", preset, r)
		}
		if left := withMark(mark); len(left) > 0 {
			t.Errorf("%s: left behind: %v", preset, left)
		}
	}
	name := "bomb-" + random()
	if r := run(t, views()[0], []string{"-d", "--name", name, "--cpus", "0.5", "--pids-limit", "100", "-e", mark}, "bomb"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	// Threads count, too: the attacker has a few.
	for deadline := time.Now().Add(patience); bombs(t, name, mark) < 80; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("control: the bomb does not go off")
			break
		}
	}
	if n := len(withMark(mark)); n > 100 {
		t.Errorf("%d processes, and 100 are allowed", n)
	}
	if r := brig(t, "rm", "-f", name); r.code != 0 {
		t.Errorf("rm: %+v", r)
	}
	if left := withMark(mark); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// bombs counts the processes that a bomb has made: those with the mark, or where the host sees none of a guest's, those of its group.
func bombs(t *testing.T, name, mark string) int {
	t.Helper()
	if testenv.Isolation() == "native" {
		return len(withMark(mark))
	}
	var stats []struct {
		Pids struct{ Current int }
	}
	r := brig(t, "stats", "--format", "json", name)
	if err := json.Unmarshal([]byte(r.out), &stats); err != nil || len(stats) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	return stats[0].Pids.Current
}

// each runs one case of a test under the name of its flags, or holds that the isolation refuses them, where the suite's list says that.
func each(t *testing.T, flags []string, hold func(t *testing.T, flags []string)) {
	t.Helper()
	t.Run(strings.Join(flags, " "), func(t *testing.T) {
		d, otherwise := testenv.Differs(t)
		if !otherwise {
			hold(t, slices.Clip(flags))
			return
		}
		r := run(t, views()[0], flags, "ids")
		if d.Outcome != "refused" || !strings.Contains(r.errors, "isolation "+testenv.Isolation()+" cannot do it") {
			t.Errorf("testdata/%s.json says %s: %+v", testenv.Isolation(), d.Outcome, r)
		}
	})
}

// TestUndying kills the supervisor of a sandbox whose program would clear its parent-death signal. The filters of default and
// strict refuse that. In compat the reaper of --init is out of the program's reach and dies; a sandbox without it is
// ended by the next command of brig's.
func TestUndying(t *testing.T) {
	t.Parallel()
	need(t)
	for _, preset := range presets {
		for _, init := range []bool{true, false} {
			each(t, []string{"--preset", preset, fmt.Sprintf("--init=%v", init)}, undying)
		}
	}
	// What is left of the last is cleared, too.
	if r := brig(t, "ps", "-q"); r.code != 0 {
		t.Errorf("%+v", r)
	}
}

func undying(t *testing.T, flags []string) {
	mark := "BRIG_UNDYING=" + random()
	p, err := start(brigCommand(t.Context(), runArgs(views()[0], append(flags, "-e", mark), "undying")...))
	if err != nil {
		t.Fatal(err)
	}
	pids := withMark(mark)
	if testenv.Isolation() == "gvisor" { // where the kernel is what must not outlive it
		pids = children(t, p.cmd.Process.Pid)
	}
	var fds []unix.PollFd
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}) //nolint:gosec // a descriptor
	}
	if len(fds) == 0 || testenv.Isolation() == "native" && len(fds) > 1 {
		t.Fatalf("%d processes are the sandbox's, want the program alone", len(fds))
	}
	p.kill()
	if strings.Join(flags, " ") == "--preset compat --init=false" {
		if r := brig(t, "ps"); r.code != 0 {
			t.Errorf("%+v", r)
		}
	}
	for _, fd := range fds {
		if n, err := unix.Poll([]unix.PollFd{fd}, int(patience.Milliseconds())); n != 1 || err != nil {
			t.Errorf("it outlives its supervisor: %v", err)
		}
	}
}

// children are the processes that a process has made, by any of its threads (proc_pid_children(5)).
func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// awaitReady waits until the attack in a detached sandbox says that it has begun.
func awaitReady(t *testing.T, name string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if r := brig(t, "logs", name); strings.Contains(r.out, "READY") {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("%s is not ready: %+v", name, r)
		}
	}
}
