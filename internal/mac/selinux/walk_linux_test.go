package selinux_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"brig/internal/mac/selinux"
	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// TestRelabel walks as it does on a host with SELinux: the kernel keeps the attribute, whoever reads it.
func TestRelabel(t *testing.T) {
	testenv.Check(t, testenv.Root)
	if testenv.SELinux.Missing() == "" {
		return // the label is not of a loaded policy there; test/vm/selinux has it
	}
	t.Parallel()
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	sub, other := filepath.Join(dir, "a", "b"), filepath.Join(dir, "other")
	for _, d := range []string{sub, other, outside} {
		if err := os.MkdirAll(d, 0o755); err != nil { //nolint:gosec // a folder
			t.Fatal(err)
		}
	}
	link, pipe, file := filepath.Join(sub, "link"), filepath.Join(sub, "pipe"), filepath.Join(sub, "file")
	if err := errors.Join(os.Symlink(outside, link), unix.Mkfifo(pipe, 0o600), os.WriteFile(file, nil, 0o000)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(outside, other, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(other, unix.MNT_DETACH) //nolint:errcheck // of a temporary folder
	const label = "system_u:object_r:brig_file_t:s0:c1,c2"
	if err := selinux.Relabel(dir, label); errors.Is(err, unix.ENOTSUP) {
		t.Fatalf("the file system of temporary folders keeps no labels: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{dir: label, sub: label, link: label, pipe: label, file: label, outside: ""} {
		buf := make([]byte, 200)
		n, err := unix.Lgetxattr(name, "security.selinux", buf)
		if n = max(n, 0); string(buf[:n]) != want || err != nil && want != "" {
			t.Errorf("%s: %q, %v", name, buf[:n], err)
		}
	}
}
