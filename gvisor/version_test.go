package main

import (
	"os/exec"
	"strings"
	"testing"

	"brig/internal/isolation/gvisor/job"
)

// TestVersion: a build for which nobody has told the linker a version says which gVisor it is all the same.
func TestVersion(t *testing.T) {
	out, err := exec.Command(program(t), "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "gVisor v0.0.0-20") || !strings.HasSuffix(string(out), "\ninterface "+job.Interface+"\n") {
		t.Errorf("%q, %v", out, err)
	}
}

// TestOtherBrig: what was built from another tree than brig serves nothing.
func TestOtherBrig(t *testing.T) {
	for _, args := range [][]string{{"sentry"}, {"sentry", "0"}, {"gofer"}, {"gofer", job.Interface, "1"}} {
		out, err := exec.Command(program(t), args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "built from another tree than brig") {
			t.Errorf("%q: %q, %v", args, out, err)
		}
	}
}
