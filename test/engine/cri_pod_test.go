package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestCRI is what a kubelet asks of the CRI plugin, with every container on brig-oci.
func TestCRI(t *testing.T) {
	c := startCRI(t)
	for _, s := range []struct {
		name string
		test func(*testing.T, *cri)
	}{
		{"pod", criPod}, {"shared PIDs", criSharedPIDs}, {"exec", criExec}, {"port-forward", criPortForward},
		{"update and stats", criUpdate}, {"stop", criStop}, {"handler", criHandler}, {"out of memory", criOutOfMemory},
		{"host network", criHostNetwork}, {"sysctls", criSysctls}, {"processes", criProcesses}, {"ten pods", criTenPods},
		{"user", criUser}, {"account", criAccount}, {"null", criNull}, {"read-only root", criReadOnly}, {"read-only volume", criReadOnlyBelow}, {"capabilities", criCapabilities}, {"seccomp", criSeccomp},
		{"privileged", criPrivileged}, {"propagation", criPropagation}, {"absent program", criAbsent},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			defer goOn()
			s.test(t, c)
		})
	}
}

// criPod has two containers that share what a pod shares: network, IPC, host name.
func criPod(t *testing.T, c *cri) {
	p := c.pod(t, nil)
	a := p.run(t, "a", forever, nil)
	b := p.run(t, "b", forever, nil)
	links := func(id string) map[string]string {
		out := c.want(t, "", "exec", "-s", id, "/bin/sh", "-c", "cd /proc/1/ns; for n in net ipc uts pid mnt; do echo $n $(busybox readlink $n); done")
		found := map[string]string{}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) == 2 {
				found[f[0]] = f[1]
			}
		}
		return found
	}
	la, lb := links(a), links(b)
	for _, n := range []string{"net", "ipc", "uts", "pid", "mnt"} {
		if shared := n == "net" || n == "ipc" || n == "uts"; la[n] == "" || (la[n] == lb[n]) != shared {
			t.Errorf("the %s namespaces: %q and %q", n, la[n], lb[n])
		}
	}
	c.want(t, "10.231.", "exec", "-s", a, "busybox", "ip", "addr", "show", "eth0")
	c.want(t, "1 packets received", "exec", "-s", b, "busybox", "ping", "-c", "1", "-W", "5", "10.231.0.1")
	c.want(t, "pod-", "exec", "-s", a, "hostname")
	c.want(t, "", "exec", "-s", a, "/bin/sh", "-c", "echo passed > /dev/shm/word")
	c.want(t, "passed", "exec", "-s", b, "cat", "/dev/shm/word")
	c.want(t, "CONTAINER_RUNNING", "inspect", a)
	c.want(t, "SANDBOX_READY", "inspectp", p.id)
	p.remove(t)
	if out, err := c.try("inspectp", p.id); err == nil {
		t.Errorf("the pod is still there: %s", out)
	}
}

// criSharedPIDs has the containers see each other's processes, and a later one join those of a chosen one (kubectl debug).
func criSharedPIDs(t *testing.T, c *cri) {
	share := func() object { return object{"namespace_options": object{"pid": nsPod}} }
	p := c.pod(t, object{"security_context": share()})
	a := p.run(t, "a", "exec sleep 1234", secure(share()))
	b := p.run(t, "b", "exec sleep 5678", secure(share()))
	c.want(t, "sleep 1234", "exec", "-s", b, "ps")
	out := c.want(t, "sleep 5678", "exec", "-s", a, "ps")
	if !strings.Contains(out, "sleep 1000") { // the pause image's
		t.Errorf("the pod's first process is not the first: %s", out)
	}
	c.want(t, a, "stop", "-t", "0", a) // kills the one, not the pod
	c.until(t, "CONTAINER_EXITED", "inspect", a)
	if out := c.want(t, "sleep 5678", "exec", "-s", b, "ps"); strings.Contains(out, "1234") {
		t.Errorf("a stopped container's process lives: %s", out)
	}

	other := c.pod(t, nil)
	target := other.run(t, "target", "exec sleep 4321", nil)
	debug := other.run(t, "debug", forever, secure(object{"namespace_options": object{"pid": nsTarget, "target_id": target}}))
	c.want(t, "1 root     sleep 4321", "exec", "-s", debug, "ps")
}

