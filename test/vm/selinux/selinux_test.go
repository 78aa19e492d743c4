//go:build vm

// Package selinux tries, on a machine where SELinux enforces, what sandboxes with labels of their own can do to each other and to the
// host. The tests run as root's login does, with all categories, and every attack is tried without a label, too. It needs the folder
// BRIG_TEST_BIN with Brig's programs.
package selinux

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"
)

var bin = os.Getenv("BRIG_TEST_BIN")

func TestMain(m *testing.M) {
	code := m.Run()
	if left, err := filepath.Glob("/run/brig/ids/*"); err != nil || len(left) > 0 {
		fmt.Fprintln(os.Stderr, "FAIL: ids or categories left behind:", left, err)
		code = 1
	}
	os.Exit(code)
}

// brig gives what it printed on both streams, which are pipes, and whether it was content.
func brig(t *testing.T, args ...string) (string, bool) {
	t.Helper()
	cmd := exec.Command("timeout", append([]string{"100", filepath.Join(bin, "brig")}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return strings.Trim(out.String(), "\n\x00"), err == nil
}

// need has the test skipped where there is no SELinux, and shows what it has said no to when the test has failed.
func need(t *testing.T) {
	t.Helper()
	testenv.Check(t, testenv.SELinux)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("sh", "-c", "dmesg | grep -a 'avc:.*denied' | grep -a brig_ | tail -40").CombinedOutput()
			t.Logf("%s", out)
		}
	})
}

func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return strings.Trim(string(out), "\n\x00")
}

// person is the label of what a person has in the home folder.
const person = "unconfined_u:object_r:user_home_t:s0"

// folder makes one whose files every user may read and write, as far as the modes of files say.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for parent := dir; parent != "/tmp" && parent != "/"; parent = filepath.Dir(parent) {
		if err := os.Chmod(parent, 0o755); err != nil { //nolint:gosec // that is the test
			t.Fatal(err)
		}
	}
	sub := filepath.Join(dir, "data")
	if err := os.Mkdir(sub, 0o777); err != nil { //nolint:gosec // that is the test
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(sub, name), []byte(text), 0o666); err != nil { //nolint:gosec // that is the test
			t.Fatal(err)
		}
		must(t, "chmod", "a+rw", filepath.Join(sub, name))
	}
	must(t, "chmod", "a+rwx", sub)
	must(t, "chcon", "-R", person, sub)
	return sub
}

// detached starts a sandbox that waits, and ends it with the test.
func detached(t *testing.T, name string, flags ...string) {
	t.Helper()
	args := append([]string{"run", "-d", "--name", name}, flags...)
	if out, ok := brig(t, append(args, "--", "/bin/sleep", "1000")...); !ok {
		t.Fatalf("%v: %s", args, out)
	}
	t.Cleanup(func() {
		if out, ok := brig(t, "rm", "--force", name); !ok {
			t.Errorf("rm %s: %s", name, out)
		}
	})
}

// pid is the host's of a sandbox's first process.
func pid(t *testing.T, name string) string {
	t.Helper()
	out := must(t, filepath.Join(bin, "brig"), "inspect", name)
	_, rest, _ := strings.Cut(out, " pid ")
	number, _, ok := strings.Cut(rest, " ")
	if !ok {
		t.Fatalf("no pid: %s", out)
	}
	return number
}

const mine = "cat /proc/self/attr/current"

