package oci

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestMissingLimitIsRefused: a limit that the machine cannot enforce is no less a limit because the caller is, or says it is, an
// unprivileged user. Without such hardware this one never can be.
func TestMissingLimitIsRefused(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	handles := uint32(3)
	e.spec.Linux.Resources.Rdma = map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: &handles}}
	e.spec.Process.Args = []string{"true"}
	e.write()
	for _, rootless := range []string{"true", "false"} {
		e.want(1, "linux.resources.rdma", "--rootless", rootless, "run", "--bundle", e.bundle, "limitless")
	}
}

// TestStateFolderOfAnother: states that somebody else could have written decide nothing: they name hooks, which are executed.
func TestStateFolderOfAnother(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"true"}
	e.write()
	open := openFolder(t)
	owned := filepath.Join(open, "owned")
	if err := os.Mkdir(owned, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(open, "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	for _, theirs := range []string{owned, link} {
		if err := os.Lchown(theirs, 23456, 23456); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{open, owned, link} {
		e.root = folder
		for _, verb := range [][]string{{"run", "--bundle", e.bundle, "planted"}, {"delete", "--force", "planted"}, {"list"}} {
			e.want(1, "others can write to", verb...)
		}
	}
}

// TestPIDFileBesideLinks: what lies where the pid file is written first is not followed.
func TestPIDFileBesideLinks(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"true"}
	e.write()
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, []byte("as it was"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(precious, filepath.Join(dir, ".pid")); err != nil {
		t.Fatal(err)
	}
	e.want(0, "", "run", "--bundle", e.bundle, "--pid-file", filepath.Join(dir, "pid"), "pid-file")
	if text, err := os.ReadFile(precious); err != nil || string(text) != "as it was" {
		t.Errorf("the file that a link led to has %q, %v", text, err)
	}
}

// TestCopyWithinMemory: what an image has in a folder that is copied into RAM comes out of the container's memory, though it is the
// runtime that copies: a file with holes takes nothing in the image.
func TestCopyWithinMemory(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	limit := int64(16 << 20)
	e.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	e.spec.Mounts = append(e.spec.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
	e.spec.Process.Args = []string{"true"}
	e.write()
	data := filepath.Join(e.bundle, "rootfs/data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(data, "holes")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		size  int64
		code  int
		words string
	}{{1 << 20, 0, ""}, {17 << 20, 1, "memory limit"}} {
		if err := os.Truncate(file, c.size); err != nil {
			t.Fatal(err)
		}
		e.want(c.code, c.words, "run", "--bundle", e.bundle, "copied")
	}
}
