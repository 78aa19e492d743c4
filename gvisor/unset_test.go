package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestQueues: the message queues are where the spec has them, and not anywhere else.
func TestQueues(t *testing.T) {
	const script = `while read -r _ _ _ root at flags _ type _; do [ $type = mqueue ] && echo $root $at $flags; done </proc/self/mountinfo; ls -A /dev/mqueue`
	s := shell(script)
	s.Mounts = append(s.Mounts,
		specs.Mount{Type: "mqueue", Source: "mqueue", Destination: "/dev/mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		specs.Mount{Type: "mqueue", Source: "mqueue", Destination: "/queues", Options: []string{"ro"}})
	for want, spec := range map[string]*specs.Spec{
		"/ /dev/mqueue rw,nosuid,noexec\n/ /queues ro\n": s,
		"ls: /dev/mqueue: No such file or directory\n":   shell(script),
	} {
		k := newKernel(t, spec)
		root := guestRoot(t)
		if err := os.Mkdir(filepath.Join(root, "queues"), 0o700); err != nil {
			t.Fatal(err)
		}
		k.root = image(t, root)
		if end, out := k.run(); out != want || end.Error != "" {
			t.Errorf("%+v, it says\n%swant\n%s", end, out, want)
		}
	}
}

// TestScore: the first process has the spec's, and so has what it starts.
func TestScore(t *testing.T) {
	for want, score := range map[string]*int{"0\n0\n": nil, "-7\n-7\n": new(-7)} {
		s := shell("read x </proc/self/oom_score_adj; echo $x; cat /proc/self/oom_score_adj")
		s.Process.OOMScoreAdj = score
		k := newKernel(t, s)
		k.root = image(t, guestRoot(t))
		if end, out := k.run(); out != want || end.Error != "" {
			t.Errorf("%+v, it says %q, want %q", end, out, want)
		}
	}
}
