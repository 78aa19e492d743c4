package oci

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCreateLooksForTheProgram: that there is no such program is create's news, not start's: Podman and Docker give exit code 127
// for it, from what create says.
func TestCreateLooksForTheProgram(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	data := filepath.Join(e.bundle, "rootfs/tmp/data")
	if err := os.WriteFile(data, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, program, words string }{
		{"/bin", "nosuch", `exec: \"nosuch\": executable file not found in $PATH`},
		{"/bin:/tmp", "data", `exec: \"data\": permission denied`},
		{"/tmp:/bin", "data", `exec: \"data\": permission denied`},
		{"/bin", "/nosuch", `exec: \"/nosuch\": stat /nosuch: no such file or directory`},
		{"/bin", "/tmp/data", `exec: \"/tmp/data\": permission denied`},
	} {
		e.spec.Process.Args, e.spec.Process.Env = []string{c.program}, []string{"PATH=" + c.path}
		e.write()
		e.want(1, c.words, "create", "--bundle", e.bundle, "look")
	}
	// Found in the first folder of several, and in the last.
	for _, path := range []string{"/bin:/tmp:/nosuch", "/nosuch:/tmp:/bin"} {
		e.spec.Process.Args, e.spec.Process.Env = []string{"echo", "found"}, []string{"PATH=" + path}
		e.write()
		e.want(0, "found", "run", "--bundle", e.bundle, "look")
	}
	if out, _ := e.call("list", "-q"); out != "" {
		t.Errorf("left: %q", out)
	}
}
