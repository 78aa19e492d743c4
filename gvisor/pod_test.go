package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"brig/internal/isolation/gvisor/job"

	"github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/runsc/specutils"
)

// container is one more in the kernel of a pod.
type container struct {
	k    *kernel
	id   string
	out  *os.File
	exit uint32
}

// add starts one with a root of its own.
func (k *kernel) add(id string, conf json.RawMessage, spec *specs.Spec, root *os.File, lower specutils.GoferMountConfLowerType) *container {
	k.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		k.t.Fatal(err)
	}
	defer w.Close()
	k.t.Cleanup(func() { _ = r.Close() })
	null, err := os.Open(os.DevNull)
	if err != nil {
		k.t.Fatal(err)
	}
	defer null.Close()
	if err := k.call("containerManager.CreateSubcontainer", map[string]string{"CID": id}, nil); err != nil {
		k.t.Fatal(err)
	}
	args := map[string]any{
		"CID": id, "Spec": spec, "Conf": conf, "GoferMountConfs": []specutils.GoferMountConf{{Lower: lower, Upper: specutils.MemoryOverlay}},
	}
	if err := k.call("containerManager.StartSubcontainer", args, nil, null, w, w, root); err != nil {
		k.t.Fatal(err)
	}
	_ = root.Close()
	return &container{k: k, id: id, out: r}
}

// until reads what it says up to a word.
func (c *container) until(word string) string {
	c.k.t.Helper()
	_ = c.out.SetReadDeadline(time.Now().Add(time.Minute))
	var said []byte
	for buf := make([]byte, 256); !bytes.Contains(said, []byte(word)); {
		n, err := c.out.Read(buf)
		said = append(said, buf[:n]...)
		if err != nil {
			c.k.t.Fatalf("%v behind %q", err, said)
		}
	}
	return string(said)
}

// wait gives what it said and how it ended.
func (c *container) wait() (string, uint32) {
	c.k.t.Helper()
	text, err := io.ReadAll(c.out)
	if err != nil {
		c.k.t.Fatal(err)
	}
	if err := c.k.call("containerManager.Wait", c.id, &c.exit); err != nil {
		c.k.t.Fatal(err)
	}
	return string(text), c.exit
}

// TestPod runs two containers on the kernel of a third, which is what a pod's is: they have names, processes and roots of their own, and
// share the network.
func TestPod(t *testing.T) {
	k := newKernel(t, shell("sleep 1000"))
	k.root = image(t, guestRoot(t))
	k.job.Pod = true
	k.boot()
	var ready job.Ready
	status := json.NewDecoder(k.status)
	if err := status.Decode(&ready); err != nil {
		t.Fatal(err)
	}
	if err := k.call("containerManager.StartRoot", k.job.ID, nil); err != nil {
		t.Fatal(err)
	}
	root := guestRoot(t)
	spec := func(script string) *specs.Spec {
		s := shell(script)
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace}}
		return s
	}
	one := k.add("one", ready.Config, spec("echo $$; touch /made && ls / && ls /proc | while read n; do case $n in [0-9]*) echo process $n;; esac; done; echo waits; sleep 1000"),
		image(t, root), specutils.Erofs)
	two := k.add("two", ready.Config, spec("[ -e /made ] || echo not seen; hostname; exit 4"), image(t, root), specutils.Erofs)
	if text, exit := two.wait(); text != "not seen\nguest\n" || exit != 4<<8 {
		t.Errorf("the second said %q and ended with %#x", text, exit)
	}
	said := one.until("waits\n")
	if err := k.call("containerManager.Signal", map[string]any{"CID": "one", "Signo": 9, "Mode": 1}, nil); err != nil {
		t.Fatal(err)
	}
	rest, exit := one.wait()
	text := said + rest
	if exit != 9 || !strings.HasPrefix(text, "1\n") || !strings.Contains(text, "made\n") {
		t.Errorf("the first said %q and ended with %#x", text, exit)
	}
	for _, id := range []string{"one", "two"} {
		if err := k.call("containerManager.DestroySubcontainer", id, nil); err != nil {
			t.Error(err)
		}
	}
	if err := k.call("containerManager.Signal", map[string]any{"CID": k.job.ID, "Signo": 9}, nil); err != nil {
		t.Fatal(err)
	}
	var end job.End
	if err := status.Decode(&end); err != nil || end.Error != "" || end.Status != 9 {
		t.Errorf("the pod ended with %+v, %v", end, err)
	}
}
