package oci

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestHookOutput: what hooks say goes where run.oci.hooks.stdout and stderr name a file, from the host and from inside.
func TestHookOutput(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	stdout, stderr := filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "err")
	hook := func(word string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo " + word + "; echo not " + word + " >&2"}}}
	}
	e.spec.Annotations = map[string]string{"run.oci.hooks.stdout": stdout, "run.oci.hooks.stderr": stderr}
	e.spec.Hooks = &specs.Hooks{CreateRuntime: hook("created"), StartContainer: hook("inside"), Poststop: hook("gone")}
	e.spec.Process.Args = []string{"true"}
	e.write()
	e.want(0, "", "run", "--bundle", e.bundle, "said")
	for name, want := range map[string]string{stdout: "created\ninside\ngone\n", stderr: "not created\nnot inside\nnot gone\n"} {
		if text, err := os.ReadFile(name); err != nil || string(text) != want {
			t.Errorf("%s has %q (%v), want %q", name, text, err, want)
		}
	}

	// Through a link nothing is written: an annotation can come with an image.
	link, victim := filepath.Join(t.TempDir(), "link"), filepath.Join(t.TempDir(), "victim")
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	e.spec.Annotations["run.oci.hooks.stdout"] = link
	e.write()
	e.want(1, "annotation run.oci.hooks.stdout", "run", "--bundle", e.bundle, "said")
	if _, err := os.Stat(victim); err == nil {
		t.Error("the link was followed")
	}
	e.spec.Annotations["run.oci.hooks.stdout"] = "relative"
	e.write()
	e.want(1, "must be an absolute path", "run", "--bundle", e.bundle, "said")
	e.spec.Annotations = map[string]string{"run.oci.systemd.subgroup": "container"}
	e.write()
	e.want(1, "run.oci.systemd.subgroup=container: a group below the scope", "--systemd-cgroup", "run", "--bundle", e.bundle, "said")
}
