package engine

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

// docker is a daemon of this test's own, without a network.
type docker struct {
	t      *testing.T
	dir    string
	cgroup string // the group that its containers are in
	daemon *exec.Cmd
	log    *os.File
}

// startDocker starts a daemon with an image "box". Flags are further ones of dockerd's.
func startDocker(t *testing.T, flags ...string) *docker {
	t.Helper()
	return startDockerAs(t, nil, append(flags, "--add-runtime", "brig="+runtime, "--default-runtime=brig")...)
}

// startDockerAs starts it through another program, which gets the daemon's command line as arguments.
func startDockerAs(t *testing.T, through []string, flags ...string) *docker {
	t.Helper()
	testenv.Check(t, testenv.Root, testenv.Program("dockerd"), testenv.Program("docker"))
	dir, err := os.MkdirTemp("/run", "brig-docker-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // the root of a user namespace goes through it
		t.Fatal(err)
	}
	d := &docker{t: t, dir: dir, cgroup: "/" + filepath.Base(dir)}
	if d.log, err = os.Create(dir + "/log"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	d.start(through, flags...)
	archive := filepath.Join(t.TempDir(), "root.tar")
	if out, err := exec.Command("tar", "-C", box(t), "-cf", archive, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.want(0, "sha256:", "import", archive, "box")
	return d
}

func (d *docker) start(through []string, flags ...string) {
	d.t.Helper()
	line := append(through, "dockerd", "--data-root", d.dir+"/data", "--exec-root", d.dir+"/exec", "-p", d.dir+"/pid", "-H", "unix://"+d.dir+"/sock",
		"--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs", "--cgroup-parent", d.cgroup)
	d.daemon = exec.Command(line[0], append(line[1:], flags...)...)
	d.daemon.Stdout, d.daemon.Stderr = d.log, d.log
	if err := d.daemon.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.until("Server", "version")
}

// box makes the image's root file system: every program of busybox, two users, and a file that is no program.
func box(t *testing.T) string {
	t.Helper()
	root := rootfs(t)
	list, err := exec.Command("busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(list)) {
		_ = os.Symlink("busybox", filepath.Join(root, "bin", name)) // some are there
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nann:x:1001:1002:Ann:/home/ann:/bin/sh\n",
		"etc/group":  "root:x:0:\nstaff:x:50:ann\nann:x:1002:\n",
		"etc/plain":  "no program\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// stop ends the daemon, and what of its containers a failed test has left.
func (d *docker) stop() {
	if list, _ := d.try("ps", "-aq"); d.daemon != nil && strings.TrimSpace(list) != "" {
		_, _ = d.try(append([]string{"rm", "-f"}, strings.Fields(list)...)...)
	}
	// Docker answers before the last container is cleared away, and stops without finishing that.
	for deadline := time.Now().Add(patience); len(d.groups()) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Errorf("cgroups of Docker's are left: %v", d.groups())
			d.sweep()
			break
		}
	}
	d.halt(unix.SIGTERM)
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], d.dir) {
			_ = unix.Unmount(f[4], unix.MNT_DETACH) // Docker leaves its network namespaces mounted
		}
	}
	parents, _ := filepath.Glob("/sys/fs/cgroup/*" + d.cgroup)
	for _, dir := range append(parents, "/sys/fs/cgroup"+d.cgroup) {
		_ = os.Remove(dir)
	}
	if d.t.Failed() {
		text, _ := os.ReadFile(d.dir + "/log")
		d.t.Logf("dockerd's log ends:\n%s", text[max(0, len(text)-4000):])
	}
	_ = d.log.Close()
	if err := os.RemoveAll(d.dir); err != nil {
		d.t.Error(err)
	}
}

// halt ends the daemon alone. It takes its containerd along, in the end: the next daemon waits in vain for one that is dying.
func (d *docker) halt(s unix.Signal) {
	if d.daemon == nil {
		return
	}
	own := -1
	if text, err := os.ReadFile(d.dir + "/exec/containerd/containerd.pid"); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			own, _ = unix.PidfdOpen(pid, 0)
		}
	}
	_ = d.daemon.Process.Signal(s)
	_ = d.daemon.Wait()
	d.daemon = nil
	if own >= 0 {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(own), Events: unix.POLLIN}}, int(patience.Milliseconds())); n != 1 {
			d.t.Errorf("Docker's containerd does not end with it: %v", err)
		}
		_ = unix.Close(own)
		// Until pid 1 has reaped it, the next daemon takes it for one that runs.
		_ = os.Remove(d.dir + "/exec/containerd/containerd.pid")
	}
}

