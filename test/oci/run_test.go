package oci

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestRunKeep: with --keep a container that has ended stays to be looked at.
func TestRunKeep(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"sh", "-c", "exit 3"}
	e.write()
	t.Cleanup(func() { e.call("delete", "--force", "kept") })
	e.want(3, "", "run", "--keep", "--bundle", e.bundle, "kept")
	if s := e.status("kept"); s != "stopped" {
		t.Errorf("after run --keep it is %s", s)
	}
	e.want(0, "", "delete", "kept")
	if s := e.status("kept"); s != "none" {
		t.Errorf("after delete it is %s", s)
	}
}

// TestErrorsHaveRuncsWords: where it failed stands before why, and what execve says of a program that is there stands alone.
func TestErrorsHaveRuncsWords(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	if err := os.WriteFile(filepath.Join(e.bundle, "rootfs/script"), []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	e.spec.Process.Args = []string{"/script"}
	e.write()
	if out, code := e.call("run", "--bundle", e.bundle, "words"); code != 255 || out != "exec /script: no such file or directory\n" {
		t.Errorf("exit code %d, %q", code, out)
	}
	e.spec.Process.Args = []string{"nosuch"}
	e.write()
	const inside = "unable to start container process: error during container init: "
	e.want(1, "runc run failed: "+inside+`exec: \"nosuch\": executable file not found in $PATH`, "run", "--bundle", e.bundle, "words")
	if err := os.Remove(filepath.Join(e.bundle, "rootfs/proc")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/elsewhere", filepath.Join(e.bundle, "rootfs/proc")); err != nil {
		t.Fatal(err)
	}
	e.want(1, `filesystem \"proc\" must be mounted on ordinary directory`, "run", "--bundle", e.bundle, "words")
}

// TestDanglingLinks: what is mounted on a link that leads nowhere is made where the link points, inside the root.
func TestDanglingLinks(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	root := filepath.Join(e.bundle, "rootfs")
	for link, to := range map[string]string{"jump": "/../../tmp/made", "hosts": "jump/below/hosts", "folder": "/tmp/folder"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	e.spec.Mounts = append(e.spec.Mounts,
		specs.Mount{Destination: "/hosts", Type: "bind", Source: "config.json", Options: []string{"bind"}},
		specs.Mount{Destination: "folder", Type: "bind", Source: ".", Options: []string{"bind"}}) // as old bundles have it
	e.spec.Process.Args = []string{"sh", "-c", "cat /tmp/made/below/hosts | busybox head -c 1; busybox test -d /tmp/folder/rootfs && echo both"}
	e.write()
	if out, code := e.call("run", "--bundle", e.bundle, "dangling"); code != 0 || out != "{both\n" {
		t.Errorf("exit code %d, %q", code, out)
	}
}

// TestSourceInsideRoot: a source below the root folder means what earlier mounts have put there, and a destination may be written
// as the host sees it.
func TestSourceInsideRoot(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	for _, d := range []string{"one/two", "other", "rootfs/final", "rootfs/tree"} {
		if err := os.MkdirAll(filepath.Join(e.bundle, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(e.bundle, "other/file"), []byte("of the other"), 0o600); err != nil {
		t.Fatal(err)
	}
	bind := func(source, destination, how string) {
		e.spec.Mounts = append(e.spec.Mounts, specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{how}})
	}
	bind("one", "/tree", "bind")
	bind("other", "/tree/two", "bind")
	bind(filepath.Join(e.bundle, "rootfs/tree/two"), filepath.Join(e.bundle, "rootfs/tmp"), "bind")
	bind("rootfs/tree", "/final", "rbind")
	e.spec.Process.Args = []string{"cat", "/tmp/file", "/final/two/file"}
	e.write()
	if out, code := e.call("run", "--bundle", e.bundle, "inside"); code != 0 || out != "of the otherof the other" {
		t.Errorf("exit code %d, %q", code, out)
	}
	e.spec.Mounts[len(e.spec.Mounts)-1].Options = []string{"rbind", "idmap"}
	e.write()
	e.want(1, "cannot be idmapped", "run", "--bundle", e.bundle, "inside")
}