func criExec(t *testing.T, c *cri) {
	p := c.pod(t, nil)
	id := p.run(t, "c", "echo to the log; echo and this >&2; "+forever, object{"envs": []object{{"key": "WORD", "value": "kept"}}, "working_dir": "/tmp"})
	c.until(t, "to the log", "logs", id)
	c.want(t, "and this", "logs", id)
	c.want(t, "kept /tmp", "exec", "-s", id, "/bin/sh", "-c", "echo $WORD $(pwd)")
	c.want(t, "streamed", "exec", id, "/bin/echo", "streamed")
	for _, flags := range [][]string{{"-s"}, nil} {
		if out, err := c.try(append(append([]string{"exec"}, flags...), id, "/bin/sh", "-c", "exit 9")...); err == nil || !strings.Contains(out, "9") {
			t.Errorf("the exit code of exec %v is lost: %v: %s", flags, err, out)
		}
	}
	if out, err := c.try("exec", "-s", id, "nosuch"); err == nil || !strings.Contains(out, "executable file not found in $PATH") {
		t.Errorf("exec of a program that is not there: %v: %s", err, out)
	}
	if out, err := c.try("exec", "-s", "--timeout", "1", id, "sleep", "100"); err == nil || !strings.Contains(out, "timeout") && !strings.Contains(out, "deadline") {
		t.Errorf("exec past its time: %v: %s", err, out)
	}
	sock := "unix://" + c.dir + "/sock"
	out, err := atTerminal(c.command("timeout", "--foreground", "60", "script", "-qec", strings.Join([]string{c.crictl, "--config /dev/null -r", sock, "-i", sock, "exec -it", id,
		"/bin/sh -c 'busybox tty; busybox stty size; test -t 0 && echo a terminal'"}, " "), "/dev/null"))
	hold(t, err == nil && strings.Contains(out, "/dev/pts/"), "exec -it", fmt.Sprintf("%v: %q", err, out))
	if !strings.Contains(out, "a terminal") {
		t.Errorf("exec -it: %v: %q", err, out)
	}
}

func criPortForward(t *testing.T, c *cri) {
	p := c.pod(t, nil)
	id := p.run(t, "web", "while :; do echo from the pod | busybox nc -l -p 8080; done", nil)
	c.until(t, ":1F90", "exec", "-s", id, "cat", "/proc/net/tcp", "/proc/net/tcp6") // it listens at 8080
	sock := "unix://" + c.dir + "/sock"
	cmd := c.command(c.crictl, "--config", "/dev/null", "-r", sock, "-i", sock, "port-forward", p.id, "18080:8080")
	log, err := os.Create(c.dir + "/forward")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	var out string
	const what = "forward a port"
	for deadline := time.Now().Add(waiting(t, what)); !strings.Contains(out, "from the pod"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			hold(t, false, what, fmt.Sprintf("%q, %v: %s", out, err, text))
			return
		}
		out, err = c.enter("busybox", "nc", "-w", "1", "127.0.0.1", "18080")
	}
}

// limit reads a file of a container's cgroup: its name under version 1, with the controller's, and under version 2.
func (c *cri) limit(id, v1, v2 string) string {
	controller, file, _ := strings.Cut(v1, "/")
	text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, c.cgroup, id, file))
	if err != nil {
		text, err = os.ReadFile(filepath.Join("/sys/fs/cgroup", c.cgroup, id, v2))
	}
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

func criUpdate(t *testing.T, c *cri) {
	p := c.pod(t, nil)
	id := p.run(t, "c", forever, object{"linux": object{"resources": object{
		"memory_limit_in_bytes": 64 << 20, "cpu_period": 100000, "cpu_quota": 50000, "cpu_shares": 512, "oom_score_adj": 500,
	}}})
	const memory, memoryV2 = "memory/memory.limit_in_bytes", "memory.max"
	limits := func(when string, bytes int, quota string) {
		got := c.limit(id, memory, memoryV2) + " " + c.limit(id, "cpu/cpu.cfs_quota_us", "cpu.max")
		hold(t, strings.HasPrefix(got, fmt.Sprintf("%d %s", bytes, quota)), "limits "+when, got)
	}
	limits("at the start", 64<<20, "50000")
	c.want(t, "500", "exec", "-s", id, "cat", "/proc/1/oom_score_adj")
	c.want(t, "", "update", "--memory", fmt.Sprint(128<<20), "--cpu-quota", "25000", "--cpu-period", "100000", id)
	limits("after the update", 128<<20, "25000")

	var stats struct {
		Stats []struct {
			CPU    struct{ UsageCoreNanoSeconds struct{ Value string } }
			Memory struct{ WorkingSetBytes struct{ Value string } }
		}
	}
	if err := json.Unmarshal([]byte(c.want(t, id, "stats", "-o", "json", "--id", id)), &stats); err != nil {
		t.Fatal(err)
	}
	for _, s := range stats.Stats {
		if n := len(s.CPU.UsageCoreNanoSeconds.Value); n < 6 || len(s.Memory.WorkingSetBytes.Value) < 5 {
			t.Errorf("the statistics: %+v", s)
		}
	}
	c.want(t, "usageCoreNanoSeconds", "statsp", "-o", "json", "--id", p.id)
}

