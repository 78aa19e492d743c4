package oci

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	cpus "runtime"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// demand has the calls that follow meet an operator's policy: /etc/brig/config.toml, in a mount namespace of their own.
func (e *engine) demand(policy string) {
	e.t.Helper()
	testenv.Check(e.t, testenv.Program("unshare"))
	etc, err := os.MkdirTemp("", "brig-etc-")
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = os.RemoveAll(etc) })
	if err := os.Chmod(etc, 0o755); err != nil { //nolint:gosec // as /etc is
		e.t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(etc, "brig"), 0o755); err != nil { //nolint:gosec // see above
		e.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(etc, "brig/config.toml"), []byte(policy), 0o644); err != nil { //nolint:gosec // see above
		e.t.Fatal(err)
	}
	e.wrap = []string{"unshare", "-m", "--propagation", "private", "sh", "-c", "mount -t overlay -o lowerdir=" + etc + ":/etc overlay /etc && exec \"$@\"", "sh"}
}

// TestOperatorTightens: the process of a bundle that asks for much has what the operator allows, and so has one that is
// executed in it; an update does not get around a limit.
func TestOperatorTightens(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	wants, pids := []string{"CapBnd:\t0000000020000400", "NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t1"}, 20
	if differs(t) {
		wants, pids = wants[:3], 20*(3+cpus.NumCPU())+256
	}
	e.addApplets("grep", "chmod", "mkdir", "touch")
	e.demand("drop-capabilities = [\"CAP_KILL\"]\nlandlock = \"add\"\nseccomp = \"strict\"\n[limits]\nmemory = \"64m\"\npids = 20\n")
	e.spec.Process.NoNewPrivileges = false
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.spec.Root.Readonly = false
	e.spec.Annotations = map[string]string{"org.example.key": "value"}
	e.write()
	e.want(0, "", "run", "--bundle", e.bundle, "--detach", "tightened")
	t.Cleanup(func() { e.call("delete", "--force", "tightened") })
	for _, who := range []string{"1", "self"} {
		status := e.want(0, "", "exec", "tightened", "grep", "-E", "^(CapBnd|NoNewPrivs|Seccomp)", "/proc/"+who+"/status")
		for _, want := range wants {
			if !strings.Contains(status, want) {
				t.Errorf("process %s has\n%s, which lacks %q", who, status, want)
			}
		}
	}
	if out := e.want(0, "", "exec", "--cap", "CAP_KILL", "tightened", "grep", "CapBnd", "/proc/self/status"); !strings.Contains(out, "0000000020000400") {
		t.Errorf("exec --cap got around the policy: %s", out)
	}
	limit := func() string { return e.want(0, "", "events", "--stats", "tightened") }
	if out := limit(); !strings.Contains(out, `"limit":67108864`) || !strings.Contains(out, fmt.Sprintf(`"limit":%d}`, pids)) {
		t.Errorf("the limits are not set: %s", out)
	}
	e.want(0, "", "update", "--memory", "134217728", "--pids-limit", "-1", "tightened")
	if out := limit(); !strings.Contains(out, `"limit":67108864`) || !strings.Contains(out, fmt.Sprintf(`"limit":%d}`, pids)) {
		t.Errorf("an update got around the limits: %s", out)
	}
	e.want(0, "", "update", "--memory", "33554432", "tightened")
	if out := limit(); !strings.Contains(out, `"limit":33554432`) {
		t.Errorf("a lower limit is not set: %s", out)
	}
}

// TestOperatorFloor: a call passes only when the operator's filter and the bundle's both let it pass.
func TestOperatorFloor(t *testing.T) {
	t.Parallel()
	e, otherwise := newEngine(t), differs(t)
	e.addApplets("mkdir", "touch")
	floor := filepath.Join(openFolder(t), "floor.json")
	if err := os.WriteFile(floor, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	e.demand("seccomp = \"" + floor + "\"\n")
	e.spec.Root.Readonly = false
	e.spec.Process.Args = []string{"sh", "-c", "mkdir /tmp/a; hostname x; touch /tmp/b && echo touched; grep Seccomp_filters /proc/self/status"}
	e.addApplets("grep")
	own := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"sethostname"}, Action: specs.ActErrno}}}
	for _, noNew := range []bool{false, true} {
		for want, filter := range map[string]*specs.LinuxSeccomp{"Seccomp_filters:\t1": nil, "Seccomp_filters:\t2": own} {
			e.spec.Process.NoNewPrivileges, e.spec.Linux.Seccomp = noNew, filter
			e.write()
			code := 0
			if otherwise {
				code, want = 1, ""
			}
			out := e.want(code, want, "run", "--bundle", e.bundle, "floored")
			if !strings.Contains(out, "can't create directory '/tmp/a': Operation not permitted") || !strings.Contains(out, "touched") {
				t.Errorf("no_new_privs %v: %s", noNew, out)
			}
		}
	}
}

