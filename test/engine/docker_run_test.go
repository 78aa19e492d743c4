package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// dockerFlags: each flag of docker run, and what the container sees of it.
func dockerFlags(d *docker) {
	profile := filepath.Join(d.t.TempDir(), "profile.json")
	text := `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}`
	if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	status := func(key string) []string { return []string{"grep", key, "/proc/self/status"} }
	sh := func(script string) []string { return []string{"sh", "-c", script} }
	for _, c := range []struct {
		flags   string
		program []string
		want    string
	}{
		{"", status("Seccomp:"), "Seccomp:\t2"},
		{"", status("NoNewPrivs:"), "NoNewPrivs:\t0"},
		{"--security-opt no-new-privileges", status("NoNewPrivs:"), "NoNewPrivs:\t1"},
		{"--security-opt seccomp=unconfined", status("Seccomp:"), "Seccomp:\t0"},
		{"--security-opt seccomp=" + profile, sh("mkdir /x || true"), "No space left on device"},
		{"--security-opt systempaths=unconfined", sh("grep -c ' /proc' /proc/self/mountinfo"), "1\n"},
		{"", status("CapEff"), "CapEff:\t00000000a80425fb"},
		{"--cap-drop ALL", status("CapBnd"), "CapBnd:\t0000000000000000"},
		{"--cap-drop ALL --cap-add CHOWN", status("CapPrm"), "CapPrm:\t0000000000000001"},
		{"--cap-add SYS_PTRACE --cap-drop CHOWN", status("CapEff"), "CapEff:\t00000000a80c25fa"},
		{"--user ann", status("CapEff"), "CapEff:\t0000000000000000"},
		{"--user ann", []string{"id"}, "uid=1001(ann) gid=1002(ann) groups=50(staff),1002(ann)"},
		{"--user ann:staff", []string{"id"}, "uid=1001(ann) gid=50(staff) groups=50(staff)"},
		{"--user 1234:5678", []string{"id"}, "uid=1234 gid=5678"},
		{"--group-add staff --group-add 4242", []string{"id"}, "groups=0(root),50(staff),4242"},
		{"--workdir /new/dir", []string{"pwd"}, "/new/dir\n"},
		{"--env A=b --env C", sh("echo $A-$C-$PATH"), "b--/usr/local/sbin:"},
		{"--hostname foo", []string{"hostname"}, "foo\n"},
		{"--domainname example.org", []string{"cat", "/proc/sys/kernel/domainname"}, "example.org\n"},
		{"--sysctl net.ipv4.ip_default_ttl=17", []string{"cat", "/proc/sys/net/ipv4/ip_default_ttl"}, "17\n"},
		{"--sysctl kernel.msgmax=9000", []string{"cat", "/proc/sys/kernel/msgmax"}, "9000\n"},
		{"--read-only", sh("touch /x || true"), "Read-only file system"},
		{"--read-only --tmpfs /t:size=1m,mode=1777", sh("touch /t/x && grep ' /t ' /proc/self/mountinfo"), "tmpfs rw,size=1024k"},
		{"--mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700", sh("stat -c %a /t; grep ' /t ' /proc/self/mountinfo"), "700\n"},
		{"--shm-size 8m", sh("df -k /dev/shm"), "shm                       8192"},
		{"--init", sh("cat /proc/1/cmdline | tr '\\0' ' '"), "docker-init -- sh"},
		{"--oom-score-adj 500", []string{"cat", "/proc/self/oom_score_adj"}, "500\n"},
		{"--ulimit nofile=100:200", sh("ulimit -Sn; ulimit -Hn"), "100\n200\n"},
		{"--ulimit core=0 --ulimit nproc=50:60", []string{"grep", "Max processes", "/proc/self/limits"}, "50                   60"},
		{"--network none", sh("ls /sys/class/net"), "lo\n"},
		{"--ipc none", sh("ls -d /dev/shm || true"), "No such file"},
		{"--log-driver none", []string{"echo", "said"}, "said"},
	} {
		d.want(0, c.want, append(append(append([]string{"run", "--rm"}, strings.Fields(c.flags)...), "box"), c.program...)...)
	}
}

