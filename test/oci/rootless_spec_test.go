package oci

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestSpecOfAnUnprivilegedUser: what `spec --rootless` writes runs for that user as it is, and a limit that only a cgroup could
// hold is refused in runc's words.
func TestSpecOfAnUnprivilegedUser(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	testenv.Check(t, testenv.Unprivileged, testenv.Program("setpriv"))
	const user = 23457
	dir := openFolder(t)
	mine := filepath.Join(dir, "brig-oci")
	copyFile(t, runtime, mine)
	state := filepath.Join(dir, "state")
	for _, d := range []string{state, e.bundle} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(d, user, user); err != nil {
			t.Fatal(err)
		}
	}
	e.open()
	call := func(args ...string) (string, int) {
		cmd := exec.Command("setpriv", append([]string{"--reuid", strconv.Itoa(user), "--regid", strconv.Itoa(user), "--clear-groups", mine, "--root", state}, args...)...)
		cmd.Dir = e.bundle
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	config := filepath.Join(e.bundle, "config.json")
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	if out, code := call("spec", "--rootless"); code != 0 {
		t.Fatal(out)
	}
	write := func(change func(*specs.Spec)) {
		t.Helper()
		text, err := os.ReadFile(config)
		s := &specs.Spec{}
		if err == nil {
			err = json.Unmarshal(text, s)
		}
		change(s)
		if err == nil {
			text, err = json.Marshal(s)
		}
		if err == nil {
			err = os.WriteFile(config, text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(func(s *specs.Spec) { s.Process.Terminal, s.Process.Args = false, []string{"id"} })
	if out, code := call("run", "own"); code != 0 || !strings.HasPrefix(out, "uid=0(root) gid=0(root)") && !strings.HasPrefix(out, "uid=0 gid=0") {
		t.Errorf("run: exit code %d: %s", code, out)
	}
	limit := int64(100)
	write(func(s *specs.Spec) { s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}} })
	if out, code := call("run", "limited"); code != 1 || !strings.Contains(out, "cannot set pids limit: container could not join or create cgroup") {
		t.Errorf("with a limit: exit code %d: %s", code, out)
	}
	write(func(s *specs.Spec) { s.Linux.Resources, s.Linux.CgroupsPath = nil, "/brig-test-denied" })
	if out, code := call("run", "placed"); code != 1 || !strings.Contains(out, "unable to apply cgroup configuration") || !strings.Contains(out, "permission denied") {
		t.Errorf("with a place: exit code %d: %s", code, out)
	}
}

// ownCgroups gives the bundle a cgroup namespace, which `spec` leaves out where version 1 is mounted.
func (e *engine) ownCgroups() {
	own := func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace }
	if !slices.ContainsFunc(e.spec.Linux.Namespaces, own) {
		e.spec.Linux.Namespaces = append(e.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
}
