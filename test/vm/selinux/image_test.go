//go:build vm

package selinux

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/mac/selinux"
	"brig/internal/testenv"
)

// image makes one of busybox, under a name.
func image(t *testing.T, name string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{"bin", "etc", "tmp", "run", "proc", "sys", "dev", "scratch"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil { //nolint:gosec // a root file system
			t.Fatal(err)
		}
	}
	must(t, "cp", "/bin/busybox", root+"/bin/busybox")
	for _, applet := range []string{"sh", "cat", "sleep"} {
		must(t, "ln", "-s", "busybox", root+"/bin/"+applet)
	}
	must(t, "chmod", "-R", "a+rX", root)
	tar := filepath.Join(t.TempDir(), "root.tar")
	must(t, "tar", "-C", root, "-cf", tar, ".")
	if out, ok := brig(t, "image", "import", tar, name); !ok {
		t.Fatalf("import: %s", out)
	}
	t.Cleanup(func() {
		if out, ok := brig(t, "image", "rm", name); !ok {
			t.Errorf("rm: %s", out)
		}
	})
}

// TestImages: the root from an image, with and without a place to write over it, and everything else that a sandbox has mounted.
func TestImages(t *testing.T) {
	need(t)
	image(t, "labelled:1")
	for _, c := range []struct {
		name  string
		flags []string
		root  string // "" for the sandbox's own label
	}{
		{"image", nil, selinux.Image},
		{"ram", []string{"--writable", "ram"}, ""},
		{"disk", []string{"--writable", "disk", "--writable-size", "16m"}, ""},
	} {
		detached(t, c.name, append(append([]string{"--tmpfs", "/scratch"}, c.flags...), "labelled:1")...)
		out, ok := brig(t, "exec", c.name, "/bin/sh", "-c", "echo x >/tmp/x && cat /tmp/x /proc/self/attr/current")
		label, wrote := strings.CutPrefix(out, "x\n")
		_, level, labelled := strings.Cut(label, ":brig_net_t:")
		if !ok || !wrote || !labelled {
			t.Errorf("%s: %q", c.name, out)
			continue
		}
		own := "system_u:object_r:brig_file_t:" + level
		for name, want := range map[string]string{
			"bin/busybox": c.root, "": c.root, "tmp": own, "tmp/x": own, "dev": own, "dev/shm": own, "dev/pts": own, "scratch": own,
		} {
			if want == "" {
				want = own
			}
			if have := must(t, "stat", "-c", "%C", fmt.Sprintf("/proc/%s/root/%s", pid(t, c.name), name)); !strings.Contains(have, want) {
				t.Errorf("%s: /%s has %s; want %s", c.name, name, have, want)
			}
		}
	}
	if out, ok := brig(t, "run", "--read-only=false", "labelled:1", "/bin/sh", "-c", "echo x >/etc/new && cat /etc/new"); !ok || out != "x" {
		t.Errorf("a file over the image: %q", out)
	}
	testenv.Layer(t, "SELinux: labels of what is mounted", testenv.Enforced, "an image, what is written over it, tmpfs, devpts and /dev have the types of the module, and what is the sandbox's own its categories")
}
