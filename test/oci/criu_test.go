package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"
)

// TestCheckpointReason: a criu that cannot work here is refused with its own reason, not with an exit code. That a checkpoint
// works is proved by make test-criu.
func TestCheckpointReason(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	criu := filepath.Join(t.TempDir(), "criu")
	script := "#!/bin/sh\n[ \"$1\" = check ] || exit 3\necho 'Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds' >&2\nexit 1\n"
	if err := os.WriteFile(criu, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"checkpoint", "restore"} {
		out, code := e.call("--criu", criu, verb, "nobody")
		if want := verb + " needs criu, which cannot work here"; code != 1 || !strings.Contains(out, want) || !strings.Contains(out, "vdso: Unexpected rt vDSO area bounds") {
			t.Errorf("exit code %d: %s", code, out)
		}
	}
	if testenv.Isolation() == "gvisor" { // which no criu changes: nobody is told to install one first
		e.spec.Process.Args = []string{"sleep", "1000"}
		e.write()
		t.Cleanup(func() { e.call("delete", "--force", "saved") })
		e.want(0, "", "run", "--detach", "--bundle", e.bundle, "saved")
		e.want(1, "isolation gvisor is not supported", "--criu", "/nowhere/criu", "checkpoint", "saved")
	}
}
