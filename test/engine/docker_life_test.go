package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// dockerExec: a second program in a container.
func dockerExec(d *docker) {
	d.run("execs", "--env", "FIRST=1", "--workdir", "/etc", "box", "sleep", "1000")
	for _, c := range []struct {
		code    int
		flags   string
		program []string
		want    string
	}{
		{0, "", []string{"echo", "second"}, "second"},
		{9, "", []string{"sh", "-c", "exit 9"}, ""},
		{0, "", []string{"sh", "-c", "pwd; echo $FIRST"}, "/etc\n1\n"},
		{0, "-u ann", []string{"id"}, "uid=1001(ann) gid=1002(ann) groups=50(staff),1002(ann)"},
		{0, "-u 7:8 -w /tmp -e X=y", []string{"sh", "-c", "id; pwd; echo $X$FIRST"}, "uid=7 gid=8"},
		{0, "-w /tmp -e X=y", []string{"sh", "-c", "pwd; echo $X$FIRST"}, "/tmp\ny1\n"},
		{0, "", []string{"grep", "Seccomp:", "/proc/self/status"}, "Seccomp:\t2"},
		{0, "", []string{"grep", "CapEff:", "/proc/self/status"}, "CapEff:\t00000000a80425fb"},
		{0, "--privileged", []string{"sh", "-c", "grep -q 'CapEff:.a80425fb' /proc/self/status || echo more"}, "more"},
		{0, "-t", []string{"tty"}, "/dev/pts/"},
		{126, "", []string{"nosuch"}, `exec: "nosuch": executable file not found in $PATH`},
		{126, "", []string{"/etc/plain"}, `exec: "/etc/plain": permission denied`},
		{126, "-w /no/such", []string{"true"}, "no such file or directory"},
	} {
		// Docker gives 127 or 126 for a program that is not there, by its version.
		out, code := d.try(append(append(append([]string{"exec"}, strings.Fields(c.flags)...), "execs"), c.program...)...)
		hold(d.t, (code == c.code || c.code == 126 && code == 127) && strings.Contains(out, c.want), fmt.Sprintf("exec %s %q", c.flags, c.program),
			fmt.Sprintf("exit code %d, %q; want %d, %q", code, out, c.code, c.want))
	}
	cmd := d.command("exec", "-i", "execs", "sh", "-c", "cat; echo the end")
	cmd.Stdin = strings.NewReader("one\ntwo\n")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "one\ntwo\nthe end\n" {
		d.t.Errorf("exec -i: %q, %v", out, err)
	}
	d.want(0, "", "exec", "-d", "execs", "sh", "-c", "echo $$ >/tmp/pid; exec sleep 2000")
	d.until("sleep 2000", "top", "execs")
	d.want(0, "execs", "kill", "execs")
	d.until("exited", "inspect", "-f", "{{.State.Status}}", "execs")
	d.want(1, "is not running", "exec", "execs", "true")
}

