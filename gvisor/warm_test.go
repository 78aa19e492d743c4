package main

import (
	"io"
	"os"
	"strings"
	"testing"
)

// TestWarm has two kernels wait for their jobs, and then run the same one: what a guest knows them by differs.
func TestWarm(t *testing.T) {
	root := guestRoot(t)
	var said []string
	for range 2 {
		k := newKernel(t, shell("cat /proc/sys/kernel/random/boot_id; head -c 8 /dev/urandom | od -x; exit 5"))
		k.root = image(t, root)
		k.warmUp()
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
		if end, out := k.end(); end.Error != "" || end.Status != 5<<8 {
			t.Errorf("the guest of a warm kernel ended with %+v: %s", end, out)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, string(text))
	}
	if said[0] == said[1] || len(said[0]) < 20 {
		t.Errorf("two kernels told their guests the same: %q", said)
	}
}

// TestWarmUnused: a kernel that nobody gives a job ends with whoever started it, and says nothing.
func TestWarmUnused(t *testing.T) {
	k := newKernel(t, shell(""))
	k.warmUp()
	_ = k.warm.Close()
	if err := within(k.cmd.Wait); err != nil || k.out.Len() > 0 {
		t.Errorf("%v, %s", err, k.out.String())
	}
}

// TestWarmRefuses a job that comes with too few files.
func TestWarmRefuses(t *testing.T) {
	k := newKernel(t, shell(""))
	k.warmUp()
	k.stdout = k.warm
	k.send([]*os.File{asFile(t, k.job)})
	if err := within(k.cmd.Wait); err == nil || !strings.Contains(k.out.String(), "came with 4 files") {
		t.Errorf("%v, %s", err, k.out.String())
	}
}