// TestLabelIsInForce: without any option each sandbox has a label of its own, a process that is executed in it has the same, and
// ordinary work is not in its way.
func TestLabelIsInForce(t *testing.T) {
	need(t)
	first, ok := brig(t, "run", "--", "sh", "-c", mine)
	if !ok || !strings.HasPrefix(first, "system_u:system_r:brig_net_t:s0:c") {
		t.Fatalf("label: %q", first)
	}
	if out, ok := brig(t, "run", "--preset", "strict", "--allow-missing", "landlock-truncate", "--", "sh", "-c", mine); !ok || !strings.HasPrefix(out, "system_u:system_r:brig_t:s0:c") {
		t.Errorf("label of a strict sandbox: %q", out)
	}
	detached(t, "first")
	label, ok := brig(t, "exec", "first", "sh", "-c", mine)
	if !ok || !strings.HasPrefix(label, "system_u:system_r:brig_net_t:s0:c") || label == first {
		t.Errorf("label of a process that is executed: %q", label)
	}
	if out, ok := brig(t, "inspect", "first"); !ok || !strings.Contains(out, label) {
		t.Errorf("inspect without %s: %s", label, out)
	}
	work := "set -e; id -u; ls / >/dev/null; echo x >/tmp/file; cat /tmp/file; ls -Z /tmp/file; echo y >/dev/null; head -c 1 /dev/urandom | wc -c; " +
		"nproc >/dev/null; python3 -c 'import socket, os, tempfile; s = socket.create_server((\"127.0.0.1\", 8080)); " +
		"c = socket.create_connection((\"127.0.0.1\", 8080)); a, b = socket.socketpair(); os.memfd_create(\"x\"); tempfile.TemporaryFile(); " +
		"print(\"worked\")'"
	out, ok := brig(t, "run", "--", "sh", "-c", work)
	if !ok || !strings.Contains(out, "brig_file_t:s0:c") || !strings.HasSuffix(out, "worked") {
		t.Errorf("ordinary work: %q", out)
	}
	if out, ok := brig(t, "run", "--preset", "compat", "--", "sh", "-c", "chown 7:7 /dev/shm && python3 -c 'import os; os.setuid(5); print(os.getuid())'"); !ok || out != "5" {
		t.Errorf("capabilities of the preset compat: %q", out)
	}
	if out, ok := brig(t, "run", "--security-opt", "label=unconfined", "--", "sh", "-c", mine); !ok || strings.Contains(out, "brig_") {
		t.Errorf("label=unconfined: %q", out)
	}
	testenv.Layer(t, "SELinux: label of a sandbox", testenv.Enforced, "read back from the kernel and by inspect, by default and from root's login with its categories; exec too; another of each sandbox")
}

// TestNoProgram: that it cannot be executed is said also by a process that has its label already.
func TestNoProgram(t *testing.T) {
	need(t)
	dir := folder(t, map[string]string{"script": "#!/bin/sh\nexit 3\n", "text": "text\n"})
	must(t, "chmod", "a+x", filepath.Join(dir, "script"))
	for _, c := range []struct{ flag, program, says string }{
		{":z", "/data/script", "exit status 3"},
		{"", "/data/script", "may not be executed"},
		{":z", "/data/text", "may not be executed"},
		{":z", "/data/nothing", "not found in the sandbox"},
	} {
		out, err := exec.Command(filepath.Join(bin, "brig"), "run", "-v", dir+":/data"+c.flag, "--", c.program).CombinedOutput()
		if said := fmt.Sprint(string(out), err); !strings.Contains(said, c.says) {
			t.Errorf("%s with the option %q: %s", c.program, c.flag, said)
		}
		must(t, "chcon", "-R", person, dir)
	}
}