// sweep ends what a failed test has left running, and removes its groups.
func (d *docker) sweep() {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "containerd-shim") && strings.Contains(string(text), d.dir) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	for _, file := range d.groups() {
		text, _ := os.ReadFile(file)
		for _, word := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		dir := filepath.Dir(file)
		for deadline := time.Now().Add(patience); unix.Rmdir(dir) == unix.EBUSY && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		}
	}
}

// groups are the containers' cgroups that are there.
func (d *docker) groups() []string {
	v1, _ := filepath.Glob("/sys/fs/cgroup/*" + d.cgroup + "/*/cgroup.procs")
	v2, _ := filepath.Glob("/sys/fs/cgroup" + d.cgroup + "/*/cgroup.procs")
	return append(v1, v2...)
}

// in is the same daemon for a subtest.
func (d *docker) in(t *testing.T) *docker {
	c := *d
	c.t = t
	return &c
}

func (d *docker) command(args ...string) *exec.Cmd {
	return exec.Command("timeout", append([]string{"--foreground", "-k", "1", "60", "docker", "-H", "unix://" + d.dir + "/sock"}, args...)...)
}

// try runs docker with its output in a file: a container may hold a pipe for long.
func (d *docker) try(args ...string) (string, int) {
	d.t.Helper()
	out, err := os.CreateTemp(d.dir, "out-")
	if err != nil {
		d.t.Fatal(err)
	}
	defer out.Close()
	defer os.Remove(out.Name())
	cmd := d.command(args...)
	cmd.Stdout, cmd.Stderr = out, out
	_ = cmd.Run()
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		d.t.Fatal(err)
	}
	text, err := io.ReadAll(out)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

func (d *docker) want(code int, words string, args ...string) string {
	d.t.Helper()
	out, got := d.try(args...)
	hold(d.t, got == code && strings.Contains(out, words), "docker "+strings.Join(args, " "), fmt.Sprintf("exit code %d, %q; want %d, %q", got, out, code, words))
	return out
}

// until repeats docker until its output has the words.
func (d *docker) until(words string, args ...string) {
	d.t.Helper()
	what := "docker " + strings.Join(args, " ") + " until " + words
	for deadline := time.Now().Add(waiting(d.t, what)); ; time.Sleep(50 * time.Millisecond) {
		out, code := d.try(args...)
		if code == 0 && strings.Contains(out, words) {
			if listed(d.t, what) {
				hold(d.t, true, what, out)
			}
			return
		}
		if time.Now().After(deadline) && listed(d.t, what) {
			hold(d.t, false, what, out)
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(d.dir + "/log")
			d.t.Fatalf("docker %s never says %q: %s; dockerd's log ends:\n%s", strings.Join(args, " "), words, out, text[max(0, len(text)-2000):])
		}
	}
}

// run starts a container in the background that is removed when the test ends.
func (d *docker) run(name string, args ...string) {
	d.t.Helper()
	d.t.Cleanup(func() { d.want(0, name, "rm", "-f", "-v", name) })
	d.want(0, "", append([]string{"run", "-d", "--name", name}, args...)...)
}

func TestDocker(t *testing.T) {
	d := startDocker(t)
	for name, test := range map[string]func(*docker){
		"flags": dockerFlags, "resources": dockerResources, "devices": dockerDevices, "errors": dockerErrors, "exec": dockerExec, "namespaces": dockerNamespaces,
		"life": dockerLife, "restart": dockerRestart, "health": dockerHealth, "watch": dockerWatch, "update": dockerUpdate, "copy": dockerCopy,
		"terminal": dockerTerminal, "volumes": dockerVolumes, "privileged": dockerPrivileged, "oom": dockerOOM, "twenty": dockerTwenty,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(d.in(t))
		})
	}
	t.Cleanup(func() { // before the daemon is stopped
		if out := d.want(0, "", "ps", "-aq"); out != "" {
			t.Errorf("containers are left: %q", out)
		}
	})
}

