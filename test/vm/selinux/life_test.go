//go:build vm

package selinux

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestPermissive: a label is given and stops nothing, which is said.
func TestPermissive(t *testing.T) {
	need(t)
	must(t, "setenforce", "0")
	defer must(t, "setenforce", "1")
	detached(t, "permissive")
	if out, ok := brig(t, "inspect", "permissive"); !ok || !strings.Contains(out, "SELinux is permissive here") {
		t.Errorf("inspect: %s", out)
	}
	if out, _ := brig(t, "doctor"); !strings.Contains(out, "SELinux, permissive") {
		t.Errorf("doctor: %s", out)
	}
}

// TestNoModule: without the module nothing runs unless somebody accepts it.
func TestNoModule(t *testing.T) {
	need(t)
	const policy, without = "/etc/selinux/default/policy/policy.33", "/etc/selinux/default/policy/without-brig"
	swap := func() {
		if err := os.Rename(policy, policy+".other"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(without, policy); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(policy+".other", without); err != nil {
			t.Fatal(err)
		}
		must(t, "load_policy")
	}
	swap()
	defer swap()
	refusal, ok := brig(t, "run", "--", "true")
	if ok || !strings.Contains(refusal, "brig selinux install") || !strings.Contains(refusal, "--allow-missing=selinux") {
		t.Errorf("without the module: %s", refusal)
	}
	if out, ok := brig(t, "explain", "--", "true"); ok || out != refusal {
		t.Errorf("explain: %.300s", out)
	}
	if out, ok := brig(t, "run", "--allow-missing", "selinux", "--", "true"); !ok {
		t.Errorf("with --allow-missing=selinux: %s", out)
	}
	if out, _ := brig(t, "doctor"); !strings.Contains(out, "SELinux, without Brig's policy module") {
		t.Errorf("doctor: %s", out)
	}
	if out, ok := brig(t, "selinux", "status"); !ok || out != "SELinux is enforcing, Brig's module is not installed" {
		t.Errorf("status: %s", out)
	}
	testenv.Layer(t, "SELinux without Brig's module", testenv.Refused, refusal)
}

// TestInstall: the policy is built and loaded, with and without the module. It takes minutes where the processor is a program.
func TestInstall(t *testing.T) {
	need(t)
	if testing.Short() {
		return
	}
	defer func() {
		must(t, "cp", filepath.Join(bin, "policy"), "/etc/selinux/default/policy/policy.33")
		must(t, "load_policy")
		must(t, "setenforce", "1")
	}()
	for _, c := range [][2]string{{"install", "installed"}, {"remove", "not installed"}} {
		must(t, "setenforce", "0") // the root's overlay is older than the policy, and closed to semodule's domain
		must(t, filepath.Join(bin, "brig"), "selinux", c[0])
		must(t, "setenforce", "1")
		if out, _ := brig(t, "selinux", "status"); out != "SELinux is enforcing, Brig's module is "+c[1] {
			t.Errorf("after %s: %s", c[0], out)
		}
		out, ok := brig(t, "run", "--", "sh", "-c", mine)
		if ok != (c[1] == "installed") || ok && !strings.Contains(out, ":brig_net_t:") {
			t.Errorf("run after %s: %s", c[0], out)
		}
	}
}

// TestBundle: the labels of a bundle are applied as they are, of other modules' types too, and a change that the policy does not let
// happen is said to be that.
func TestBundle(t *testing.T) {
	need(t)
	dir := folder(t, nil)
	root := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "proc", "dev", "sys"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil { //nolint:gosec // a root file system
			t.Fatal(err)
		}
	}
	must(t, "cp", "/bin/busybox", root+"/bin/sh")
	must(t, "chcon", "-R", "system_u:object_r:brig_file_t:s0:c7,c8", root)
	oci := filepath.Join(bin, "brig-oci")
	must(t, oci, "spec", "--bundle", dir)
	run := func(label string, nnp bool) string {
		name := filepath.Join(dir, "config.json")
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var s specs.Spec
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		s.Process.Args, s.Process.Terminal, s.Process.NoNewPrivileges = []string{"/bin/sh", "-c", "cat /proc/self/attr/current >/dev/shm/x; exit 7"}, false, nnp
		s.Process.SelinuxLabel, s.Linux.MountLabel = label, "system_u:object_r:brig_file_t:s0:c7,c8"
		if data, err = json.Marshal(s); err == nil {
			err = os.WriteFile(name, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(oci, "--root", dir+".state", "run", "--bundle", dir, "selinux")
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() == 7 {
			return "ran"
		}
		return string(out)
	}
	if got := run("system_u:system_r:brig_t:s0:c7,c8", true); got != "ran" {
		t.Errorf("a label of Brig's: %s", got)
	}
	if got := run("system_u:system_r:brig_test_t:s0:c7,c8", true); !strings.Contains(got, "process2 nnp_transition") {
		t.Errorf("a domain that has no nnp_transition: %s", got)
	}
	if got := run("system_u:system_r:container_t:s0:c7,c8", false); !strings.Contains(got, "process transition") {
		t.Errorf("a domain that nobody may change to: %s", got)
	}
}
