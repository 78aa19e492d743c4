package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

// TestCtrOptions runs a container with each option of `ctr run` and reads back what it means.
func TestCtrOptions(t *testing.T) {
	c := startContainerd(t)
	root := rootfs(t)
	ns := namespaceHolder(t)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	volume := t.TempDir()
	if err := os.WriteFile(volume+"/word", []byte("from the host\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	profile := filepath.Join(volume, "profile.json")
	if err := os.WriteFile(profile, []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const cgroups = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro"
	group := "/" + c.namespace()
	for _, s := range []struct {
		name   string
		flags  []string
		script string
		want   string
	}{
		{"default", nil, "grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status", "CapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t0"},
		{"seccomp", []string{"--seccomp"}, "grep Seccomp: /proc/self/status", "Seccomp:\t2"},
		{"profile", []string{"--seccomp", "--seccomp-profile", profile}, "busybox mkdir /tmp/x 2>&1", "Operation not supported"},
		{"new privileges", []string{"--allow-new-privs"}, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0"},
		{"capabilities", []string{"--cap-add", "CAP_NET_ADMIN", "--cap-drop", "CAP_CHOWN"}, "grep CapEff /proc/self/status", "00000000a80435fa"},
		{"privileged", []string{"--privileged"}, "mount -t tmpfs none /tmp && echo mounted; grep ' /sys ' /proc/self/mounts", "mounted"},
		{"memory", []string{"--mount", cgroups, "--memory-limit", "33554432"}, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>&1", "33554432"},
		{"cpus", []string{"--mount", cgroups, "--cpus", "0.5"}, "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>&1", "50000"},
		{"shares", []string{"--mount", cgroups, "--cpu-shares", "512"}, "cat /sys/fs/cgroup/cpu/cpu.shares || cat /sys/fs/cgroup/cpu.weight && echo 512", "512"},
		{"device", []string{"--device", "/dev/kmsg"}, "test -c /dev/kmsg && echo there", "there"},
		{"shared root", []string{"--rootfs-propagation", "shared"}, "grep ' / / ' /proc/self/mountinfo; grep ' / ' /proc/self/mountinfo", "shared:"},
		{"read-only", []string{"--read-only"}, "echo x > /file", "Read-only file system"},
		{"directory", []string{"--cwd", "/tmp", "--env", "WORD=kept"}, "echo $(pwd) $WORD $HOME", "/tmp kept /root"},
		{"mount", []string{"--mount", "type=bind,src=" + volume + ",dst=/vol,options=rbind:ro"}, "cat /vol/word; echo x > /vol/x", "from the host"},
		{"host network", []string{"--net-host"}, "busybox readlink /proc/self/ns/net", own},
		{"joined", []string{"--with-ns", "network:" + ns + "/net", "--with-ns", "ipc:" + ns + "/ipc"}, "busybox readlink /proc/self/ns/net", readlink(t, ns+"/net")},
		{"cgroup", []string{"--cgroup", group + "/own"}, "cat /proc/self/cgroup", group + "/own"},
		{"no pivot", []string{"--no-pivot"}, "echo fine", "fine"},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			id := "o-" + strings.ReplaceAll(s.name, " ", "-") + "-{}"
			out, err := c.heard(c.runArgs(root, id, append([]string{"--rm"}, s.flags...), "/bin/sh", "-c", "("+s.script+") 2>&1; true")...)
			hold(t, err == nil && strings.Contains(out, s.want), "ctr run "+strings.Join(s.flags, " "), fmt.Sprintf("%v: %q, want %q", err, out, s.want))
		})
	}
	t.Run("user namespace", func(t *testing.T) { // needs a snapshot, whose owners ctr changes
		t.Parallel()
		if _, err := c.try("images", "import", imageArchive(t, root, boxImages())); err != nil {
			t.Fatal(err)
		}
		out, err := c.heard("run", "--rm", "--uidmap", "0:200000:65536", "--gidmap", "0:300000:65536", imageBox, "o-userns-{}",
			"/bin/sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map; id -u")
		if f := strings.Fields(out); err != nil || strings.Join(f, " ") != "0 200000 65536 0 300000 65536 0" {
			t.Errorf("the id maps: %v: %q", err, out)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		t.Parallel()
		out, err := c.terminal("a terminal", c.runArgs(root, "o-tty-{}", []string{"--rm", "--tty"}, "/bin/sh", "-c", "'busybox tty; test -t 1 && echo a terminal'")...)
		hold(t, err == nil && strings.Contains(out, "/dev/pts/0"), "run --tty", fmt.Sprintf("%v: %q", err, out))
		if !strings.Contains(out, "a terminal") {
			t.Errorf("run --tty: %v: %q", err, out)
		}
	})
	t.Run("AppArmor", func(t *testing.T) {
		t.Parallel()
		if testenv.AppArmor.Missing() == "" {
			return // a profile that is not loaded is refused there, by other words
		}
		if out, err := c.try(c.runArgs(root, "o-apparmor", []string{"--rm", "--apparmor-profile", "nosuch"}, "/bin/true")...); err == nil || !strings.Contains(err.Error(), "apparmor") {
			t.Errorf("a profile where there is no AppArmor: %v, %q", err, out)
		}
	})
}

// terminal runs ctr at a terminal of script(1)'s until it says the words, again and again for the reason of heard.
func (c *containerd) terminal(words string, args ...string) (out string, err error) {
	for i := range 5 {
		line := strings.ReplaceAll(strings.Join(args, " "), "{}", strconv.Itoa(i))
		out, err = atTerminal(exec.Command("timeout", "--foreground", "60", "script", "-qec", "ctr -a "+c.dir+"/sock -n "+c.namespace()+" "+line, "/dev/null"))
		if err != nil || strings.Contains(out, words) {
			break
		}
	}
	return out, err
}

// atTerminal runs script(1) with an input that does not end: it would hang up otherwise, maybe before it has read a word.
func atTerminal(cmd *exec.Cmd) (string, error) {
	in, hold, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer in.Close()
	defer hold.Close()
	cmd.Stdin = in
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// namespaceHolder keeps namespaces that containers join, and gives their folder.
func namespaceHolder(t *testing.T) string {
	t.Helper()
	testenv.Check(t, testenv.Root)
	holder := exec.Command("sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC, Pdeathsig: unix.SIGKILL}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	return "/proc/" + strconv.Itoa(holder.Process.Pid) + "/ns"
}

func readlink(t *testing.T, name string) string {
	t.Helper()
	to, err := os.Readlink(name)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// removeGroups removes the empty cgroup that containers' were made in: an engine leaves it.
func removeGroups(group string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + group)
	for _, d := range append(dirs, "/sys/fs/cgroup"+group) {
		_ = os.Remove(d)
	}
}

// TestCtrTasks goes through the verbs on a running task, with every event that containerd tells of it, and nothing that the shim
// or the daemon calls an error.
func TestCtrTasks(t *testing.T) {
	c := startContainerd(t)
	root := rootfs(t)
	events := c.events()
	c.ctr(c.runArgs(root, "t", []string{"-d"}, "/bin/sh", "-c", forever)...)
	out, err := c.heard("task", "exec", "--exec-id", "user-{}", "--user", "1000:1000", "t", "/bin/sh", "-c", "id -u; id -g; echo $HOME")
	if err != nil || out != "1000\n1000\n/home/app\n" {
		t.Errorf("exec --user: %v: %q", err, out)
	}
	if out, err = c.heard("task", "exec", "--exec-id", "cwd-{}", "--cwd", "/tmp", "t", "busybox", "pwd"); err != nil || out != "/tmp\n" {
		t.Errorf("exec --cwd: %v: %q", err, out)
	}
	if _, err := c.try("task", "exec", "--exec-id", "code", "t", "/bin/sh", "-c", "exit 9"); err == nil || !strings.Contains(err.Error(), "exit status 9") {
		t.Errorf("exec's exit code: %v", err)
	}
	out, err = c.terminal("t", "task", "exec", "--tty", "--exec-id", "tty-{}", "t", "busybox", "tty")
	hold(t, err == nil && strings.Contains(out, "/dev/pts/"), "exec --tty", fmt.Sprintf("%v: %q", err, out))
	c.ctr("task", "pause", "t")
	c.until("PAUSED", "task", "ls")
	if _, err := c.try("task", "exec", "--exec-id", "paused", "t", "true"); err == nil || !strings.Contains(err.Error(), "paused") {
		t.Errorf("exec in a paused task: %v", err)
	}
	c.ctr("task", "resume", "t")
	c.until("RUNNING", "task", "ls")
	if out := c.ctr("task", "ps", "t"); strings.Count(out, "\n") < 2 {
		t.Errorf("ps: %q", out)
	}
	c.ownCPU("t")
	if _, err := c.try("task", "checkpoint", "t"); err == nil || !strings.Contains(err.Error(), "checkpoint") {
		t.Errorf("a checkpoint that cannot be: %v", err)
	}
	c.until("RUNNING", "task", "ls") // after the attempt, too
	c.ctr("task", "kill", "-s", "TERM", "t")
	c.until("STOPPED", "task", "ls")
	_, _ = c.try("task", "rm", "t")
	c.ctr("container", "rm", "t")
	c.ctr(c.runArgs(root, "hog", []string{"-d", "--memory-limit", "16777216"}, "/bin/sh", "-c", hog)...)
	_, _ = c.try("task", "exec", "--exec-id", "go", "hog", "busybox", "touch", "/tmp/go") // which may end with it
	c.until("STOPPED", "task", "ls")
	_, _ = c.try("task", "rm", "--force", "hog")
	_, _ = c.try("container", "rm", "hog")

	for _, topic := range []string{"create", "start", "exec-added", "exec-started", "paused", "resumed", "exit", "delete", "oom"} {
		c.eventually(events, "/tasks/"+topic)
	}
	text, err := os.ReadFile(c.dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "level=error") && !strings.Contains(line, "failed to load cni") && !strings.Contains(line, "criu") {
			t.Errorf("containerd or its shim complains: %s", line)
		}
	}
}

// ownCPU holds that the metrics are the container's, not the machine's: the shim finds the cgroups by the process.
func (c *containerd) ownCPU(id string) {
	c.t.Helper()
	for line := range strings.Lines(c.ctr("task", "metrics", id)) {
		f := strings.Fields(line)
		if len(f) != 2 || !strings.Contains(f[0], "cpuacct.usage") && !strings.Contains(f[0], "usage_usec") {
			continue
		}
		used, err := strconv.ParseFloat(f[1], 64)
		if strings.Contains(f[0], "usec") {
			used *= 1000
		}
		if err == nil && time.Duration(used) < time.Minute {
			return
		}
		c.t.Errorf("the CPU time: %s", line)
		return
	}
	c.t.Errorf("no CPU time in the metrics: %s", c.ctr("task", "metrics", id))
}

// events has `ctr events` write into a file.
func (c *containerd) events() string {
	c.t.Helper()
	file, err := os.Create(c.dir + "/events")
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command("ctr", "-a", c.dir+"/sock", "events")
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = file.Close()
	})
	for i := 0; ; i++ { // it says nothing when it listens: labels make events until one is heard
		c.ctr("namespace", "create", fmt.Sprintf("heard-%d", i))
		if text, _ := os.ReadFile(file.Name()); strings.Contains(string(text), "/namespaces/create") {
			return file.Name()
		}
		if i > 200 {
			c.t.Fatal("ctr events hears nothing")
		}
	}
}

func (c *containerd) eventually(file, words string) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(file)
		if err != nil {
			c.t.Fatal(err)
		}
		if strings.Contains(string(text), words) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Errorf("no event %s: %s", words, text)
			return
		}
	}
}