// TestDockerUserNamespace has all containers in a user namespace. The daemon sees files of subordinate ids that only it sees.
func TestDockerUserNamespace(t *testing.T) {
	ids := filepath.Join(t.TempDir(), "ids")
	if err := os.WriteFile(ids, []byte("daemon:300000:65536\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`mount --bind %s /etc/subuid && mount --bind %s /etc/subgid && exec "$@"`, ids, ids)
	d := startDockerAs(t, []string{"unshare", "-m", "--propagation", "slave", "sh", "-c", script, "sh"},
		"--userns-remap=daemon", "--add-runtime", "brig="+runtime, "--default-runtime=brig")
	d.want(0, "     0     300000      65536", "run", "--rm", "box", "cat", "/proc/self/uid_map")
	d.want(0, "uid=0(root) gid=0(root)", "run", "--rm", "box", "id")
	d.want(0, "root root", "run", "--rm", "box", "stat", "-c", "%U %G", "/bin")
	d.want(0, "crw-rw-rw-", "run", "--rm", "box", "ls", "-l", "/dev/null")
	d.want(0, "/dev/pts/0", "run", "--rm", "-t", "box", "tty")
	d.want(0, "3", "run", "--rm", "--sysctl", "net.ipv4.ip_default_ttl=3", "--read-only", "--tmpfs", "/t", "box", "cat", "/proc/sys/net/ipv4/ip_default_ttl")
	d.want(0, "all of them", "run", "--rm", "--cap-add", "ALL", "--cap-add", "SYS_RESOURCE", "box", "sh", "-c", "ulimit -Hn 2000000 || echo all of them")
	d.want(0, "0          0 4294967295", "run", "--rm", "--userns", "host", "box", "cat", "/proc/self/uid_map")
	d.run("long", "-v", "data:/data", "box", "sleep", "1000")
	d.want(0, "uid=1001(ann)", "exec", "-u", "ann", "long", "id")
	d.want(0, "", "exec", "long", "sh", "-c", "echo mine >/data/f")
	d.want(0, "root 600", "exec", "long", "sh", "-c", "chmod 600 /data/f; stat -c '%U %a' /data/f")
	d.want(0, "mine", "run", "--rm", "-v", "data:/data", "--network", "container:long", "--pid", "container:long", "box", "cat", "/data/f")
	d.want(0, "long", "stop", "-t", "0", "long")
}

// TestDockerLiveRestore has the daemon die twice under a running container, by a signal that it obeys and by one that it cannot.
func TestDockerLiveRestore(t *testing.T) {
	d := startDocker(t, "--live-restore")
	d.run("long", "--memory", "64m", "box", "sh", "-c", "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.1; done")
	d.until("tick 3", "logs", "long")
	pid := d.want(0, "", "inspect", "-f", "{{.State.Pid}}", "long")
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		d.halt(s)
		d.start(nil, "--live-restore", "--add-runtime", "brig="+runtime, "--default-runtime=brig")
		d.want(0, pid, "inspect", "-f", "{{.State.Pid}}", "long")
		d.want(0, "still here", "exec", "long", "echo", "still here")
	}
	ticks := strings.Count(d.want(0, "tick 0", "logs", "long"), "tick")
	d.until(fmt.Sprintf("tick %d", ticks+3), "logs", "long") // the log goes on, and has missed nothing
	d.want(0, "", "pause", "long")
	d.want(0, "", "unpause", "long")
	d.want(0, "", "update", "--memory", "32m", "--memory-swap", "32m", "long")
	d.want(0, "", "stop", "-t", "0", "long")
	d.want(0, "137 exited", "inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "long")
}

// TestDockerSwitch does what docs/engines.md says: over to brig-oci and back by daemon.json, while a container runs.
func TestDockerSwitch(t *testing.T) {
	testenv.Check(t, testenv.Program("runc"))
	config := filepath.Join(t.TempDir(), "daemon.json")
	write := func(text string) {
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entry := fmt.Sprintf(`"runtimes": {"brig": {"path": %q}}`, runtime)
	write("{" + entry + "}")
	d := startDockerAs(t, nil, "--config-file", config)
	d.want(0, "runc\n", "info", "-f", "{{.DefaultRuntime}}")
	d.want(0, "one", "run", "--rm", "box", "echo", "one")
	d.want(0, "two", "run", "--rm", "--runtime", "brig", "box", "echo", "two")

	write(`{"default-runtime": "brig", ` + entry + "}")
	if err := d.daemon.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	d.until("brig\n", "info", "-f", "{{.DefaultRuntime}}")
	d.run("stays", "box", "sleep", "1000")
	d.want(0, "brig\n", "inspect", "-f", "{{.HostConfig.Runtime}}", "stays")

	write(`{"default-runtime": "runc", ` + entry + "}")
	if err := d.daemon.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	d.until("runc\n", "info", "-f", "{{.DefaultRuntime}}")
	d.want(0, "untouched", "exec", "stays", "echo", "untouched")
	d.want(0, "runc\n", "run", "--rm", "--name", "new", "box", "echo", "runc")
	d.want(0, "stays", "restart", "-t", "0", "stays")
	d.want(0, "brig\n", "inspect", "-f", "{{.HostConfig.Runtime}}", "stays")
}
