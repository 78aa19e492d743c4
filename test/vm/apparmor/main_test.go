//go:build vm

// Package apparmor is for a guest whose kernel has AppArmor: what Brig's profiles forbid is tried in a sandbox that every
// other layer would let do it, once under the profile and once, as the control, without. It needs the folder BRIG_TEST_BIN
// with brig and brig-oci, and the package apparmor.
package apparmor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// program is where the view of the host has the probe; rootfs is the root of bundles, which has it at the same place.
const program = "/usr/bin/brig-probe"

var bench struct{ dir, rootfs, brig, oci string }

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "-probe" {
		os.Exit(probe(os.Args[2], os.Args[3:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	code := m.Run()
	_ = os.RemoveAll(bench.dir)
	_ = os.Remove(program)
	if left := loaded(); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "FAIL: profiles left behind:", left)
		code = 1
	}
	return code
}

func prepare() error {
	if err := os.MkdirAll("/sys/kernel/security", 0o755); err == nil { //nolint:gosec // as everywhere
		_ = exec.Command("mount", "-t", "securityfs", "securityfs", "/sys/kernel/security").Run()
	}
	var err error
	if bench.dir, err = os.MkdirTemp("", "brig-apparmor-"); err != nil {
		return err
	}
	bin := os.Getenv("BRIG_TEST_BIN")
	bench.brig, bench.oci, bench.rootfs = filepath.Join(bin, "brig"), filepath.Join(bin, "brig-oci"), filepath.Join(bench.dir, "rootfs")
	if err := os.Chmod(bench.dir, 0o755); err != nil { //nolint:gosec // users of sandboxes go through it
		return err
	}
	for _, dir := range []string{"usr/bin", "dev", "proc", "sys", "tmp", "run", "etc"} {
		if err := os.MkdirAll(filepath.Join(bench.rootfs, dir), 0o755); err != nil { //nolint:gosec // a root file system
			return err
		}
	}
	for _, to := range []string{program, filepath.Join(bench.rootfs, program)} {
		if err := copyProgram(to); err != nil {
			return err
		}
	}
	return nil
}

func copyProgram(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755) //nolint:gosec // a program
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, from); err != nil {
		return err
	}
	return f.Close()
}

// loaded are the profiles of Brig's in the kernel.
func loaded() []string {
	data, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		return []string{err.Error()}
	}
	var list []string
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "brig-") {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}

// brig runs it and gives what it printed and its exit code.
func brig(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(bench.brig, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	return strings.TrimSpace(out.String()), errs.String(), cmd.ProcessState.ExitCode()
}

// weak switches off every other layer that would forbid what the probes try.
var weak = []string{"--security-opt", "seccomp=unconfined", "--security-opt", "landlock=off", "--userns", "host", "--cap-add", "ALL"}

// try runs an attack in a sandbox of brig's and gives its word.
func try(t *testing.T, profile string, flags []string, attack ...string) string {
	t.Helper()
	args := append([]string{"run", "--security-opt", "apparmor=" + profile}, flags...)
	out, errs, code := brig(t, append(append(args, "--", program, "-probe"), attack...)...)
	if code != 0 {
		t.Fatalf("brig %q: %d: %s %s", args, code, out, errs)
	}
	return out
}

// load puts a profile of brig's writing into the kernel under a name, until the test ends.
func load(t *testing.T, name string, flags ...string) {
	t.Helper()
	text, errs, code := brig(t, append(append([]string{"policy", "apparmor", "--profile-name", name}, flags...), "--", program)...)
	if code != 0 {
		t.Fatal(errs)
	}
	parser := func(flag string) error {
		cmd := exec.Command("apparmor_parser", flag, "--skip-cache", "--policy-features=/sys/kernel/security/apparmor/features")
		cmd.Stdin = strings.NewReader(text + "\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apparmor_parser %s: %w: %s\n%s", flag, err, out, text)
		}
		return nil
	}
	if err := parser("-r"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := parser("-R"); err != nil {
			t.Error(err)
		}
	})
}

// bundle makes one for brig-oci that has every capability and sees the host's processes.
func bundle(t *testing.T, profile string, attack ...string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command(bench.oci, "spec", "--bundle", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	every := []string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_KILL", "CAP_NET_RAW", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SYS_RAWIO"}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: every, Permitted: every, Effective: every}
	s.Root.Path, s.Root.Readonly, s.Process.Terminal, s.Process.ApparmorProfile = bench.rootfs, false, false, profile
	s.Process.Args = append([]string{program, "-probe"}, attack...)
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	var spaces []specs.LinuxNamespace
	for _, n := range s.Linux.Namespaces {
		if n.Type != specs.PIDNamespace {
			spaces = append(spaces, n)
		}
	}
	s.Linux.Namespaces = spaces
	for i := range s.Mounts {
		if d := s.Mounts[i].Destination; d == "/dev/shm" || d == "/sys" {
			s.Mounts[i].Options = []string{"nosuid", "nodev"}
		}
	}
	if text, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tryBundle is try by brig-oci.
func tryBundle(t *testing.T, profile string, attack ...string) string {
	t.Helper()
	dir := bundle(t, profile, attack...)
	out, err := exec.Command(bench.oci, "--root", filepath.Join(bench.dir, "oci"), "run", "--bundle", dir, "b"+filepath.Base(dir)).CombinedOutput()
	if err != nil {
		t.Fatalf("brig-oci run with profile %q: %v: %s", profile, err, out)
	}
	return strings.TrimSpace(string(out))
}