// dockerLife: signals, the time that a stop gives, pause, logs, wait.
func dockerLife(d *docker) {
	stubborn := `trap "echo got USR1; exit 4" USR1; trap "echo got HUP" HUP; trap "" TERM; echo up; while :; do sleep 0.1; done`
	d.run("polite", "--stop-signal", "USR1", "box", "sh", "-c", stubborn)
	d.until("up", "logs", "polite")
	d.want(0, "", "kill", "-s", "HUP", "polite")
	d.until("got HUP", "logs", "polite")
	d.want(0, "", "stop", "-t", "30", "polite")
	d.want(0, "got USR1", "logs", "polite")
	d.want(0, "4 exited", "inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "polite")
	d.want(0, "polite", "start", "polite")
	d.want(0, "", "restart", "-t", "30", "polite")
	d.until("got USR1\nup", "logs", "polite")

	d.run("stubborn", "box", "sh", "-c", stubborn)
	d.until("up", "logs", "stubborn")
	began := time.Now()
	d.want(0, "", "stop", "-t", "1", "stubborn")
	if took := time.Since(began); took < time.Second {
		d.t.Errorf("a program that ignores SIGTERM was ended after %v; it had a second", took)
	}
	d.want(0, "137 exited", "inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "stubborn")

	d.run("idle", "box", "sh", "-c", "echo out; echo err >&2; i=0; while :; do echo $i >/tmp/i; i=$((i+1)); sleep 0.01; done")
	d.want(0, "", "pause", "idle")
	d.want(0, "paused", "inspect", "-f", "{{.State.Status}}", "idle")
	d.want(1, "is paused", "exec", "idle", "true")
	d.want(0, "", "unpause", "idle")
	d.want(0, "running", "inspect", "-f", "{{.State.Status}}", "idle")
	d.want(0, "out", "logs", "idle")
	d.want(0, "err", "logs", "idle")
	d.want(0, "", "kill", "idle")
	d.want(0, "137", "wait", "idle")
}

// dockerRestart: the daemon starts a container again that has failed.
func dockerRestart(d *docker) {
	d.run("fails", "--restart", "on-failure:2", "box", "sh", "-c", "echo once; exit 3")
	d.until("2 exited 3", "inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "fails")
	if out := d.want(0, "", "logs", "fails"); strings.Count(out, "once") != 3 {
		d.t.Errorf("on-failure:2 ran it %d times", strings.Count(out, "once"))
	}
	d.run("always", "--restart", "always", "box", "sh", "-c", "sleep 0.2; echo once")
	d.until("once\nonce", "logs", "always")
	d.want(0, "", "stop", "-t", "0", "always")
	d.want(0, "exited", "inspect", "-f", "{{.State.Status}}", "always")
}

func dockerHealth(d *docker) {
	d.run("sick", "--health-cmd", "test -e /tmp/well", "--health-interval", "200ms", "--health-retries", "1", "box", "sleep", "1000")
	d.until("unhealthy", "inspect", "-f", "{{.State.Health.Status}}", "sick")
	d.want(0, "", "exec", "sick", "touch", "/tmp/well")
	d.until("healthy 0", "inspect", "-f", "{{.State.Health.Status}} {{.State.Health.FailingStreak}}", "sick")
}

// dockerWatch: what a person sees of a running container.
func dockerWatch(d *docker) {
	d.run("busy", "--memory", "64m", "--cpus", "0.5", "box", "sh", "-c", "while :; do :; done")
	d.until("sh -c while", "top", "busy")
	d.want(0, "PID", "top", "busy", "-o", "pid,comm")
	// A number of cgroup v1 or v2 that has been read: the limit, a process, time of the CPU.
	for deadline := time.Now().Add(patience); ; {
		out := d.want(0, "/ 64MiB", "stats", "--no-stream", "--format", "{{.MemUsage}} pids={{.PIDs}} {{.CPUPerc}}", "busy")
		fields := strings.Fields(out)
		percent, err := strconv.ParseFloat(strings.TrimSuffix(fields[len(fields)-1], "%"), 64)
		// One process under native isolation; under another the kernel's threads are the container's, too.
		if (testenv.Isolation() != "native" || strings.Contains(out, "pids=1 ")) && err == nil && percent > 1 && percent < 80 {
			break
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("stats of a loop that may have half a CPU: %q", out)
		}
	}
	d.want(0, "/bin/sh", "exec", "busy", "sh", "-c", "echo $0 | grep -q sh && echo /bin/sh")
}

// dockerUpdate changes limits of a container that was made without any.
func dockerUpdate(d *docker) {
	d.run("grows", "box", "sleep", "1000")
	d.want(0, "", "update", "--memory", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--cpuset-cpus", "0", "--cpu-shares", "300", "grows")
	d.want(0, "", "update", "--pids-limit", "50", "grows")
	script := "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us pids/pids.max cpuset/cpuset.cpus cpu/cpu.shares"
	want := "67108864\n50000\n50\n0\n300\n"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		script, want = "cd /sys/fs/cgroup; cat memory.max pids.max", "67108864\n50\n"
	}
	d.want(0, want, "exec", "grows", "sh", "-c", script)
	d.want(0, "", "update", "--memory", "128m", "--memory-swap", "128m", "grows")
	d.want(0, "", "update", "--memory", "32m", "--memory-swap", "32m", "grows")
	d.want(0, "", "update", "--restart", "on-failure:3", "grows")
}

// dockerCopy copies into and out of a container that runs.
func dockerCopy(d *docker) {
	dir := d.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("inwards"), 0o640); err != nil {
		d.t.Fatal(err)
	}
	d.run("copied", "--tmpfs", "/ram", "box", "sleep", "1000")
	d.want(0, "", "cp", filepath.Join(dir, "in"), "copied:/etc/in")
	d.want(0, "inwards", "exec", "copied", "cat", "/etc/in")
	d.want(0, "", "exec", "copied", "sh", "-c", "mkdir /tmp/d; echo outwards >/tmp/d/out")
	d.want(0, "", "cp", "copied:/tmp/d", filepath.Join(dir, "d"))
	if text, err := os.ReadFile(filepath.Join(dir, "d/out")); err != nil || string(text) != "outwards\n" {
		d.t.Errorf("copied out: %q, %v", text, err)
	}
	d.want(0, "A /etc/in", "diff", "copied")
}

// dockerVolumes: bind mounts and volumes, and mount events where they are asked for.
func dockerVolumes(d *docker) {
	dir := d.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("of the host"), 0o644); err != nil {
		d.t.Fatal(err)
	}
	d.want(0, "of the host", "run", "--rm", "-v", dir+":/v", "box", "cat", "/v/f")
	d.want(1, "Read-only file system", "run", "--rm", "-v", dir+":/v:ro", "box", "touch", "/v/x")
	d.want(0, "of the host", "run", "--rm", "-v", dir+"/f:/etc/f", "box", "cat", "/etc/f")
	d.want(0, "", "run", "--rm", "-v", "kept:/v", "box", "sh", "-c", "echo kept >/v/f")
	d.want(0, "kept", "run", "--rm", "--mount", "type=volume,src=kept,dst=/v,readonly", "box", "cat", "/v/f")
	d.want(0, "kept", "volume", "rm", "kept")

	shared := d.t.TempDir()
	for _, err := range []error{
		unix.Mount(shared, shared, "", unix.MS_BIND, ""), unix.Mount("", shared, "", unix.MS_SHARED, ""), os.Mkdir(filepath.Join(shared, "m"), 0o755),
	} {
		if err != nil {
			d.t.Fatal(err)
		}
	}
	d.t.Cleanup(func() {
		if err := unix.Unmount(shared, unix.MNT_DETACH); err != nil {
			d.t.Error(err)
		}
	})
	// The host's mount comes in with both; the container's goes out with rshared alone; nothing passes with rprivate.
	for _, c := range []struct{ mode, in, out string }{{"rshared", "in\n", "out\n"}, {"rslave", "in\n", ""}, {"rprivate", "", ""}} {
		func() {
			d := d.in(d.t)
			name := "prop-" + c.mode
			out := d.want(0, "", "run", "-d", "--name", name, "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "-v", shared+":/v:"+c.mode, "box", "sleep", "1000")
			defer d.want(0, name, "rm", "-f", name)
			if strings.Contains(out, "cannot do it") {
				return
			}
			m := filepath.Join(shared, "m")
			if err := unix.Mount("tmpfs", m, "tmpfs", 0, ""); err != nil {
				d.t.Fatal(err)
			}
			err := os.WriteFile(filepath.Join(m, "in"), nil, 0o600)
			out, _ = d.try("exec", name, "ls", "/v/m")
			if err != nil || out != c.in {
				d.t.Errorf("%s: the host's mount: the container sees %q, want %q (%v)", c.mode, out, c.in, err)
			}
			uerr := unix.Unmount(m, 0)
			hold(d.t, uerr == nil, c.mode+": unmount what the container has seen", fmt.Sprint(uerr))
			if uerr != nil {
				uerr = unix.Unmount(m, unix.MNT_DETACH)
			}
			if uerr != nil {
				d.t.Fatal(uerr)

			}
			d.want(0, "", "exec", name, "sh", "-c", "mount -t tmpfs tmpfs /v/m && touch /v/m/out")
			list, err := exec.Command("ls", m).Output()
			if err != nil || string(list) != c.out {
				d.t.Errorf("%s: the container's mount: the host sees %q, want %q (%v)", c.mode, list, c.out, err)
			}
			d.want(0, "", "exec", name, "umount", "/v/m")
		}()
	}
}

// terminal is a person's: a pty with a docker command on it.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	seen   []byte
}

func (d *docker) terminal(rows, columns uint16, args ...string) *terminal {
	d.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	t := &terminal{t: d.t, master: master, cmd: d.command(args...)}
	d.t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		d.t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		d.t.Fatal(err)
	}
	t.resize(rows, columns)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer slave.Close()
	t.cmd.Stdin, t.cmd.Stdout, t.cmd.Stderr = slave, slave, slave
	t.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := t.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	return t
}

