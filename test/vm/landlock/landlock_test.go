//go:build vm

// Package landlock is for guests with different kernels: what each Landlock ABI can hold is tried in a sandbox, once with the
// ruleset and once, as the control, without; what an ABI lacks must be refused before anything starts. It needs the folder
// BRIG_TEST_BIN with brig and the attacker of test/attack.
package landlock

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brig/internal/host"
	"brig/internal/testenv"
)

// The attacker's exit codes.
const held, escaped = 0, 42

var layers = []struct {
	name, how string
	abi       int // the first that has it
	lacking   string
	attack    []string
	with      []string
	without   []string
}{
	{
		name: "Landlock: files", how: "a file is not made in a root that can be written", abi: 1,
		attack:  []string{"create", "/var/lib/attack"},
		with:    []string{"--read-only=false", "--tmpfs", "/var/lib", "--security-opt", "landlock=strict"},
		without: []string{"--read-only=false", "--tmpfs", "/var/lib", "--security-opt", "landlock=off"},
	},
	{
		name: "Landlock: TCP ports", how: "a port of the host's loopback is not reached with --tcp-connect 1", abi: 4, lacking: "landlock-tcp",
		attack:  []string{"tcp", "{tcp}"},
		with:    []string{"--network", "host", "--allow-missing=landlock-scope", "--tcp-connect", "1"},
		without: []string{"--network", "host", "--allow-missing=landlock-scope", "--tcp-connect", "{port}", "--allow-missing=landlock-tcp"},
	},
	{
		name: "Landlock: scopes", how: "an abstract socket of the host's is not reached with --network host", abi: 6, lacking: "landlock-scope",
		attack:  []string{"abstract", "{abstract}"},
		with:    []string{"--network", "host"},
		without: []string{"--network", "host", "--security-opt", "landlock=off"},
	},
}

func TestLayers(t *testing.T) {
	abi, _ := host.LandlockABI()
	replace := outside(t)
	root := t.TempDir()
	rootfs(t, root)
	for _, l := range layers {
		t.Run(l.name, func(t *testing.T) {
			run := func(flags []string) (int, string) {
				args := slices.Concat([]string{"--root", filepath.Join(root, "state"), "run", "--rootfs", filepath.Join(root, "rootfs")}, flags, []string{"--", "/attack"}, l.attack)
				for i := range args {
					args[i] = replace.Replace(args[i])
				}
				cmd := exec.Command(filepath.Join(os.Getenv("BRIG_TEST_BIN"), "brig"), args...)
				out, err := cmd.CombinedOutput()
				if cmd.ProcessState == nil {
					t.Fatal(err)
				}
				return cmd.ProcessState.ExitCode(), strings.TrimSpace(string(out))
			}
			if code, out := run(l.without); code != escaped {
				t.Fatalf("without the layer the attack does not succeed, so the test proves nothing: %d, %s", code, out)
			}
			code, out := run(l.with)
			switch {
			case abi >= l.abi && code == held && strings.HasPrefix(out, "HELD"):
				testenv.Layer(t, l.name, testenv.Enforced, l.how)
			case abi < l.abi && code != held && code != escaped && strings.Contains(out, l.lacking) && !strings.Contains(out, "HELD"):
				testenv.Layer(t, l.name, testenv.Refused, out)
			default:
				t.Errorf("ABI %d: code %d, %s", abi, code, out)
			}
		})
	}
}

// outside makes what the attacks reach for.
func outside(t *testing.T) *strings.Replacer {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	abstract, err := net.Listen("unix", "@brig-landlock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = tcp.Close(), abstract.Close() })
	_, port, _ := strings.Cut(tcp.Addr().String(), ":")
	return strings.NewReplacer("{tcp}", tcp.Addr().String(), "{port}", port, "{abstract}", "brig-landlock")
}

// rootfs makes a root file system of the attacker alone.
func rootfs(t *testing.T, root string) {
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "run", "etc", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(root, "rootfs", dir), 0o755); err != nil { //nolint:gosec // a root file system
			t.Fatal(err)
		}
	}
	for dir := root; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // users of sandboxes go through it
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(filepath.Join(os.Getenv("BRIG_TEST_BIN"), "attack"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "rootfs/attack"), bytes.Clone(program), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
}
