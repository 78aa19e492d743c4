package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestVersion: a build for which nobody has told the linker a version says which gVisor it is all the same.
func TestVersion(t *testing.T) {
	out, err := exec.Command(program(t), "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "gVisor v0.0.0-20") {
		t.Errorf("%q, %v", out, err)
	}
}
