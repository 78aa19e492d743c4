package oci

import (
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"brig/internal/testenv"
)

// TestInheritedFiles holds that a container that waits for its start keeps no file of its creator's open: here the only writing end
// of a pipe, behind one file that is passed on.
func TestInheritedFiles(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.write()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	passed, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	out, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(runtime, "--root", e.root, "create", "--preserve-fds", "1", "--bundle", e.bundle, "inherited")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{passed, write}
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		t.Fatalf("%v: %s", err, text)
	}
	_ = write.Close()
	if err := read.SetReadDeadline(time.Now().Add(testenv.Patience(30 * time.Second))); err != nil {
		t.Fatal(err)
	}
	if _, err := read.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the end of the pipe: %v", err)
	}
	if got := e.status("inherited"); got != "created" {
		t.Errorf("the container is %s", got)
	}
	e.want(0, "", "delete", "--force", "inherited")
}
