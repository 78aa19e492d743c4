//go:build vm

package apparmor

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"
)

// waiting starts a sandbox in the foreground that waits.
func waiting(t *testing.T, flags ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(bench.brig, append(append([]string{"run"}, flags...), "--", program, "-probe", "wait")...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Not killed: its sandbox outlives it then, with its profile and the test's own output.
	t.Cleanup(func() { end(t, cmd) })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "READY\n" {
		t.Fatalf("%q %v", line, err)
	}
	return cmd
}

func current(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + child(t, cmd.Process.Pid) + "/attr/current")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func end(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
}

func TestLifeOfProfile(t *testing.T) {
	testenv.Check(t, testenv.AppArmor)
	first, second, other := waiting(t), waiting(t, "--name", "second"), waiting(t, "--tmpfs", "/data")
	one := current(t, first)
	if !strings.HasPrefix(one, "brig-") || !strings.HasSuffix(one, " (enforce)") || current(t, second) != one || current(t, other) == one {
		t.Errorf("profiles %q, %q and of another policy %q", one, current(t, second), current(t, other))
	}
	if n := len(loaded()); n != 2 {
		t.Errorf("%d profiles are loaded: %v", n, loaded())
	}
	end(t, first)
	if current(t, second) != one {
		t.Errorf("after another of its policy has ended: %q", current(t, second))
	}
	out, errs, code := brig(t, "inspect", "second")
	if code != 0 || !strings.Contains(out, one) {
		t.Errorf("inspect: %d %s %s", code, out, errs)
	}
	out, errs, _ = brig(t, "exec", "second", "cat", "/proc/self/attr/current")
	if out != one {
		t.Errorf("exec is under %q: %s", out, errs)
	}
	end(t, second)
	if n := len(loaded()); n != 1 {
		t.Errorf("after the last of a policy: %v", loaded())
	}
	_ = other.Process.Kill()
	_ = other.Wait()
	brig(t, "ps")
	if left := loaded(); len(left) != 0 {
		t.Errorf("after a killed brig and the next command: %v", left)
	}
	testenv.Layer(t, "AppArmor: profile of a policy", testenv.Enforced, "read back in enforce mode from the kernel and by inspect, exec too; unloaded with the last sandbox, also when brig was killed")
}

// TestKilledAtEveryPoint: whenever brig is killed, the next one leaves no profile.
func TestKilledAtEveryPoint(t *testing.T) {
	testenv.Check(t, testenv.AppArmor)
	run := func(env string) {
		cmd := exec.Command(bench.brig+"-faults", "run", "--", "true")
		cmd.Env = append(os.Environ(), env)
		if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(err.Error(), "killed") {
			t.Fatalf("%s: %v: %s", env, err, out)
		}
	}
	log := filepath.Join(t.TempDir(), "log")
	run("BRIG_FAULT_LOG=" + log)
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "profile loaded\n")
	if !ok || !strings.Contains(rest, "profile unloaded\n") {
		t.Fatalf("the points are %q", text)
	}
	for _, point := range append(strings.Split(strings.TrimSpace(rest), "\n"), "profile loaded") {
		run("BRIG_FAULT=" + point)
		if _, errs, code := brig(t, "ps"); code != 0 {
			t.Errorf("killed at %q: brig ps: %s", point, errs)
		}
		if left := loaded(); len(left) != 0 {
			t.Errorf("killed at %q: the next brig leaves %v", point, left)
		}
	}
}

// TestProgramsRun: what programs do all the time is not in the profile's way, and neither are the caller's files.
func TestProgramsRun(t *testing.T) {
	testenv.Check(t, testenv.AppArmor)
	if got := try(t, "auto", nil, "own"); got != "done" {
		t.Errorf("an ordinary program: %s", got)
	}
	for _, preset := range []string{"default", "strict", "compat"} {
		if out, errs, code := brig(t, "run", "--preset", preset, "--", "python3", "-c", "import os; print(os.getpid())"); code != 0 {
			t.Errorf("python3 under %s: %d %s %s", preset, code, out, errs)
		}
	}
	dir := t.TempDir()
	in, to := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, []byte("text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	waiting(t, "--name", "files")
	for _, command := range []string{"run -i --", "exec -i files"} {
		out, err := exec.Command("sh", "-c", bench.brig+" "+command+" cat <"+in+" >"+to).CombinedOutput()
		if got, _ := os.ReadFile(to); err != nil || string(got) != "text\n" {
			t.Errorf("%s with files: %q, %v: %s", command, got, err, out)
		}
	}
	out, err := exec.Command("sh", "-c", "exec 3<"+in+"; "+bench.brig+" run --pass-fd 1 -- sh -c 'cat <&3'").CombinedOutput()
	if err != nil || string(out) != "text\n" {
		t.Errorf("a file handed in: %q, %v", out, err)
	}
}

// TestNoParser: without the parser nothing runs unless somebody accepts it.
func TestNoParser(t *testing.T) {
	testenv.Check(t, testenv.AppArmor)
	const parser = "/usr/sbin/apparmor_parser"
	if err := os.Rename(parser, parser+".away"); err != nil {
		t.Fatal(err)
	}
	defer os.Rename(parser+".away", parser)
	_, errs, code := brig(t, "run", "--", "true")
	if code == 0 || !strings.Contains(errs, "install the package apparmor") || !strings.Contains(errs, "--allow-missing=apparmor") {
		t.Errorf("%d %s", code, errs)
	}
	if _, errs, code := brig(t, "run", "--allow-missing", "apparmor", "--", "true"); code != 0 {
		t.Errorf("with --allow-missing=apparmor: %d %s", code, errs)
	}
	testenv.Layer(t, "AppArmor without its parser", testenv.Refused, strings.TrimSpace(errs))
}

// TestCacheOfOthers: compiled profiles that others may exchange are not loaded.
func TestCacheOfOthers(t *testing.T) {
	testenv.Check(t, testenv.AppArmor)
	if _, errs, code := brig(t, "run", "--", "true"); code != 0 {
		t.Fatalf("%d %s", code, errs)
	}
	const dir = "/run/brig/apparmor"
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // that is the test
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700) //nolint:errcheck // the guest ends anyway
	if _, errs, code := brig(t, "run", "--", "true"); code == 0 || !strings.Contains(errs, "may be written by others") {
		t.Errorf("%d %s", code, errs)
	}
}
