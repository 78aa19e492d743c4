package image

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestObeyed: the environment, user, folder, program and volumes of an image, and what the command line lays over them.
func TestObeyed(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	name := ref("users:1")
	m.ok("image", "pull", name)
	const who = " uid 1000 groups 1000 10 in /home/anna home /home/anna color red\n"
	for _, c := range []struct {
		what string
		args []string
		want string
	}{
		{"all of it", []string{name}, "entry one two words" + who},
		{"arguments", []string{name, "three"}, "entry three" + who},
		{"arguments behind two dashes", []string{name, "--", "three"}, "entry three" + who},
		{"an entrypoint takes the image's arguments away", []string{"--entrypoint", "/bin/echo", name}, "\n"},
		{"entrypoint and arguments", []string{"--entrypoint", "/bin/echo", name, "a", "b"}, "a b\n"},
		{"user", []string{"--user", "0", name}, "entry one two words uid 0 groups 0 in /home/anna home /root color red\n"},
		{"workdir", []string{"-w", "/", name}, "entry one two words uid 1000 groups 1000 10 in / home /home/anna color red\n"},
		{"environment", []string{"-e", "COLOR=blue", name}, "entry one two words uid 1000 groups 1000 10 in /home/anna home /home/anna color blue\n"},
		{"volume", []string{"--entrypoint", "/bin/sh", name, "-c", "cat /data/from-the-image; echo; echo x > /data/new; cat /data/new; stat -c %u /data"}, "kept\nx\n1000\n"},
		{"read-only", []string{"--entrypoint", "/bin/sh", name, "-c", "echo x 2>/dev/null > /home/anna/new || echo no"}, "no\n"},
		{"written over", []string{"--read-only=false", "--entrypoint", "/bin/sh", name, "-c", "echo x > /home/anna/new; cat /home/anna/new"}, "x\n"},
		{"what was written is gone", []string{"--read-only=false", "--entrypoint", "/bin/ls", name, "/home/anna"}, ""},
		{"written to disk", []string{"--writable", "disk", "--entrypoint", "/bin/sh", name, "-c", "echo x > /home/anna/new; cat /home/anna/new"}, "x\n"},
		{"no more than a size", []string{"--read-only=false", "--writable-size", "4m", "--user", "0", "--entrypoint", "/bin/sh", name, "-c",
			"dd if=/dev/zero of=/large bs=1M count=8 2>/dev/null || echo full; ls /large"}, "full\n/large\n"},
		{"the whole digest", []string{"--verify-image", "always", name}, "entry one two words" + who},
	} {
		if out := m.ok(append([]string{"run"}, c.args...)...); out != c.want {
			t.Errorf("%s: it printed %q, not %q", c.what, out, c.want)
		}
	}
}

// TestScratch: an image that has nothing but a program has the places that a sandbox needs.
func TestScratch(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	if out := m.ok("run", ref("scratch:1")); out != "scratch\n" {
		t.Errorf("it printed %q", out)
	}
	if out := m.ok("run", ref("scratch:1"), "cat", "/proc/self/comm"); out != "cat\n" && out != "busybox\n" {
		t.Errorf("it printed %q", out)
	}
}

// TestShown: a sandbox says which image it is of.
func TestShown(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.ok("run", "-d", "--name", "one", ref("busybox:1"), "/bin/sleep", "1000")
	t.Cleanup(func() { m.brig("rm", "--force", "one") })
	if out := m.ok("ps"); !strings.Contains(out, ref("busybox:1")) {
		t.Errorf("ps does not show the image:\n%s", out)
	}
	var state struct {
		State struct {
			Image struct{ Ref, Digest string } `json:"image"`
		} `json:"state"`
	}
	if err := json.Unmarshal([]byte(m.ok("inspect", "--format", "json", "one")), &state); err != nil {
		t.Fatal(err)
	}
	if state.State.Image.Ref != ref("busybox:1") || !strings.HasPrefix(state.State.Image.Digest, "sha256:") {
		t.Errorf("inspect has the image %+v", state.State.Image)
	}
}

// TestDebian: a distribution's programs run, by its own loader and libraries.
func TestDebian(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	if out := m.ok("run", ref("debian:1"), "bash", "-c", ". /etc/os-release; echo $ID; perl -e 'print 6*7'"); out != "debian\n42" {
		t.Errorf("it printed %q", out)
	}
}
