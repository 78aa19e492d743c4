//go:build faults

package fault

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// member is a container on the kernel of a pod, with the pod's bundle as its root.
type member struct {
	pod    *runtime
	id     string
	bundle string
}

// newPod starts a pod, and gives it and a container that is not created yet.
func newPod(t *testing.T) (*runtime, *member) {
	t.Helper()
	pod := newRuntime(t)
	m := &member{pod, pod.id + "m", t.TempDir()}
	says := func(kind string) {
		pod.spec.Annotations = map[string]string{"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": pod.id}
	}
	says("sandbox")
	pod.write()
	pod.up()
	says("container")
	pod.spec.Root.Path = filepath.Join(pod.bundle, "rootfs")
	names := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"}
	for i, n := range pod.spec.Linux.Namespaces {
		if name, ok := names[n.Type]; ok {
			pod.spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", pod.pid(pod.id), name)
		}
	}
	pod.spec.Process.Args = []string{"sh", "-c", "sleep 2000 & while :; do :; done # " + m.id}
	// gVisor keeps the groups of a container that is gone, so that only one without them can have its name in the same kernel. Engines
	// give no name twice.
	pod.spec.Mounts = slices.DeleteFunc(pod.spec.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	text, err := json.Marshal(pod.spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(m.bundle, "config.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pod.must("delete", "--force", m.id) })
	return pod, m
}

func (r *runtime) pid(id string) int {
	r.t.Helper()
	out, _ := r.call("state", id)
	var s specs.State
	if err := json.Unmarshal([]byte(out), &s); err != nil || s.Pid < 2 { // kill(2) takes 0 for the caller's own group
		r.t.Fatalf("state: %s", out)
	}
	return s.Pid
}

func (m *member) up() {
	m.pod.t.Helper()
	m.pod.must("create", "--bundle", m.bundle, m.id)
	m.pod.must("start", m.id)
}

// programs are the container's, as the pod's first sees them.
func (m *member) programs() (list []string) {
	m.pod.t.Helper()
	out, code := m.pod.call("exec", m.pod.id, "busybox", "ps", "-o", "args")
	if code != 0 {
		m.pod.t.Errorf("ps: %s", out)
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, m.id) || strings.Contains(line, "sleep 2000") {
			list = append(list, line)
		}
	}
	return list
}

// The process that stands for a pod's container is killed: its programs end in the kernel that goes on, and what knew it by its name there.
func TestOCIStandInKilled(t *testing.T) {
	if testenv.Isolation() != "gvisor" {
		return // natively the container's process is its program
	}
	pod, m := newPod(t)
	for range 2 { // the second time with the name of the first
		m.up()
		if n := len(m.programs()); n != 2 {
			t.Errorf("it has %d programs: %q", n, m.programs())
		}
		if err := unix.Kill(pod.pid(m.id), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		(&machine{t: t}).until("it is stopped", func() bool {
			out, _ := pod.call("state", m.id)
			return strings.Contains(out, `"stopped"`)
		})
		pod.must("delete", m.id)
		if left := m.programs(); left != nil {
			t.Errorf("left in the pod: %q", left)
		}
	}
	if s := pod.status(); s != "running" {
		t.Errorf("the pod is %s", s)
	}
}

// guards are the processes that kill a program of the guest when the one that stands for it is killed.
func (r *runtime) guards() (list []int) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		text, _ := os.ReadFile(name)
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && strings.Contains(string(text), "\x00guard\x00") && strings.Contains(string(text), r.id) {
			list = append(list, pid)
		}
	}
	return list
}

// A program that was executed and left ends with the process that stands for it, and that with the program. Once it has ended nobody sends
// its pid a signal, also where that process is stopped.
func TestOCIExecStandInKilled(t *testing.T) {
	if testenv.Isolation() != "gvisor" {
		return // natively the process is the program
	}
	r := newRuntime(t)
	r.up()
	m := &machine{t: t}
	runs := func() bool {
		out, _ := r.call("exec", r.id, "busybox", "ps", "-o", "args")
		return strings.Contains(out, "sleep 3000")
	}
	stand := func() int {
		file := filepath.Join(r.bundle, "pid")
		r.must("exec", "--detach", "--pid-file", file, r.id, "sh", "-c", "echo $$ > /dev/shm/pid; exec sleep 3000")
		m.until("the program runs", runs)
		text, err := os.ReadFile(file)
		pid, _ := strconv.Atoi(string(text))
		if err != nil || pid < 2 || len(r.guards()) != 1 {
			t.Fatalf("pid file %q, %v; guards %v", text, err, r.guards())
		}
		return pid
	}
	kill := func(pid int, s unix.Signal) {
		if err := unix.Kill(pid, s); err != nil {
			t.Error(err)
		}
	}
	gone := func(pid int) func() bool {
		return func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || strings.Contains(string(stat), ") Z ")
		}
	}
	ended := func() bool { return !runs() }
	end := func() { r.must("exec", r.id, "sh", "-c", "read pid < /dev/shm/pid; kill $pid") }

	kill(stand(), unix.SIGKILL)
	m.until("the program ends with what stands for it", ended)

	pid := stand()
	stopProcess(t, pid)
	end()
	m.until("the guard has done", func() bool {
		return !slices.ContainsFunc(r.guards(), func(pid int) bool { return !gone(pid)() })
	})
	kill(pid, unix.SIGCONT)
	m.until("what stood for the program ends", gone(pid))

	pid = stand()
	for _, guard := range r.guards() {
		kill(guard, unix.SIGKILL)
	}
	end()
	m.until("what stood for the program ends without its guard", gone(pid))
}
