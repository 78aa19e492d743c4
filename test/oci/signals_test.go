package oci

import (
	"strings"
	"testing"
)

// TestSignalsAreDefault: what the caller ignores, an engine under nohup(1) say, the program does not: a shell could not trap it.
func TestSignalsAreDefault(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.addApplets("grep")
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.wrap = []string{"sh", "-c", "trap '' HUP INT; exec \"$@\"", "sh"}
	e.want(0, "", "run", "--bundle", e.bundle, "--detach", "signals")
	t.Cleanup(func() { e.call("delete", "--force", "signals") })
	if differs(t) {
		e.want(1, "", "exec", "signals", "grep", "SigIgn", "/proc/1/status")
		return
	}
	for _, process := range []string{"1", "self"} {
		out := e.want(0, "", "exec", "signals", "grep", "SigIgn", "/proc/"+process+"/status")
		if !strings.Contains(out, "SigIgn:\t0000000000000000") {
			t.Errorf("process %s ignores %s", process, out)
		}
	}
}
