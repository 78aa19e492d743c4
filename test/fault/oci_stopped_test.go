//go:build faults

package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"brig/internal/testenv"
)

// server is the file server of a container's process: in its pid namespace, or in one that is below it.
func server(t *testing.T, of int) int {
	t.Helper()
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", of))
	if err != nil {
		t.Fatal(err)
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		dir := filepath.Dir(name)
		line, _ := os.ReadFile(name)
		stat, _ := os.ReadFile(dir + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := append(strings.Fields(rest), "", "") // the second is its parent (proc_pid_stat(5))
		own, _ := os.Readlink(dir + "/ns/pid")
		if strings.Contains(string(line), "gofer") && (own == space || fields[1] == strconv.Itoa(of)) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			return pid
		}
	}
	t.Fatalf("process %d has no file server", of)
	return 0
}

// TestOCIAProcessIsStopped has one process of an engine's container stopped (SIGSTOP), and kills and deletes the container.
func TestOCIAProcessIsStopped(t *testing.T) {
	if testenv.Isolation() != "gvisor" {
		return // a stopped program is killed as any
	}
	for _, process := range []string{"kernel", "file server", "stand-in", "stand-in's file server"} {
		for _, verb := range []string{"KILL", "TERM", "delete"} {
			t.Run(process+", "+verb, func(t *testing.T) {
				t.Parallel()
				ociStopped(t, process, verb)
			})
		}
	}
}

func ociStopped(t *testing.T, process, verb string) {
	var r *runtime
	var m *member
	var id string
	if strings.HasPrefix(process, "stand-in") {
		r, m = newPod(t)
		m.up()
		id = m.id
	} else {
		r = newRuntime(t)
		r.up()
		id = r.id
	}
	pid := r.pid(id)
	if strings.HasSuffix(process, "file server") {
		pid = server(t, pid)
	}
	stopProcess(t, pid)
	switch verb {
	case "delete":
	case "TERM": // which a kernel that is stopped cannot give its program
		out, code := r.call("kill", id, verb)
		if told := strings.Contains(out, "gVisor's kernel does not answer"); told != (process == "kernel") || told != (code != 0) {
			t.Errorf("exit code %d: %s", code, out)
		}
	default:
		r.must("kill", id, verb)
		(&machine{t: t}).until("it is stopped", func() bool {
			out, _ := r.call("state", id)
			return strings.Contains(out, `"stopped"`)
		})
	}
	r.must("delete", "--force", id)
	if m != nil {
		if left := m.programs(); left != nil {
			t.Errorf("left in the pod: %q", left)
		}
	}
}
