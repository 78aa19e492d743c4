//go:build vm

package apparmor

import (
	"bufio"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"brig/internal/testenv"
)

// refused are the errors of AppArmor's.
func refused(word string) bool { return word == "EACCES" || word == "EPERM" }

// check tries an attack under the profile, where it must fail, and without, where it must succeed.
func check(t *testing.T, layer, how string, confined, control func() string) {
	t.Helper()
	if got := control(); got != "done" {
		t.Errorf("%s: without the profile: %s, so the test proves nothing", how, got)
	}
	got := confined()
	if !refused(got) {
		t.Errorf("%s: under the profile: %s", how, got)
	}
	testenv.Layer(t, layer, testenv.Enforced, how+": "+got)
}

// TestProfileOfPolicy: the profile that brig writes and loads by itself, in a sandbox with every capability.
func TestProfileOfPolicy(t *testing.T) {
	testenv.Check(t, testenv.AppArmor)
	attacks := []string{"mount", "umount", "remount", "pivot_root"}
	// Kernels before 6.7 do not ask AppArmor about move_mount(2) (commit 157a3537d6bc); there the filter alone stands before it.
	if _, err := os.Stat("/sys/kernel/security/apparmor/features/mount/move_mount"); err == nil {
		attacks = append(attacks, "movemount")
	}
	for _, attack := range attacks {
		t.Run(attack, func(t *testing.T) {
			check(t, "AppArmor: "+attack, attack+" with CAP_SYS_ADMIN in a sandbox without filter and Landlock",
				func() string { return try(t, "auto", weak, attack) }, func() string { return try(t, "unconfined", weak, attack) })
		})
	}
	if got := try(t, "auto", weak, "rawsocket"); got != "done" {
		t.Errorf("a raw socket where the policy gives CAP_NET_RAW: %s", got)
	}
}

// TestProfileOfAnotherPolicy: the profile of the default policy, by its name, over a sandbox that has more.
func TestProfileOfAnotherPolicy(t *testing.T) {
	testenv.Check(t, testenv.AppArmor)
	load(t, "brig-test-default")
	for _, attack := range []string{"hostname", "chown", "rawsocket", "packet"} {
		t.Run(attack, func(t *testing.T) {
			check(t, "AppArmor: "+attack, attack+" with every capability, which the profile does not give",
				func() string { return try(t, "brig-test-default", weak, attack) }, func() string { return try(t, "unconfined", weak, attack) })
		})
	}
	if got := try(t, "brig-test-default", weak, "datagram"); got != "done" {
		t.Errorf("a datagram socket: %s", got)
	}
}

// TestProfileOfBundle: a named profile under brig-oci, with the host's processes in sight.
func TestProfileOfBundle(t *testing.T) {
	testenv.Check(t, testenv.AppArmor)
	load(t, "brig-test-bundle", "--cap-add", "ALL")
	load(t, "brig-test-other", "--cap-add", "SYS_PTRACE")
	victim := exec.Command("sleep", "600")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })
	pid := strconv.Itoa(victim.Process.Pid)
	other := exec.Command(bench.brig, "run", "--security-opt", "apparmor=brig-test-other", "--userns", "host", "--", program, "-probe", "wait")
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait(); brig(t, "ps") })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "READY\n" {
		t.Fatalf("%q %v", line, err)
	}
	neighbour := child(t, other.Process.Pid)
	for _, a := range []struct {
		layer string
		words []string
	}{
		{"signals to the host", []string{"signal", pid}},
		{"ptrace of the host", []string{"ptrace", pid}},
		{"signals to another sandbox", []string{"signal", neighbour}},
		{"ptrace of another sandbox", []string{"ptrace", neighbour}},
		{"write to /proc/sys", []string{"write", "/proc/sys/kernel/hostname"}},
		{"write to /proc", []string{"write", "/proc/sysrq-trigger"}},
		{"write to /sys", []string{"write", "/sys/kernel/rcu_expedited"}},
		{"read of /proc/kcore", []string{"read", "/proc/kcore"}},
		{"write to a read-only root", []string{"create", "/etc/new"}},
		{"execution in /dev/shm", []string{"execute", "/dev/shm/program"}},
	} {
		t.Run(a.layer, func(t *testing.T) {
			check(t, "AppArmor: "+a.layer, strings.Join(a.words[:1], " ")+" from a bundle whose mounts and namespaces allow it",
				func() string { return last(tryBundle(t, "brig-test-bundle", a.words...)) },
				func() string { return last(tryBundle(t, "unconfined", a.words...)) })
		})
	}
	if got := tryBundle(t, "brig-test-bundle", "change"); !refused(got) {
		t.Errorf("change to unconfined: %s", got)
	}
}

// last is the error in a text, which package os may have wrapped.
func last(text string) string {
	if strings.HasSuffix(text, "permission denied") {
		return "EACCES"
	}
	return text
}

// child is the first process below brig.
func child(t *testing.T, pid int) string {
	t.Helper()
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + task.Name() + "/children")
		if f := strings.Fields(string(data)); err == nil && len(f) > 0 {
			return f[0]
		}
	}
	t.Fatal("brig has no child")
	return ""
}

func TestNamedProfileInBundle(t *testing.T) {
	testenv.Check(t, testenv.AppArmor)
	load(t, "brig-test-named", "--cap-add", "ALL")
	dir := bundle(t, "brig-test-named", "wait")
	root, id := bench.dir+"/oci", "named"
	oci := func(args ...string) (string, error) {
		out, err := exec.Command(bench.oci, append([]string{"--root", root}, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	cmd := exec.Command(bench.oci, "--root", root, "run", "--bundle", dir, id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = oci("delete", "-f", id); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "READY\n" {
		t.Fatalf("%q %v", line, err)
	}
	have, err := os.ReadFile("/proc/" + child(t, cmd.Process.Pid) + "/attr/current")
	if err != nil || strings.TrimSpace(string(have)) != "brig-test-named (enforce)" {
		t.Errorf("the kernel says %q, %v", have, err)
	}
	for profile, want := range map[string][]string{"": {"EACCES", "EPERM"}, "unconfined": {"done"}} {
		args := []string{"exec"}
		if profile != "" {
			args = append(args, "--apparmor", profile)
		}
		got, err := oci(append(args, id, program, "-probe", "mount")...)
		if err != nil || !slices.Contains(want, got) {
			t.Errorf("exec with profile %q: %q, %v; want %v", profile, got, err, want)
		}
	}
	bad := bundle(t, "brig-test-absent", "nothing")
	if got, err := oci("run", "--bundle", bad, "absent"); err == nil || !strings.Contains(got, "brig-test-absent") {
		t.Errorf("a profile that is not loaded: %q, %v", got, err)
	}
	testenv.Layer(t, "AppArmor: named profile of a bundle", testenv.Enforced, "read back in enforce mode; exec is confined, and with unconfined is not; one that is not loaded is refused")
}
