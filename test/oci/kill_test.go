package oci

import (
	"encoding/json"
	"testing"
	"time"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestKillWithoutPIDNamespace: where the kernel does not end the others with the first process, a kill does, also when that one
// is gone.
func TestKillWithoutPIDNamespace(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"lives", "is gone"} {
		e := newEngine(t)
		e.spec.Process.Args = []string{"sleep", "1000"}
		var list []specs.LinuxNamespace
		for _, n := range e.spec.Linux.Namespaces {
			if n.Type != specs.PIDNamespace {
				list = append(list, n)
			}
		}
		e.spec.Linux.Namespaces = list
		e.spec.Linux.CgroupsPath = "/brig-oci-kill-test"
		e.write()
		e.want(0, "", "run", "--detach", "--bundle", e.bundle, "killed")
		t.Cleanup(func() { e.call("delete", "--force", "killed") })
		e.want(0, "", "exec", "--detach", "killed", "sleep", "2000")
		if first == "is gone" {
			var state specs.State // the container's first process, by a number of the host's
			if err := json.Unmarshal([]byte(e.want(0, "", "state", "killed")), &state); err != nil || state.Pid < 2 {
				t.Fatal(state.Pid, err)
			}
			if err := unix.Kill(state.Pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		} else {
			e.want(0, "sleep 2000", "ps", "killed")
		}
		e.want(0, "", "kill", "killed", "KILL")
		e.until("killed", "stopped")
		// The others end at the same word, and each in its own time.
		for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); ; time.Sleep(5 * time.Millisecond) {
			out := e.want(0, "", "ps", "--format", "json", "killed")
			if out == "[]\n" || out == "null\n" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("when the first process %s, a kill leaves %s", first, out)
			}
		}
		e.want(1, "container not running", "kill", "killed", "KILL")
		e.want(0, "", "kill", "--all", "killed", "KILL")
		e.want(0, "", "delete", "killed")
	}
}

// TestKillBeforeTheStart: a container that waits for its start ends by what would end a program.
func TestKillBeforeTheStart(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.want(0, "", "create", "--bundle", e.bundle, "waits")
	t.Cleanup(func() { e.call("delete", "--force", "waits") })
	e.want(0, "", "kill", "waits", "USR1")
	e.want(0, "", "kill", "waits", "0")
	if s := e.status("waits"); s != "created" {
		t.Errorf("after SIGUSR1 it is %s", s)
	}
	e.want(0, "", "kill", "waits", "TERM")
	e.until("waits", "stopped")
	e.want(0, "", "delete", "waits")
}
