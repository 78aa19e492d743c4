//go:build vm

// Package selinux tries, on a machine where SELinux enforces, what sandboxes with labels of their own can do to each other.
package selinux

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"
)

var brig string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "brig-selinux-test-")
	if err == nil {
		brig = filepath.Join(dir, "brig")
		err = testenv.Build(brig, "brig/cmd/brig")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// run gives what brig prints, and whether it was content. It is called without categories, and its output is a pipe of such a
// process, too.
func run(args ...string) (string, bool) {
	out, err := exec.Command("runcon", append([]string{"-l", "s0", "bash", "-o", "pipefail", "-c", `"$@" 2>&1 | cat`, "bash", "timeout", "60", brig}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err == nil
}

// denials are what the kernel's log has of Brig's domain, for a test that failed.
func denials(t *testing.T) {
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("sh", "-c", "dmesg | grep -a 'avc:.*denied' | tail -40").CombinedOutput()
			t.Logf("%s", out)
		}
	})
}

func TestLabelIsInForce(t *testing.T) {
	testenv.Check(t, testenv.SELinux)
	denials(t)
	var seen []string
	for range 2 {
		out, ok := run("run", "--security-opt", "label=auto", "--", "cat", "/proc/self/attr/current")
		if !ok || !strings.HasPrefix(out, "system_u:system_r:brig_t:s0:c") {
			t.Fatalf("label: %q", out)
		}
		seen = append(seen, out)
	}
	out, ok := run("run", "--security-opt", "label=auto", "--", "sh", "-c", "id -u; ls / >/dev/null && echo x >/tmp/file && cat /tmp/file && ls -Z /tmp/file && echo y >/dev/null && head -c 1 /dev/urandom | wc -c")
	if !ok || !strings.Contains(out, "brig_file_t:s0:c") {
		t.Errorf("ordinary work: %q", out)
	}
	t.Logf("%q", seen)
}

// TestSandboxesAreApart: two sandboxes run as one and the same host user, and only their categories keep them from each other's
// files.
func TestSandboxesAreApart(t *testing.T) {
	testenv.Check(t, testenv.SELinux)
	denials(t)
	dir := t.TempDir()
	for parent := dir; parent != "/tmp" && parent != "/"; parent = filepath.Dir(parent) {
		if err := os.Chmod(parent, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i, level := range []string{"s0:c1,c2", "s0:c3,c4"} {
		sub := fmt.Sprintf("%s/%d", dir, i)
		if err := os.Mkdir(sub, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(sub+"/secret", []byte("of "+level+"\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("chcon", "-R", "system_u:object_r:brig_file_t:"+level, sub).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	read := func(label string, of int) (string, bool) {
		args := []string{"run", "--userns", "host", "-v", fmt.Sprintf("%s/%d:/data", dir, of)}
		if label != "" {
			args = append(args, "--security-opt", "label="+label)
		}
		return run(append(args, "--", "cat", "/data/secret")...)
	}
	const first = "system_u:system_r:brig_t:s0:c1,c2"
	if out, ok := read(first, 0); !ok || out != "of s0:c1,c2" {
		t.Errorf("its own file: %q", out)
	}
	out, ok := read(first, 1)
	if ok || !strings.Contains(out, "Permission denied") {
		t.Errorf("the other's file was read: %q", out)
	}
	if out, ok := read("", 1); !ok || out != "of s0:c3,c4" {
		t.Errorf("without a label, as a control: %q", out)
	}
	testenv.Layer(t, "SELinux: another sandbox's files", testenv.Enforced, "read a file with other categories as the same host user: Permission denied")
}

// TestCallerWithCategories: its pipes are closed to a sandbox, which is said and not found out by silence.
func TestCallerWithCategories(t *testing.T) {
	testenv.Check(t, testenv.SELinux)
	out, err := exec.Command(brig, "run", "--security-opt", "label=auto", "--", "true").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "runcon -l s0") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestOutsideOfTheDomain: what no rule of the module gives.
func TestOutsideOfTheDomain(t *testing.T) {
	testenv.Check(t, testenv.SELinux)
	denials(t)
	file := filepath.Join(t.TempDir(), "hosts-own")
	if err := os.WriteFile(file, []byte("the host's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	args := func(opts ...string) []string {
		return append(append([]string{"run", "--userns", "host", "-v", file + ":/data"}, opts...), "--", "cat", "/data")
	}
	if out, ok := run(args("--security-opt", "label=system_u:system_r:brig_t:s0:c1,c2")...); ok || !strings.Contains(out, "Permission denied") {
		t.Errorf("a file of the host's: %q", out)
	}
	if out, ok := run(args()...); !ok || out != "the host's" {
		t.Errorf("without a label, as a control: %q", out)
	}
	testenv.Layer(t, "SELinux: files of the host", testenv.Enforced, "read a host's file that is mounted and has no label for sandboxes: Permission denied")
}
