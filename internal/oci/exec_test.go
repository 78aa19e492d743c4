package oci

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestExecKeepsLabels: a process of --process without labels of its own has the container's: none would be to step out of the
// confinement.
func TestExecKeepsLabels(t *testing.T) {
	t.Parallel()
	own := &specs.Process{ApparmorProfile: "confined", SelinuxLabel: "system_u:system_r:container_t:s0:c1,c2"}
	for text, want := range map[string][2]string{
		`{"cwd":"/","args":["x"]}`: {own.ApparmorProfile, own.SelinuxLabel},
		`{"cwd":"/","args":["x"],"apparmorProfile":"unconfined","selinuxLabel":"a:b:c:s0"}`: {"unconfined", "a:b:c:s0"},
	} {
		file := filepath.Join(t.TempDir(), "process.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := (&execution{process: file}).newProcess(own, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]string{p.ApparmorProfile, p.SelinuxLabel}; got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