func criStop(t *testing.T, c *cri) {
	p := c.pod(t, nil)
	polite := p.run(t, "polite", forever, nil)
	deaf := p.run(t, "deaf", "trap '' TERM; echo deaf; while :; do sleep 1000 & wait; done", nil)
	c.until(t, "deaf", "logs", deaf)
	c.want(t, "", "stop", "-t", "20", polite)
	c.want(t, `"exitCode": 0`, "inspect", polite)
	c.want(t, "", "stop", "-t", "1", deaf)
	c.want(t, `"exitCode": 137`, "inspect", deaf)
	ends := p.run(t, "ends", "exit 3", nil)
	c.until(t, "CONTAINER_EXITED", "inspect", ends)
	c.want(t, `"exitCode": 3`, "inspect", ends)
	never := p.create(t, "never", forever, nil)
	c.want(t, "CONTAINER_CREATED", "inspect", never)
	for _, id := range []string{polite, deaf, ends, never} {
		c.want(t, id, "rm", id)
	}
	if out := c.want(t, "", "ps", "-a", "-q", "--pod", p.id); strings.TrimSpace(out) != "" {
		t.Errorf("left: %q", out)
	}
}

// criHandler has pods of a RuntimeClass beside others, of Debian's runc too: that is how a cluster goes over, and back.
func criHandler(t *testing.T, c *cri) {
	for _, handler := range []string{"", "brig", "runc"} {
		var flags []string
		if handler != "" {
			flags = []string{"--runtime", handler}
		}
		p := c.pod(t, nil, flags...)
		id := p.run(t, "c", forever, nil)
		c.want(t, "still here", "exec", "-s", id, "echo", "still here")
		c.want(t, `"runtimeHandler": "`+handler, "inspectp", p.id)
		if handler != "runc" {
			c.want(t, runtime, "inspectp", p.id)
		}
	}
	if _, out, err := c.tryPod(t, nil, "--runtime", "nosuch"); err == nil {
		t.Errorf("a handler that is not configured: %s", out)
	}
}

func criOutOfMemory(t *testing.T, c *cri) {
	p := c.pod(t, nil)
	id := p.run(t, "hog", "x=a; while :; do x=$x$x; done", object{"linux": object{"resources": object{"memory_limit_in_bytes": 16 << 20}}})
	c.until(t, "CONTAINER_EXITED", "inspect", id)
	out := c.until(t, "OOMKilled", "inspect", id)
	if !strings.Contains(out, `"exitCode": 137`) {
		t.Errorf("the exit code: %s", out)
	}
}

func criHostNetwork(t *testing.T, c *cri) {
	host := object{"namespace_options": object{"network": nsNode, "pid": nsContainer}}
	p := c.pod(t, object{"security_context": host})
	own, err := c.enter("readlink", "/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if out := p.output(t, "c", "busybox readlink /proc/self/ns/net", secure(host)); out != own {
		t.Errorf("the network namespace is %q, the node's is %q", out, own)
	}
}

func criSysctls(t *testing.T, c *cri) {
	p := c.pod(t, object{"sysctls": map[string]string{"net.ipv4.ip_unprivileged_port_start": "1", "kernel.shm_rmid_forced": "1", "kernel.msgmax": "9000"}})
	out := p.output(t, "c", "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced kernel/msgmax", nil)
	if out != "1\n1\n9000\n" {
		t.Errorf("the sysctls are %q", out)
	}
	if _, out, err := c.tryPod(t, object{"sysctls": map[string]string{"kernel.panic": "1"}}); err == nil || !strings.Contains(out, "kernel.panic") {
		t.Errorf("a sysctl of the host's: %v: %s", err, out)
	}
}