// TestOperatorForcesUserNamespace: root inside is nobody outside, though the bundle wanted otherwise; the files of the image
// and of volumes look as before, and the ids are given back.
func TestOperatorForcesUserNamespace(t *testing.T) {
	t.Parallel()
	e, otherwise := newEngine(t), differs(t)
	e.addApplets("stat", "touch")
	e.demand("user-namespace = \"force\"\n")
	volume := openFolder(t)
	e.spec.Mounts = append(e.spec.Mounts, specs.Mount{Type: "bind", Source: volume, Destination: "/data", Options: []string{"rbind"}})
	if err := os.Mkdir(filepath.Join(e.bundle, "rootfs/data"), 0o755); err != nil { //nolint:gosec // a root file system
		t.Fatal(err)
	}
	e.spec.Process.Args = []string{"sh", "-c", "cat /proc/self/uid_map; stat -c '%u %n' /bin/busybox; touch /data/made && stat -c '%u %n' /data/made; exec sleep 1000"}
	e.write()
	out := e.want(0, "", "run", "--bundle", e.bundle, "--detach", "forced")
	t.Cleanup(func() { e.call("delete", "--force", "forced") })
	until := "until [ -e /data/made ]; do :; done; exec stat -c '%u %n' /data/made" // the container has only been started
	if e.want(0, "0 /data/made", "exec", "forced", "sh", "-c", until); strings.Contains(out, "4294967295") && !otherwise {
		t.Errorf("it has the host's ids: %s", out)
	}
	e.want(0, "0 /bin/busybox", "exec", "forced", "stat", "-c", "%u %n", "/bin/busybox")
	if out := e.want(0, "", "exec", "forced", "cat", "/proc/self/uid_map"); strings.Contains(out, " 65536") == otherwise || strings.Contains(out, "         0          0") != otherwise {
		t.Errorf("its ids are %s", out)
	}
	text, err := os.ReadFile(filepath.Join(e.root, "forced/state.json"))
	if err != nil || !strings.Contains(string(text), `"ids":{"first":`) {
		t.Errorf("%s, %v", text, err)
	}
	e.want(0, "", "delete", "--force", "forced")
	links, err := filepath.Glob("/run/brig/ids/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if owner, err := os.Readlink(l); err == nil && strings.HasPrefix(owner, e.root) {
			t.Errorf("%s is still %s's", l, owner)
		}
	}
}

// TestOperatorRefuses: a refusal names the policy and its key, and nothing of the container is made. A broken policy
// refuses everything that starts, and nothing that ends.
func TestOperatorRefuses(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.write()
	for policy, words := range map[string]string{
		"landlock = \"require\"":             "the operator's policy (/etc/brig/config.toml, landlock) refuses this bundle",
		"user-namespace = \"require\"":       "its root is the host's",
		"forbid-host-namespaces = [\"nte\"]": "forbid-host-namespaces",
		"forbid-privilegd = true":            "config.toml:1: unknown key",
		"[isolation]\ndefault = \"vm\"":      "isolation vm is asked for",
	} {
		e.demand(policy)
		e.want(1, words, "create", "--bundle", e.bundle, "refused")
		e.want(1, "does not exist", "state", "refused")
		e.want(0, "", "delete", "--force", "refused")
	}
}

// TestOperatorsFileIsRoots: a policy that another user could write is none.
func TestOperatorsFileIsRoots(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.write()
	e.demand("")
	e.wrap[6] = strings.Replace(e.wrap[6], "&& exec", "&& mount -t tmpfs tmpfs /etc/brig && touch /etc/brig/config.toml && chmod 666 /etc/brig/config.toml && exec", 1)
	e.want(1, "it must be root's, and nobody else may write it", "create", "--bundle", e.bundle, "foreign")
}

// TestHandlerNames: the name it is called by chooses the isolation; what is not built in or not installed is refused, never native instead.
func TestHandlerNames(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"echo", "it ran"}
	e.write()
	dir := t.TempDir()
	names := map[string]string{"brig-vm-handler": "nothing is started on a weaker one"}
	if testenv.Isolation() != "gvisor" { // which is installed then
		names["brig-gvisor-handler"] = "brig-gvisor is not installed"
	}
	for name, words := range names {
		link := filepath.Join(dir, name)
		if err := os.Symlink(runtime, link); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(link, "--root", e.root, "run", "--bundle", e.bundle, "handled").CombinedOutput()
		if err == nil || !strings.Contains(string(out), words) || strings.Contains(string(out), "it ran") {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}
