package vmm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brig/internal/testenv"
)

func fakeKernel(t *testing.T) *Kernel {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"boot/vmlinuz-1":                "kernel",
		"lib/modules/1/modules.dep":     "k/top.ko.xz: k/low-er.ko.xz k/lowest.ko.xz\nk/low-er.ko.xz: k/lowest.ko.xz\nk/lowest.ko.xz:\n",
		"lib/modules/1/modules.builtin": "kernel/in-side.ko\n",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k, err := OpenKernel(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestModulesLoadAfterWhatTheyNeed(t *testing.T) {
	t.Parallel()
	k := fakeKernel(t)
	files, err := k.resolve([]string{"top", "in_side", "low-er"})
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		files[i] = filepath.Base(f)
	}
	if want := []string{"lowest.ko.xz", "low-er.ko.xz", "top.ko.xz"}; !slices.Equal(files, want) {
		t.Errorf("%v, want %v", files, want)
	}
	if _, err := k.resolve([]string{"none"}); err == nil || !strings.Contains(err.Error(), "no module none") {
		t.Errorf("an unknown module: %v", err)
	}
	if !k.Has("in-side") || k.Has("none") {
		t.Error("Has")
	}
}

// cpio(1) is the judge of the archive.
func TestArchiveIsWhatCpioReads(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Program("cpio"))
	var buf bytes.Buffer
	a := newArchive(&buf)
	for _, err := range []error{
		a.folder("dir"), a.bytes("dir/odd", 0o644, []byte("12345")), a.bytes("dir/none", 0o755, nil), a.device("console", 5, 1), a.close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("cpio", "-itv", "--quiet")
	cmd.Stdin = &buf
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "crw-------", "5,   1", "dir/odd", "dir/none", "console"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("cpio does not see %s:\n%s", want, out)
		}
	}
}
