//go:build vm

// Package landlock is for guests with different kernels: what each Landlock ABI can hold is tried in a sandbox, once with the
// ruleset and once, as the control, without; what an ABI lacks must be refused before anything starts. It needs the folder
// BRIG_TEST_BIN with brig, brig-oci and the attacker of test/attack.
package landlock

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"brig/internal/annotation"
	"brig/internal/host"
	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The attacker's exit codes.
const held, escaped = 0, 42

type layer struct {
	name, how string
	abi       int    // the first that has it
	lacking   string // the name of what is refused before it; "" when no policy asks for it by name
	attack    []string
	with      []string
	without   []string
}

var layers = []layer{
	{
		name: "Landlock: files", how: "a file is not made in a root that can be written", abi: 1,
		attack:  []string{"create", "/var/lib/attack"},
		with:    []string{"--read-only=false", "--tmpfs", "/var/lib", "--security-opt", "landlock=strict", "--allow-missing=landlock-truncate"},
		without: []string{"--read-only=false", "--tmpfs", "/var/lib", "--security-opt", "landlock=off"},
	},
	{
		name: "Landlock: moves between folders", how: "a file of a writable volume is not renamed or linked with landlock=strict", abi: 1,
		attack:  []string{"move", "/vol/a/file", "/vol/b/file"},
		with:    []string{"-v", "{volume}:/vol", "--security-opt", "landlock=strict", "--allow-missing=landlock-truncate"},
		without: []string{"-v", "{volume}:/vol", "--security-opt", "landlock=off"},
	},
	{
		name: "Landlock: truncation", how: "a file of a writable volume is not cut short with landlock=strict", abi: 3, lacking: "landlock-truncate",
		attack:  []string{"truncate", "/vol/a/file"},
		with:    []string{"-v", "{volume}:/vol", "--security-opt", "landlock=strict"},
		without: []string{"-v", "{volume}:/vol", "--security-opt", "landlock=off"},
	},
	{
		name: "Landlock: TCP connect", how: "a port of the host's loopback is not reached with --tcp-connect 1", abi: 4, lacking: "landlock-tcp",
		attack:  []string{"tcp", "{tcp}"},
		with:    []string{"--network", "host", "--allow-missing=landlock-scope", "--tcp-connect", "1"},
		without: []string{"--network", "host", "--allow-missing=landlock-scope", "--tcp-connect", "{port}", "--allow-missing=landlock-tcp"},
	},
	{
		name: "Landlock: TCP bind", how: "a port of the host's loopback is not listened on with --tcp-bind 1", abi: 4, lacking: "landlock-tcp",
		attack:  []string{"listen", "{free}"},
		with:    []string{"--network", "host", "--allow-missing=landlock-scope", "--tcp-bind", "1"},
		without: []string{"--network", "host", "--allow-missing=landlock-scope", "--tcp-bind", "{freeport}", "--allow-missing=landlock-tcp"},
	},
	{
		name: "Landlock: ioctl on devices", how: "a device outside of /dev hears no ioctl", abi: 5,
		attack:  []string{"ioctl", "/opt/null"},
		with:    []string{"--device", "/dev/null:/opt/null"},
		without: []string{"--device", "/dev/null:/opt/null", "--security-opt", "landlock=off"},
	},
	{
		name: "Landlock: abstract sockets", how: "an abstract socket of the host's is not reached with --network host: by the scope, and before ABI 6 by a filter that refuses Unix sockets", abi: 1,
		attack:  []string{"abstract", "{abstract}"},
		with:    []string{"--network", "host"},
		without: []string{"--network", "host", "--security-opt", "landlock=off"},
	},
	{
		name: "Landlock: abstract sockets of datagrams", how: "one of the host's gets no datagram with --network host, also from a pair", abi: 1,
		attack:  []string{"abstract-datagram", "{abstract}"},
		with:    []string{"--network", "host"},
		without: []string{"--network", "host", "--security-opt", "landlock=off"},
	},
}

// judge holds what a sandbox did against what the kernel's ABI promises.
func (l *layer) judge(t *testing.T, code int, out string) {
	t.Helper()
	abi, _ := host.LandlockABI()
	switch {
	case abi >= l.abi && code == held && strings.Contains(out, "HELD"):
		testenv.Layer(t, l.name, testenv.Enforced, l.how)
	case abi < l.abi && l.lacking == "" && code == escaped: // nobody was promised it
	case abi < l.abi && l.lacking != "" && code != held && code != escaped && strings.Contains(out, l.lacking) && !strings.Contains(out, "HELD"):
		testenv.Layer(t, l.name, testenv.Refused, out)
	default:
		t.Errorf("ABI %d: code %d, %s", abi, code, out)
	}
}

