package oci

import (
	"strings"
	"testing"
)

// TestAmbientAlone: bundles that older engines wrote name ambient capabilities and no inheritable ones, which no kernel raises.
// The program starts without them, and the caller is told.
func TestAmbientAlone(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Capabilities.Ambient = []string{"CAP_KILL"}
	e.spec.Process.Args = []string{"cat", "/proc/self/status"}
	e.write()
	out := e.want(0, "CapAmb:\t0000000000000000", "run", "--bundle", e.bundle, "ambient")
	if !strings.Contains(out, "level=warning") || !strings.Contains(out, "CAP_KILL") {
		t.Errorf("no warning in %s", out)
	}
	e.spec.Process.Capabilities.Inheritable = []string{"CAP_KILL"}
	e.write()
	e.want(0, "CapAmb:\t0000000000000020", "run", "--bundle", e.bundle, "ambient")
}