func (t *terminal) resize(rows, columns uint16) {
	t.t.Helper()
	if err := unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.t.Fatal(err)
	}
}

// sees reads until the words are there, and forgets what came before them.
func (t *terminal) sees(words string) {
	t.t.Helper()
	buf := make([]byte, 4096)
	what := "the terminal shows " + words
	for deadline := time.Now().Add(waiting(t.t, what)); ; {
		if i := strings.Index(string(t.seen), words); i >= 0 {
			t.seen = t.seen[i+len(words):]
			return
		}
		fds := []unix.PollFd{{Fd: int32(t.master.Fd()), Events: unix.POLLIN}}
		if time.Now().After(deadline) && listed(t.t, what) {
			hold(t.t, false, what, string(t.seen))
			return
		}
		if time.Now().After(deadline) {
			t.t.Fatalf("the terminal never shows %q: %q", words, t.seen)
		}
		if _, err := unix.Poll(fds, 100); err != nil || fds[0].Revents == 0 {
			continue
		}
		n, err := t.master.Read(buf)
		if err != nil {
			t.t.Fatalf("the terminal ended before it showed %q: %q", words, t.seen)
		}
		t.seen = append(t.seen, buf[:n]...)
	}
}

func (t *terminal) types(text string) {
	t.t.Helper()
	if _, err := t.master.WriteString(text); err != nil {
		t.t.Fatal(err)
	}
}

