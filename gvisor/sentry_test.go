package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"brig/internal/isolation/gvisor/job"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestSentry runs a program on gVisor's kernel, as Brig does but for what confines it.
func TestSentry(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "brig-gvisor")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "proc", "dev", "tmp", "sys", "etc"} {
		_ = os.MkdirAll(filepath.Join(root, d), 0o755)
	}
	if out, err := exec.Command("cp", "/bin/busybox", filepath.Join(root, "bin")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	image := filepath.Join(dir, "image")
	if out, err := exec.Command("mkfs.erofs", "-E", "noinline_data", image, root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	j := &job.Job{ID: "test", Spec: &specs.Spec{
		Version: specs.Version, Hostname: "guest",
		Root:    &specs.Root{Path: "/", Readonly: true},
		Process: &specs.Process{Args: []string{"/bin/busybox", "sh", "-c", "/bin/busybox uname -a; exit 7"}, Cwd: "/", Env: []string{"PATH=/bin"}},
		Mounts:  []specs.Mount{{Type: "proc", Destination: "/proc"}, {Type: "tmpfs", Destination: "/tmp"}},
		Linux:   &specs.Linux{},
	}}
	end, out := run(t, bin, j, image)
	if end.Status != 7<<8 || !bytes.Contains(out, []byte("Linux guest")) {
		t.Errorf("%+v %s", end, out)
	}
}

func run(t *testing.T, bin string, j *job.Job, image string) (job.End, []byte) {
	t.Helper()
	text, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "job")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	jobFile, _ := os.Open(name)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	control, _ := l.(*net.UnixListener).File()
	r, w, _ := os.Pipe()
	rootFile, _ := os.Open(image)
	cmd := exec.Command(bin, "sentry")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.ExtraFiles = []*os.File{jobFile, control, w, rootFile}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(`{"method":"containerManager.StartRoot","arg":"test"}`)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	t.Logf("%s %v", b[:n], err)
	var end job.End
	if err := json.NewDecoder(r).Decode(&end); err != nil {
		t.Errorf("no end: %v", err)
	}
	_ = cmd.Wait()
	return end, out.Bytes()
}
