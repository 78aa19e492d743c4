//go:build vm

// Package mac is for guests with and without SELinux and AppArmor: a bundle's label holds where the kernel has the module, and is
// refused where it has not. It needs the folder BRIG_TEST_BIN with brig-oci and the attacker of test/attack, and for SELinux the
// types of test/vm/guest.cil.
package mac

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The attacker's exit codes.
const held, escaped = 0, 42

const (
	process = "system_u:system_r:brig_test_t:s0:c1,c2"
	mine    = "system_u:object_r:brig_test_file_t:s0:c1,c2"
	others  = "system_u:object_r:brig_test_file_t:s0:c3,c4"
)

// TestSELinuxLabel: with the label of its bundle a container writes to the files of its categories and to no others.
func TestSELinuxLabel(t *testing.T) {
	b := newBundle(t)
	label := func(s *specs.Spec) { s.Process.SelinuxLabel, s.Linux.MountLabel = process, mine }
	if testenv.SELinux.Missing() != "" {
		code, out := b.run(t, label, "/mine")
		refused(t, "SELinux: label of a bundle", code, out, "SELinux label")
		return
	}
	b.chcon(t, mine, "-R", b.root)
	b.chcon(t, others, filepath.Join(b.root, "others"))
	for _, c := range []struct {
		what   string
		change func(*specs.Spec)
		file   string
		code   int
	}{
		{"the control, without a label", func(*specs.Spec) {}, "/others", escaped},
		{"a file of its own", label, "/mine", escaped},
		{"a file of other categories", label, "/others", held},
	} {
		code, out := b.run(t, c.change, c.file)
		if code != c.code { // the container cannot write to the test's pipe, so the code is all
			t.Errorf("%s: code %d, %s", c.what, code, out)
		}
	}
	testenv.Layer(t, "SELinux: label of a bundle", testenv.Enforced, "a file of the same user's and type, of other categories, is not opened for writing")
}

// TestAppArmorIsRefused where the kernel has none.
func TestAppArmorIsRefused(t *testing.T) {
	if testenv.AppArmor.Missing() == "" {
		return // test/vm/apparmor has what it does
	}
	code, out := newBundle(t).run(t, func(s *specs.Spec) { s.Process.ApparmorProfile = "brig-test" }, "/mine")
	refused(t, "AppArmor: named profile of a bundle", code, out, "AppArmor profile")
}

func refused(t *testing.T, layer string, code int, out, says string) {
	t.Helper()
	if code == held || code == escaped || !strings.Contains(out, says) {
		t.Errorf("code %d, %s", code, out)
	}
	_, message, _ := strings.Cut(out, `msg="`)
	if message == "" {
		message = out
	}
	message = strings.ReplaceAll(strings.TrimSuffix(message, `"`), `\"`, "'")
	testenv.Layer(t, layer, testenv.Refused, message)
}

type bundle struct{ dir, root, oci string }

func newBundle(t *testing.T) *bundle {
	t.Helper()
	dir, bin := t.TempDir(), os.Getenv("BRIG_TEST_BIN")
	b := &bundle{dir: dir, root: filepath.Join(dir, "rootfs"), oci: filepath.Join(bin, "brig-oci")}
	for _, name := range []string{"dev", "proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(b.root, name), 0o755); err != nil { //nolint:gosec // a root file system
			t.Fatal(err)
		}
	}
	attacker, err := os.ReadFile(filepath.Join(bin, "attack"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"attack": attacker, "mine": nil, "others": nil} {
		if err := os.WriteFile(filepath.Join(b.root, name), data, 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(b.oci, "spec", "--bundle", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return b
}

func (b *bundle) chcon(t *testing.T, label string, args ...string) {
	t.Helper()
	if out, err := exec.Command("chcon", append([]string{label}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// run has the attacker open a file for writing in a container.
func (b *bundle) run(t *testing.T, change func(*specs.Spec), file string) (code int, output string) {
	t.Helper()
	name := filepath.Join(b.dir, "config.json")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	s.Process.Args, s.Process.Terminal, s.Root.Readonly = []string{"/attack", "open-write", file}, false, false
	s.Process.SelinuxLabel, s.Linux.MountLabel, s.Process.ApparmorProfile = "", "", ""
	s.Process.NoNewPrivileges = false // with it the policy has to allow the change of domain once more (nnp_transition)
	change(&s)
	if data, err = json.Marshal(s); err == nil {
		err = os.WriteFile(name, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(b.oci, "--root", filepath.Join(b.dir, "state"), "run", "--bundle", b.dir, fmt.Sprintf("mac%d", os.Getpid()))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), strings.TrimSpace(string(out))
}