// dockerTerminal: run -it and exec -it, with the window's size, its change, and Ctrl-C.
func dockerTerminal(d *docker) {
	run := d.terminal(33, 77, "run", "-it", "--rm", "--name", "person", "box", "sh")
	run.sees("/ # ")
	run.types("tty; until [ \"$(stty size)\" = '33 77' ]; do :; done; echo the size is $(stty size)\n")
	run.sees("/dev/pts/0")
	run.sees("size is 33 77")
	run.types("trap 'echo changed to $(stty size)' WINCH; echo read''y; while :; do sleep 0.1; done\n")
	run.sees("ready")
	run.resize(20, 90)
	run.sees("changed to 20 90")
	run.types("\x03") // Ctrl-C ends the loop

	second := d.terminal(21, 61, "exec", "-it", "person", "sh")
	second.sees("/ # ")
	second.types("until [ \"$(stty size)\" = '21 61' ]; do :; done; echo the size is $(stty size); ls -l /dev/console; exit 6\n")
	second.sees("size is 21 61")
	if err := second.cmd.Wait(); second.cmd.ProcessState.ExitCode() != 6 {
		d.t.Errorf("exec -it: %v, want exit status 6", err)
	}
	run.types("exit 7\n")
	if err := run.cmd.Wait(); run.cmd.ProcessState.ExitCode() != 7 {
		d.t.Errorf("run -it: %v, want exit status 7", err)
	}
}