// TestStreams: what the caller's pipes and files are, the sandbox has by pipes with its own label.
func TestStreams(t *testing.T) {
	need(t)
	in := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(in, []byte("text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	detached(t, "streams")
	for command, lines := range map[string]map[string]string{
		"run -i --":       {"files": "%s cat <%s >%s", "pipes": "cat %[2]s | %[1]s cat | cat >%[3]s", "a caller without categories": "runcon -l s0 sh -c 'cat %[2]s | %[1]s cat | cat >%[3]s'"},
		"exec -i streams": {"files": "%s cat <%s >%s"},
	} {
		for what, line := range lines {
			to := filepath.Join(t.TempDir(), "out")
			must(t, "sh", "-c", fmt.Sprintf(line, filepath.Join(bin, "brig")+" "+command, in, to))
			if got, err := os.ReadFile(to); err != nil || string(got) != "text\n" {
				t.Errorf("%s with %s: %q, %v", command, what, got, err)
			}
		}
	}
	out, ok := brig(t, "run", "--pass-fd", "1", "--", "true")
	if ok {
		t.Errorf("a descriptor that is not open: %q", out)
	}
	text, err := exec.Command("sh", "-c", "exec 3<"+in+"; "+filepath.Join(bin, "brig")+" run --pass-fd 1 -- sh -c 'cat <&3'").CombinedOutput()
	if err == nil || !strings.Contains(string(text), "SELinux would not let the program have descriptor 3") {
		t.Errorf("a file handed in: %q, %v", text, err)
	}
}

// TestSandboxesAreApart: two sandboxes run as one and the same host user, and only their categories keep them from each other's
// files and processes.
func TestSandboxesAreApart(t *testing.T) {
	need(t)
	dir := folder(t, map[string]string{"secret": "the first's\n"})
	host := []string{"--userns", "host", "-v"}
	detached(t, "one", append(host, dir+":/data:Z")...)
	detached(t, "two", append(host, dir+":/data")...)
	detached(t, "bare", append(host, dir+":/data", "--security-opt", "label=unconfined")...)
	read := func(name string) (string, bool) { return brig(t, "exec", name, "cat", "/data/secret") }
	if out, ok := read("one"); !ok || out != "the first's" {
		t.Errorf("its own file: %q", out)
	}
	if out, ok := read("two"); ok || !strings.Contains(out, "Permission denied") {
		t.Errorf("the other's file was read: %q", out)
	}
	if out, ok := read("bare"); !ok || out != "the first's" {
		t.Errorf("without a label, as a control: %q", out)
	}
	one, _ := brig(t, "exec", "one", "sh", "-c", mine)
	two, _ := brig(t, "exec", "two", "sh", "-c", mine)
	if one == two || !strings.Contains(one, ":c") || !strings.Contains(two, ":c") {
		t.Errorf("sandboxes of one user have the labels %q and %q", one, two)
	}
	if label := must(t, "stat", "-c", "%C", filepath.Join(dir, "secret")); label != "system_u:object_r:brig_file_t:"+strings.SplitN(one, ":", 4)[3] {
		t.Errorf("%s in a sandbox %s", label, one)
	}
	testenv.Layer(t, "SELinux: another sandbox's files", testenv.Enforced, "read a file of another sandbox's volume (Z) as the same host user: Permission denied")
}

// TestSharedVolume: what one sandbox makes in it, another can read.
func TestSharedVolume(t *testing.T) {
	need(t)
	dir := folder(t, map[string]string{"in": "of the host\n"})
	run := func(options, script string) (string, bool) {
		return brig(t, "run", "--userns", "host", "-v", dir+":/data"+options, "--", "sh", "-c", script)
	}
	if out, ok := run("", "cat /data/in"); ok || !strings.Contains(out, "Permission denied") {
		t.Errorf("without the option: %q", out)
	}
	if out, ok := run(":z", "cat /data/in; mkdir /data/sub; echo made >/data/sub/file"); !ok || out != "of the host" {
		t.Errorf("the first: %q", out)
	}
	if out, ok := run("", "cat /data/sub/file; echo more >>/data/sub/file"); !ok || out != "made" {
		t.Errorf("the second: %q", out)
	}
	if out, ok := brig(t, "run", "-v", "/etc:/data:z", "--", "true"); ok || !strings.Contains(out, "/etc is not relabelled") {
		t.Errorf("/etc: %q", out)
	}
	if label := must(t, "stat", "-c", "%C", "/etc/passwd"); !strings.Contains(label, ":etc_t:") {
		t.Errorf("/etc/passwd has %s", label)
	}
}

// TestOutsideOfTheDomain: what no rule of the module gives.
func TestOutsideOfTheDomain(t *testing.T) {
	need(t)
	dir := folder(t, map[string]string{"file": "the host's\n"})
	read := func(opts ...string) (string, bool) {
		args := append([]string{"run", "--userns", "host", "-v", dir + ":/data"}, opts...)
		return brig(t, append(args, "--", "cat", "/data/file")...)
	}
	if out, ok := read(); ok || !strings.Contains(out, "Permission denied") {
		t.Errorf("a file of the host's: %q", out)
	}
	if out, ok := read("--security-opt", "label=unconfined"); !ok || out != "the host's" {
		t.Errorf("without a label, as a control: %q", out)
	}
	testenv.Layer(t, "SELinux: files of the host", testenv.Enforced, "read a host's file that is mounted and has no label for sandboxes: Permission denied")
}

// TestDomains: the two differ by TCP, UDP and ping.
func TestDomains(t *testing.T) {
	need(t)
	try := func(domain string) string {
		out, _ := brig(t, "run", "--security-opt", "label="+domain, "--", "python3", "-c",
			"import socket\nfor kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:\n try: socket.socket(socket.AF_INET, kind); print('made')\n except PermissionError: print('denied')")
		return strings.ReplaceAll(out, "\n", " ")
	}
	for domain, want := range map[string]string{"brig_t": "denied denied", "brig_net_t": "made made", "unconfined": "made made"} {
		if got := try(domain); got != want {
			t.Errorf("label=%s: %q", domain, got)
		}
	}
	testenv.Layer(t, "SELinux: sockets of brig_t", testenv.Enforced, "a TCP and a UDP socket, which the filter would let through: EACCES; made in brig_net_t")
}