// dockerResources: the limits are in the container's cgroup, which it sees.
func dockerResources(d *docker) {
	limits := []string{
		"--memory", "32m", "--memory-reservation", "16m", "--memory-swappiness", "10", "--cpus", "0.5", "--cpu-shares", "512", "--cpuset-cpus", "0", "--pids-limit", "20",
	}
	script := `cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes memory/memory.swappiness cpu/cpu.cfs_quota_us cpu/cpu.shares cpuset/cpuset.cpus pids/pids.max`
	want := "33554432\n16777216\n10\n50000\n512\n0\n20\n"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		limits, script, want = limits[:4], `cd /sys/fs/cgroup; cat memory.max memory.low`, "33554432\n16777216\n"
	}
	d.want(0, want, append(append([]string{"run", "--rm"}, limits...), "box", "sh", "-c", script)...)
	d.want(0, "Cpus_allowed_list:\t0\n", "run", "--rm", "--cpuset-cpus", "0", "box", "grep", "Cpus_allowed_list", "/proc/self/status")
	d.want(2, "can't fork", "run", "--rm", "--pids-limit", "20", "box", "sh", "-c", "for i in $(seq 30); do sleep 1 & done; wait")
	d.want(0, "Read-only file system", "run", "--rm", "box", "sh", "-c", "mkdir /sys/fs/cgroup/x || true")
	d.want(0, "memory:"+d.cgroup+"/other/", "run", "--rm", "--cgroupns", "host", "--cgroup-parent", d.cgroup+"/other", "box", "cat", "/proc/self/cgroup")
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		made, _ := filepath.Glob(dir + d.cgroup + "/other")
		for _, g := range made {
			_ = unix.Rmdir(g)
		}
	}
}

// dockerDevices: a device is there, and the cgroup's rule says what may be done with it.
func dockerDevices(d *docker) {
	const device, number = "/dev/loop-control", "c 10:237"
	d.want(0, "10, 237", "run", "--rm", "--device", device, "box", "ls", "-l", device)
	d.want(0, "opened", "run", "--rm", "--device", device+":/dev/mine", "box", "sh", "-c", "exec 3<>/dev/mine && echo opened")
	d.want(0, "opened", "run", "--rm", "--device", device+":/dev/mine:r", "box", "sh", "-c", "exec 3</dev/mine && echo opened")
	d.want(1, "Operation not permitted", "run", "--rm", "--device", device+":/dev/mine:r", "box", "sh", "-c", "exec 3<>/dev/mine")
	d.want(0, "opened", "run", "--rm", "--device-cgroup-rule", number+" rw", "box", "sh", "-c", "mknod /mine "+strings.ReplaceAll(number, ":", " ")+" && exec 3<>/mine && echo opened")
	d.want(1, "Operation not permitted", "run", "--rm", "box", "sh", "-c", "mknod /mine "+strings.ReplaceAll(number, ":", " ")+" && exec 3<>/mine")
	d.want(0, "crw-r-----    1 root     root       10, 237", "run", "--rm", "--device", device+":/dev/deep/er/mine", "box", "sh", "-c", "chmod 640 /dev/deep/er/mine; ls -l /dev/deep/er/mine")
}

// dockerErrors: the exit codes that scripts know, and words that say what is wrong.
func dockerErrors(d *docker) {
	d.want(5, "", "run", "--rm", "box", "sh", "-c", "exit 5")
	d.want(143, "", "run", "--rm", "--init", "box", "sh", "-c", "kill -TERM $$; sleep 9")
	d.want(127, `exec: "nosuch": executable file not found in $PATH`, "run", "--rm", "box", "nosuch")
	d.want(127, `exec: "/no/such"`, "run", "--rm", "box", "/no/such")
	d.want(126, `exec: "/etc/plain": permission denied`, "run", "--rm", "box", "/etc/plain")
	d.want(126, `exec: "/etc"`, "run", "--rm", "box", "/etc")
	d.want(125, "", "run", "--rm", "--ulimit", "nofile=3000000000:3000000000", "box", "true")
	d.want(125, "kernel.core_pattern", "run", "--rm", "--sysctl", "kernel.core_pattern=x", "box", "true")
}

