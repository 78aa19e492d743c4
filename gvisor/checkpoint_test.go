package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"brig/internal/isolation/gvisor/job"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// started boots k with a pipe for its streams, starts the guest, and gives its lines.
func (k *kernel) started(start func()) *bufio.Reader {
	k.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = r.Close() })
	k.stdout = w
	k.boot()
	_ = w.Close()
	start()
	return bufio.NewReader(r)
}

// number reads one of the counter's.
func number(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if _, err := fmt.Sscan(line, &n); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return n
}

const counter = "n=0; touch /tmp/$(id -u); while :; do n=$((n+1)); echo $n; sleep 0.01; [ -e /tmp/0 ] || exit 9; done"

func maskedCounter() *specs.Spec {
	s := masked(shell(counter))
	s.Mounts = append(s.Mounts, specs.Mount{Type: "sysfs", Destination: "/sys"})
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/sys/firmware", "/sys/module")
	s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/proc/bus", "/proc/irq")
	return s
}

// TestCheckpoint stops a counter, with what it has in memory and in its tmpfs, and with masks over its files, and has another kernel go on with it.
func TestCheckpoint(t *testing.T) {
	root := image(t, guestRoot(t))
	again, err := os.Open(root.Name())
	if err != nil {
		t.Fatal(err)
	}
	before := newKernel(t, maskedCounter())
	before.root = root
	lines := before.started(func() {
		if err := before.call("containerManager.StartRoot", "guest", nil); err != nil {
			t.Fatal(err)
		}
	})
	last := number(t, lines)
	dir := t.TempDir()
	var files []*os.File
	for _, name := range []string{"state", "pages.meta", "pages"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	save := map[string]any{"have_pages_file": true, "metadata": map[string]string{"compression": "none"}}
	if err := before.call("containerManager.Checkpoint", save, nil, files...); err != nil {
		t.Fatal(err)
	}
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break
		}
		_, _ = fmt.Sscan(line, &last)
	}
	if end, _ := before.end(); end.Error != "" {
		t.Errorf("the saved kernel ended with %+v", end)
	}
	after := newKernel(t, maskedCounter())
	after.root, after.job.Saved = again, true
	for _, f := range files {
		if _, err := f.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
	}
	lines = after.started(func() {
		var ready job.Ready
		if err := json.NewDecoder(after.status).Decode(&ready); err != nil {
			t.Fatal(err)
		}
		if err := after.call("containerManager.Restore", map[string]any{"HavePagesFile": true}, nil, files...); err != nil {
			t.Fatal(err)
		}
	})
	if n := number(t, lines); n != last+1 {
		t.Errorf("the counter was at %d, and went on with %d", last, n)
	}
}