// criProcesses limits a pod's processes as a kubelet does: in the group above its containers.
func criProcesses(t *testing.T, c *cri) {
	p := c.pod(t, object{"cgroup_parent": c.cgroup + "/few"})
	id := p.run(t, "c", "read x; i=0; while [ $i -lt 40 ]; do sleep 100 & i=$((i+1)); done; echo all", object{"stdin": true})
	file := "/sys/fs/cgroup/pids" + c.cgroup + "/few/pids.max"
	if _, err := os.Stat(file); err != nil {
		file = "/sys/fs/cgroup" + c.cgroup + "/few/pids.max"
	}
	if err := os.WriteFile(file, []byte("16"), 0); err != nil {
		t.Fatal(err)
	}
	if out, err := c.try("exec", "-s", id, "/bin/sh", "-c", "i=0; while [ $i -lt 40 ]; do sleep 1 & i=$((i+1)); done; echo all"); true {
		hold(t, err != nil && strings.Contains(out, "can't fork"), "40 processes where 16 may be", fmt.Sprintf("%v: %s", err, out))
	}
}

func criTenPods(t *testing.T, c *cri) {
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			word := fmt.Sprintf("word-%d", i)
			p, out, err := c.tryPod(t, nil)
			if err != nil {
				t.Errorf("%v: %s", err, out)
				return
			}
			id, out, err := p.tryCreate(t, "c", "echo "+word+"; "+forever, nil)
			if err == nil {
				out, err = c.try("start", id)
			}
			if err == nil {
				out, err = c.try("exec", "-s", id, "/bin/echo", word)
			}
			if err != nil || strings.TrimSpace(out) != word {
				t.Errorf("%s: %v: %s", word, err, out)
			}
			if out, err := c.try("rmp", "-f", p.id); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
}

func criAbsent(t *testing.T, c *cri) {
	p := c.pod(t, nil)
	id, out, err := p.tryCreate(t, "c", "", object{"command": []string{"/nosuch"}})
	if err == nil {
		out, err = c.try("start", id)
	}
	if err == nil || !strings.Contains(out, `exec: \"/nosuch\"`) && !strings.Contains(out, `exec: "/nosuch"`) || !strings.Contains(out, "no such file or directory") {
		t.Errorf("a program that is not there: %v: %s", err, out)
	}
}

// TestCRIRestart has containerd die under running pods and come back: nothing inside has noticed, and nothing is forgotten.
func TestCRIRestart(t *testing.T) {
	c := startCRI(t)
	p := c.pod(t, nil)
	id := p.run(t, "c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done", nil)
	brief := p.run(t, "brief", "until [ -e /tmp/end ]; do sleep 0.1; done; exit 4", object{"mounts": []object{{"host_path": c.dir + "/logs", "container_path": "/tmp"}}})
	c.until(t, "line 1", "logs", id)
	c.halt()
	c.write("logs/end", "")
	c.start()
	c.until(t, "CONTAINER_RUNNING", "inspect", id)
	c.want(t, "still here", "exec", "-s", id, "echo", "still here")
	c.until(t, `"exitCode": 4`, "inspect", brief)
	second := p.run(t, "second", forever, nil)
	c.want(t, "", "stop", "-t", "5", second)
	p.remove(t)
}

// TestCRISwitch does what docs/engines.md says: a node goes over to brig-oci and back, under running pods, and each pod stays
// on the runtime that it was made with.
func TestCRISwitch(t *testing.T) {
	c := startCRI(t)
	type step struct {
		name  string
		added []string
		flags []string
		brig  bool
	}
	ids := map[string]string{}
	pods := map[string]*pod{}
	for _, s := range []step{
		{"before", nil, nil, false},
		{"beside", []string{brigHandler(t)}, nil, false},
		{"class", []string{brigHandler(t)}, []string{"--runtime", "brig"}, true},
		{"all", []string{brigHandler(t), everybodysRuntime(t, "brig")}, nil, true},
		{"back", []string{brigHandler(t), everybodysRuntime(t, "runc")}, nil, false},
		{"gone", nil, nil, false},
	} {
		c.halt()
		c.configure(s.added...)
		c.start()
		pods[s.name] = c.pod(t, nil, s.flags...)
		if info := c.want(t, "runtimeType", "inspectp", pods[s.name].id); strings.Contains(info, runtime) != s.brig {
			t.Errorf("%s: the pod is on brig-oci: %v", s.name, !s.brig)
		}
		ids[s.name] = pods[s.name].run(t, "c", forever, nil)
		for name, id := range ids {
			c.want(t, name, "exec", "-s", id, "echo", name)
		}
	}
	for name, id := range ids {
		c.want(t, "", "stop", "-t", "10", id)
		c.want(t, `"exitCode": 0`, "inspect", id)
		pods[name].remove(t)
	}
}
