package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestSentry runs a program on gVisor's kernel, as Brig does but for what confines it.
func TestSentry(t *testing.T) {
	k := newKernel(t, shell("uname -a; exit 7"))
	k.root = image(t, guestRoot(t))
	end, out := k.run()
	if end.Error != "" || end.Status != 7<<8 || !strings.Contains(out, "Linux guest") {
		t.Errorf("%+v %s", end, out)
	}
}

// TestSentryFiltered: the kernel process runs the guest under a filter, has no new privileges and no file of the host's but those it
// was given.
func TestSentryFiltered(t *testing.T) {
	k := newKernel(t, shell("echo ready; sleep 1000"))
	k.root = image(t, guestRoot(t))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	k.stdout = w
	k.boot()
	_ = w.Close()
	if err := k.call("containerManager.StartRoot", k.job.ID, nil); err != nil {
		t.Fatal(err)
	}
	if b := make([]byte, 6); true {
		if _, err := r.Read(b); err != nil || string(b) != "ready\n" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", k.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nSeccomp:\t2\n", "\nNoNewPrivs:\t1\n"} {
		if !bytes.Contains(status, []byte(want)) {
			t.Errorf("the kernel process has no %q: %s", want, status)
		}
	}
	for fd, path := range k.files() {
		known := path == "/dev/null" || strings.HasPrefix(path, "/memfd:") || strings.HasSuffix(path, "/image") ||
			strings.HasPrefix(path, "/sys/fs/cgroup/") // Go's own, by which it counts the processors
		if strings.HasPrefix(path, "/") && !known {
			t.Errorf("the kernel process has %s open, as %s", path, fd)
		}
	}
}
