//go:build fallback

// Package fallback runs brig-oci, and some of brig, on kernels that seem to lack something (test/absent): it does without and the suite of test/oci
// passes, or it refuses, naming the system call and the version of Linux that brought it, before anything is made.
package fallback

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

var dir, oci, suite, scripts string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) (code int) {
	var err error
	if dir, err = os.MkdirTemp("", "brig-fallback-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	oci, suite, scripts = filepath.Join(dir, "brig-oci"), filepath.Join(dir, "oci.test"), filepath.Join(dir, "script.test")
	for _, args := range [][]string{
		{"build", "-o", dir, "brig/cmd/brig", "brig/cmd/brig-oci", "brig/test/absent"},
		{"test", "-c", "-o", suite, "brig/test/oci"},
		{"test", "-c", "-o", scripts, "brig/test/script"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go %v: %v\n%s", args, err, out)
			return 1
		}
	}
	return m.Run()
}

// What a test of the suite cannot have under a filter of another's: to be under its own alone, a second listener (seccomp(2)
// allows one), a runtime that is found by its name or file or that another user executes, and to have no files of the wrapper's.
const (
	counts   = "TestOperatorFloor|TestOperatorTightens|TestHandlerNames|TestSealed|TestReadOnlyMountIsSealed|TestUsersOwnFile|TestSpecOfAnUnprivileged|TestInherited"
	listener = counts + "|TestSeccompAgent"
)

// TestSuite: where there is something as safe, it is used.
func TestSuite(t *testing.T) {
	testenv.Check(t, testenv.Root)
	for _, c := range []struct{ mode, skip string }{
		{"clone3", counts + "|TestTimeOffsets"}, // clone(2) has no time namespaces, and only that is refused
		{"clone3_cgroup", listener},
		{"overlay", listener},
		{"landlock", counts},
		{"seccomp_notify", listener},
		{"idmap", listener + "|TestOperatorForcesUserNamespace|TestIDMapOption"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			cmd := exec.Command(suite, "-test.skip", c.skip, "-test.timeout", "9m")
			cmd.Dir, cmd.Env = filepath.Join("..", "oci"), append(os.Environ(), "BRIG_ABSENT="+c.mode)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestScripts: brig's sandboxes are launched by the same code.
func TestScripts(t *testing.T) {
	testenv.Check(t, testenv.Root)
	for _, mode := range []string{"clone3", "seccomp_notify"} {
		cmd := exec.Command(scripts, "-test.run", "TestScript/(first|rootfs|terminal)$", "-test.timeout", "9m")
		cmd.Dir, cmd.Env = filepath.Join("..", "script"), append(os.Environ(), "BRIG_ABSENT="+mode)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", mode, err, out)
		}
	}
	for mode, words := range map[string]string{
		"openat2": "openat2(2), which came with Linux 5.6", "mount_setattr": "mount_setattr(2), which came with Linux 5.12",
		"pidfd_open": "pidfd_open(2), which came with Linux 5.3", "landlock": "--allow-missing=landlock",
	} {
		state := filepath.Join(t.TempDir(), "state")
		out, err := exec.Command(filepath.Join(dir, "absent"), mode, filepath.Join(dir, "brig"), "run", "--root", state, "--", "true").CombinedOutput()
		if err == nil || !strings.Contains(string(out), words) {
			t.Errorf("%s: %v: %s; want an error that says %q", mode, err, out, words)
		}
		if left, _ := filepath.Glob(filepath.Join(state, "sandboxes", "*")); left != nil {
			t.Errorf("%s: left: %q", mode, left)
		}
	}
}

// bundle makes a bundle whose root file system is a busybox.
func bundle(t *testing.T, change func(*specs.Spec)) string {
	t.Helper()
	testenv.Check(t, testenv.Root, testenv.Program("busybox"))
	b := t.TempDir()
	busybox, err := exec.LookPath("busybox")
	if err == nil {
		err = os.MkdirAll(filepath.Join(b, "rootfs/bin"), 0o755)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(busybox)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(b, "rootfs/bin/busybox"), text, 0o755)
	}
	for _, name := range []string{"sleep", "true"} {
		err = errors.Join(err, os.Symlink("busybox", filepath.Join(b, "rootfs/bin", name)))
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(oci, "spec", "--bundle", b).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var spec specs.Spec
	text, err = os.ReadFile(filepath.Join(b, "config.json"))
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	spec.Process.Terminal, spec.Process.Args = false, []string{"sleep", "1000"}
	if change != nil {
		change(&spec)
	}
	text, err = json.Marshal(&spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(b, "config.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// call runs brig-oci without the mode, or with one.
func call(t *testing.T, mode string, args ...string) (out string, code int) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := append([]string{oci}, args...)
	if mode != "" {
		line = append([]string{filepath.Join(dir, "absent"), mode}, line...)
	}
	cmd := exec.Command("timeout", append([]string{"30"}, line...)...)
	cmd.Stdout, cmd.Stderr = f, f
	_ = cmd.Run()
	text, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// left is what there is of a container.
func left(t *testing.T, root, id string) []string {
	t.Helper()
	list, _ := filepath.Glob(filepath.Join(root, "*"))
	for _, pattern := range []string{"/sys/fs/cgroup/*/brig/", "/sys/fs/cgroup/brig/"} {
		groups, _ := filepath.Glob(pattern + id + "*")
		list = append(list, groups...)
	}
	return list
}

// TestRefusals: where there is nothing as safe, every verb that would need it says what is missing, and nothing is made; what
// is there already is told of as it is, and can be deleted on the kernel as it was.
func TestRefusals(t *testing.T) {
	for mode, words := range map[string][]string{
		"openat2":             {"openat2(2)", "Linux 5.6"},
		"open_tree":           {"open_tree(2)", "Linux 5.2"},
		"move_mount":          {"move_mount(2)", "Linux 5.2"},
		"fsopen":              {"fsopen(2)", "Linux 5.2"},
		"fsmount":             {"fsconfig(2)", "Linux 5.2"},
		"mount_setattr":       {"mount_setattr(2)", "Linux 5.12"},
		"close_range":         {"close_range(2)", "Linux 5.9"},
		"close_range_cloexec": {"CLOSE_RANGE_CLOEXEC", "Linux 5.11"},
		"pidfd_open":          {"pidfd_open(2)", "Linux 5.3"},
		"pidfd_send_signal":   {"pidfd_send_signal(2)", "Linux 5.1"},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			b, root := bundle(t, nil), filepath.Join(t.TempDir(), "state")
			id, other := fmt.Sprintf("refused-%d-%s", os.Getpid(), mode), fmt.Sprintf("there-%d-%s", os.Getpid(), mode)
			want := func(args ...string) {
				t.Helper()
				out, code := call(t, mode, append([]string{"--root", root}, args...)...)
				for _, w := range append(words, "Brig needs Linux 5.15") {
					if code == 0 || code > 255 || !strings.Contains(out, w) {
						t.Errorf("%v: exit code %d, %q; want an error that says %q", args, code, out, w)
					}
				}
			}
			want("create", "--bundle", b, id)
			want("run", "--bundle", b, id)
			if l := left(t, root, id); l != nil {
				t.Errorf("left: %q", l)
			}
			good := func(args ...string) string {
				t.Helper()
				out, code := call(t, "", append([]string{"--root", root}, args...)...)
				if code != 0 {
					t.Errorf("%v: exit code %d, %q", args, code, out)
				}
				return out
			}
			good("run", "--bundle", b, "--detach", other)
			want("exec", other, "true")
			want("kill", other, "KILL")
			want("delete", "--force", other)
			for _, m := range []string{mode, ""} {
				if out, code := call(t, m, "--root", root, "state", other); code != 0 || !strings.Contains(out, `"running"`) {
					t.Errorf("mode %q: state: %d, %s", m, code, out)
				}
			}
			good("delete", "--force", other)
			if l := left(t, root, other); l != nil {
				t.Errorf("left: %q", l)
			}
		})
	}
}

// TestRefusedFields: what a bundle asks for and a kernel lacks is refused, and nothing else is.
func TestRefusedFields(t *testing.T) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	for name, c := range map[string]struct {
		mode, words string
		change      func(*specs.Spec)
	}{
		"Landlock": {"landlock", "to accept a container without it: the annotation run.brig.allow-missing=landlock", func(s *specs.Spec) {
			s.Annotations = map[string]string{"run.brig.landlock": "on"}
		}},
		"a time namespace": {"clone3", "clone3", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		}},
		"an idmapped mount": {"idmap", "idmapped mounts", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Source: "/usr", Type: "bind", Options: []string{"bind"}, UIDMappings: ids, GIDMappings: ids})
		}},
		"a listener": {"seccomp_notify", "SECCOMP_RET_USER_NOTIF", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, ListenerPath: "/nowhere/agent",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}},
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, root := bundle(t, c.change), filepath.Join(t.TempDir(), "state")
			id := fmt.Sprintf("field-%d-%s", os.Getpid(), c.mode)
			out, code := call(t, c.mode, "--root", root, "create", "--bundle", b, id)
			if code == 0 || !strings.Contains(out, c.words) {
				t.Errorf("create: exit code %d, %q; want an error that says %q", code, out, c.words)
			}
			if l := left(t, root, id); l != nil {
				t.Errorf("left: %q", l)
			}
			call(t, "", "--root", root, "delete", "--force", id)
		})
	}
}