func TestLayers(t *testing.T) {
	replace := outside(t)
	root := t.TempDir()
	rootfs(t, root)
	for _, l := range layers {
		t.Run(l.name, func(t *testing.T) {
			if code, out := run(t, root, replace, l.without, l.attack); code != escaped {
				t.Fatalf("without the layer the attack does not succeed, so the test proves nothing: %d, %s", code, out)
			}
			code, out := run(t, root, replace, l.with, l.attack)
			l.judge(t, code, out)
		})
	}
	t.Run("Unix sockets where they are accepted", func(t *testing.T) { // instead of the filter
		code, out := run(t, root, replace, []string{"--network", "host", "--allow-missing=landlock-scope"}, []string{"abstract", "{abstract}"})
		if abi, _ := host.LandlockABI(); abi < 6 && code != escaped || abi >= 6 && code != held {
			t.Errorf("ABI %d: code %d, %s", abi, code, out)
		}
	})
	t.Run("moves where they are allowed", func(t *testing.T) { // REFER, without which they are allowed nowhere
		if code, out := run(t, root, replace, []string{"-v", "{volume}:/vol"}, []string{"move", "/vol/a/file", "/vol/b/file"}); code != escaped {
			t.Errorf("code %d, %s", code, out)
		}
	})
}

// TestSignals is about a container of an engine's among the host's processes: no policy of Brig's own makes such.
func TestSignals(t *testing.T) {
	l := layer{name: "Landlock: signals", how: "root with CAP_KILL among the host's processes sends none of them a signal", abi: 6, lacking: "landlock-scope"}
	root := t.TempDir()
	rootfs(t, root)
	if code, out := call(t, "brig-oci", "spec", "--bundle", root); code != 0 {
		t.Fatal(out)
	}
	name := filepath.Join(root, "config.json")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	spec.Process.Terminal, spec.Process.Args = false, []string{"/attack", "signal", strconv.Itoa(os.Getpid())}
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	contain := func(mode string) (int, string) {
		spec.Annotations = map[string]string{annotation.Landlock: mode, annotation.LandlockBind: "*", annotation.LandlockConnect: "*"}
		text, err := json.Marshal(&spec)
		if err == nil {
			err = os.WriteFile(name, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return call(t, "brig-oci", "--root", filepath.Join(root, "state"), "run", "--bundle", root, "signals-"+mode)
	}
	if code, out := contain("off"); code != escaped {
		t.Fatalf("without the layer the attack does not succeed, so the test proves nothing: %d, %s", code, out)
	}
	code, out := contain("on")
	if _, said, ok := strings.Cut(out, "msg="); ok { // behind the time
		out = strings.Trim(said, `"`)
	}
	l.judge(t, code, out)
}

func run(t *testing.T, root string, replace *strings.Replacer, flags, attack []string) (int, string) {
	t.Helper()
	args := slices.Concat([]string{"--root", filepath.Join(root, "state"), "run", "--rootfs", filepath.Join(root, "rootfs"), "--security-opt", "label=unconfined"}, flags, []string{"--", "/attack"}, attack)
	for i := range args {
		args[i] = replace.Replace(args[i])
	}
	return call(t, "brig", args...)
}

func call(t *testing.T, program string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(os.Getenv("BRIG_TEST_BIN"), program), args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), strings.TrimSpace(string(out))
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
	datagrams, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: "@brig-landlock"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = datagrams.Close() })
	t.Cleanup(func() { _, _ = tcp.Close(), abstract.Close() })
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
	port := func(l net.Listener) string { _, p, _ := net.SplitHostPort(l.Addr().String()); return p }
	return strings.NewReplacer("{tcp}", tcp.Addr().String(), "{port}", port(tcp), "{free}", free.Addr().String(), "{freeport}", port(free),
		"{abstract}", "brig-landlock", "{volume}", volume(t))
}

// volume makes a folder with two in it, and a file in the first, that everybody may write to.
func volume(t *testing.T) string {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir), filepath.Join(dir, "a"), filepath.Join(dir, "b")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o777); err != nil { //nolint:gosec // on purpose
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, "a/file")
	if err := os.WriteFile(name, []byte("kept\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o666); err != nil { //nolint:gosec // on purpose
		t.Fatal(err)
	}
	return dir
}

// rootfs makes a root file system of the attacker alone.
func rootfs(t *testing.T, root string) {
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "run", "etc", "var/lib", "vol", "opt"} {
		if err := os.MkdirAll(filepath.Join(root, "rootfs", dir), 0o755); err != nil { //nolint:gosec // a root file system
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "rootfs/opt/null"), nil, 0o600); err != nil {
		t.Fatal(err)
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