// dockerNamespaces: a container in another one's namespaces, as a compose file has it, and in the host's.
func dockerNamespaces(d *docker) {
	d.run("pod", "--hostname", "shared", "--ipc", "shareable", "box", "sh", "-c", "echo hello >/dev/shm/word; exec sleep 1000")
	d.until("hello", "exec", "pod", "cat", "/dev/shm/word")
	same := func(kind string) string {
		return d.want(0, kind+":[", "exec", "pod", "readlink", "/proc/self/ns/"+kind)
	}
	d.want(0, same("net"), "run", "--rm", "--network", "container:pod", "box", "readlink", "/proc/self/ns/net")
	d.want(0, "shared", "run", "--rm", "--network", "container:pod", "box", "hostname")
	d.want(0, same("pid"), "run", "--rm", "--pid", "container:pod", "box", "readlink", "/proc/self/ns/pid")
	d.want(0, "sleep 1000", "run", "--rm", "--pid", "container:pod", "box", "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline")
	d.want(0, "hello", "run", "--rm", "--ipc", "container:pod", "box", "cat", "/dev/shm/word")
	for _, kind := range []string{"net", "uts", "pid", "ipc", "cgroup"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			d.t.Fatal(err)
		}
		flag := map[string]string{"net": "--network", "cgroup": "--cgroupns"}[kind]
		if flag == "" {
			flag = "--" + kind
		}
		d.want(0, own, "run", "--rm", flag, "host", "box", "readlink", "/proc/self/ns/"+kind)
		if out := d.want(0, kind, "run", "--rm", "--cgroupns", "private", "box", "readlink", "/proc/self/ns/"+kind); strings.Contains(out, own) {
			d.t.Errorf("without %s host the container has the host's %s namespace", flag, kind)
		}
	}
	d.want(0, ":/\n", "run", "--rm", "--cgroupns", "private", "box", "grep", "memory\\|^0:", "/proc/self/cgroup")
}

// dockerPrivileged: every device, nothing masked, no filter. What the machine itself lacks of capabilities is left out.
func dockerPrivileged(d *docker) {
	d.want(0, "Seccomp:\t0", "run", "--rm", "--privileged", "box", "grep", "Seccomp:", "/proc/self/status")
	d.want(0, "mounted", "run", "--rm", "--privileged", "box", "sh", "-c", "mount -t tmpfs x /tmp && echo mounted")
	d.want(0, "/dev/loop-control", "run", "--rm", "--privileged", "box", "ls", "/dev/loop-control")
	d.want(0, "opened", "run", "--rm", "--privileged", "box", "sh", "-c", "exec 3<>/dev/loop-control && echo opened")
	d.want(0, "0\n", "run", "--rm", "--privileged", "box", "sh", "-c", "grep -c ' /proc/' /proc/self/mountinfo || true")
	d.want(0, " rw,", "run", "--rm", "--privileged", "box", "sh", "-c", "grep ' /sys ' /proc/self/mountinfo")
	var own unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_1}, &own); err != nil {
		d.t.Fatal(err)
	}
	d.want(0, fmt.Sprintf("%08x\n", own.Permitted), "run", "--rm", "--privileged", "box", "grep", "CapEff", "/proc/self/status")
	d.want(0, fmt.Sprintf("%08x\n", own.Permitted), "run", "--rm", "--cap-add", "ALL", "box", "grep", "CapPrm", "/proc/self/status")
}

// hog takes all memory there is, when it is told to.
const hog = "until [ -e /tmp/go ]; do sleep 0.1; done; x=a; while :; do x=$x$x; done"

// dockerOOM: a container that takes more memory than it may is ended, and Docker knows why.
func dockerOOM(d *docker) {
	d.t.Cleanup(func() { d.want(0, "", "rm", "-f", "hog", "modest") })
	// Not at once: the shim listens for it from when start has come back.
	d.want(0, "", "run", "-d", "--name", "hog", "--memory", "16m", "box", "sh", "-c", hog)
	_, _ = d.try("exec", "hog", "touch", "/tmp/go") // which may end with it
	d.until("true", "inspect", "-f", "{{.State.OOMKilled}}", "hog")
	d.until("137 exited", "inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "hog")
	d.want(0, "", "run", "--name", "modest", "--memory", "16m", "box", "true")
	d.want(0, "false", "inspect", "-f", "{{.State.OOMKilled}}", "modest")
}

// dockerTwenty runs twenty at once, with their removal.
func dockerTwenty(d *docker) {
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			d.want(i, fmt.Sprintf("number %d", i), "run", "--rm", "box", "sh", "-c", fmt.Sprintf("echo number %d; exit %d", i, i))
		})
	}
	wg.Wait()
}
