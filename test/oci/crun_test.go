package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What crun's suite asks of a runtime and runc's does not.

// TestConfigName: --config names the bundle's configuration, from the bundle on.
func TestConfigName(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"echo", "of the other"}
	e.write()
	if err := os.Mkdir(filepath.Join(e.bundle, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(e.bundle, "config.json"), filepath.Join(e.bundle, "sub/other.json")); err != nil {
		t.Fatal(err)
	}
	e.want(0, "of the other", "run", "--bundle", e.bundle, "--config", "sub/other.json", "named")
	e.want(1, "sub/no.json not found", "run", "--bundle", e.bundle, "--config", "sub/no.json", "named")
}

// TestDevicesAnywhere: a node is made where the bundle has it, in the root file system too, and with its owner; also in a user
// namespace and when the host has no such path. Where /dev is the host's, nothing is made in it.
func TestDevicesAnywhere(t *testing.T) {
	t.Parallel()
	uid, gid := uint32(10), uint32(11)
	devices := []specs.LinuxDevice{
		{Path: "/dev/mine", Type: "c", Major: 1, Minor: 5, UID: &uid, GID: &gid},
		{Path: "/node", Type: "c", Major: 1, Minor: 3},
		{Path: "/deep/er/node", Type: "c", Major: 1, Minor: 3},
	}
	for _, user := range []bool{false, true} {
		e := newEngine(t)
		e.spec.Linux.Devices = devices
		e.spec.Process.Args = []string{"sh", "-c", "stat -c '%t:%T %u:%g' /dev/mine; stat -c '%F %t:%T' /node /deep/er/node; head -c 2 /dev/mine | od -An -tx1; echo x >/node && echo written"}
		if user {
			e.inUserNamespace()
		}
		e.write()
		for range 2 { // the second time the nodes are there already
			e.want(0, "1:5 10:11\ncharacter special file 1:3\ncharacter special file 1:3\n 00 00\nwritten\n", "run", "--bundle", e.bundle, "nodes")
		}
	}
	e := newEngine(t)
	e.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}}
	e.spec.Mounts = append(e.spec.Mounts, specs.Mount{Destination: "/dev", Type: "bind", Source: "/dev", Options: []string{"rbind", "rw"}})
	e.spec.Process.Args = []string{"sh", "-c", "echo x >/dev/null && ls -d /dev/vda /dev/loop-control"}
	e.write()
	e.want(0, "/dev/loop-control", "run", "--bundle", e.bundle, "hosts")
	e.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/brig-no-such", Type: "c", Major: 1, Minor: 3}}
	e.write()
	e.want(1, "/dev/brig-no-such would be made in /dev of the host", "run", "--bundle", e.bundle, "hosts")
}

// inUserNamespace gives the bundle one, with a root file system that belongs to it.
func (e *engine) inUserNamespace() {
	e.t.Helper()
	maps := []specs.LinuxIDMapping{{HostID: 400000, Size: 65536}}
	e.spec.Linux.UIDMappings, e.spec.Linux.GIDMappings = maps, maps
	e.spec.Linux.Namespaces = append(e.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	if out, err := exec.Command("chown", "-R", "400000:400000", filepath.Join(e.bundle, "rootfs")).CombinedOutput(); err != nil {
		e.t.Fatalf("%v: %s", err, out)
	}
	for dir := e.bundle; dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode()&1 == 0 {
			if err := os.Chmod(dir, info.Mode()|1); err != nil {
				e.t.Fatal(err)
			}
		}
	}
}

// TestWorkingDirectoryIsMade, as runc and crun do, also in a root that is read-only; an exec makes none.
func TestWorkingDirectoryIsMade(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Root.Readonly = true
	e.spec.Process.Cwd = "/new//dir"
	e.spec.Process.Args = []string{"pwd"}
	e.write()
	e.want(0, "/new/dir\n", "run", "--bundle", e.bundle, "cwd")
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.want(0, "", "run", "-d", "--bundle", e.bundle, "cwd")
	e.want(255, "no such file or directory", "exec", "--cwd", "/not/there", "cwd", "true")
	e.want(0, "", "delete", "-f", "cwd")
}

// TestTargetsWithDoubleSlashes are cleaned.
func TestTargetsWithDoubleSlashes(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Mounts = append(e.spec.Mounts, specs.Mount{Destination: "/a//b/", Type: "tmpfs", Source: "tmpfs"})
	e.spec.Process.Args = []string{"sh", "-c", "grep -o ' /a/b ' /proc/self/mountinfo"}
	e.write()
	e.want(0, " /a/b ", "run", "--bundle", e.bundle, "slashes")
}

// TestHostnameHasAField: the sysctl of the same meaning is refused, as runc and crun do.
func TestHostnameHasAField(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Linux.Sysctl = map[string]string{"kernel.hostname": "x"}
	e.write()
	e.want(1, "hostname", "run", "--bundle", e.bundle, "sysctl")
}

// TestDeleteByRegex deletes every container whose id has a match.
func TestDeleteByRegex(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	for _, id := range []string{"web-1", "web-2", "other"} {
		e.want(0, "", "run", "-d", "--bundle", e.bundle, id)
	}
	e.want(1, "error parsing regexp", "delete", "--force", "--regex", "web-(")
	e.want(1, "not stopped", "delete", "--regex", "web-.")
	e.want(0, "", "delete", "--force", "--regex", "^web-")
	if out := e.want(0, "other", "list", "-q"); strings.TrimSpace(out) != "other" {
		t.Errorf("left: %q", out)
	}
	e.want(0, "", "delete", "--force", "other")
}

// TestKeep: a container that has ended in the foreground stays, for whoever asks after it.
func TestKeep(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"sh", "-c", "exit 3"}
	e.write()
	e.want(3, "", "run", "--keep", "--bundle", e.bundle, "kept")
	e.want(0, `"status": "stopped"`, "state", "kept")
	e.want(255, "stopped", "exec", "kept", "true")
	e.want(0, "", "delete", "kept")
}

// TestListenFDs: sockets that a service manager passes reach the program (sd_listen_fds(3)), which is pid 1 of its namespace.
func TestListenFDs(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"sh", "-c", "echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; cat <&3; cat <&4"}
	e.write()
	var files []*os.File
	for i := range 2 {
		name := filepath.Join(t.TempDir(), "passed")
		if err := os.WriteFile(name, fmt.Appendf(nil, "file %d\n", i), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	cmd := exec.Command(runtime, "--root", e.root, "run", "--bundle", e.bundle, "listens")
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), "LISTEN_FDS=2", "LISTEN_FDNAMES=one:two")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "2 1 one:two\nfile 0\nfile 1\n" {
		t.Errorf("%q, %v", out, err)
	}
	cmd = exec.Command(runtime, "--root", e.root, "run", "--bundle", e.bundle, "listens")
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), "LISTEN_FDS=2", "LISTEN_PID=1") // another process's
	if out, _ := cmd.CombinedOutput(); strings.HasPrefix(string(out), "2") {
		t.Errorf("descriptors that were another process's were passed: %q", out)
	}
}

// TestPreserveFDsWithHoles: numbers that are not open stay so, and the others keep theirs.
func TestPreserveFDsWithHoles(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	name := filepath.Join(t.TempDir(), "passed")
	if err := os.WriteFile(name, []byte("passed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	passed, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"cat", "/proc/self/fd/7"}, "passed\n"},
		{[]string{"sh", "-c", "for i in 4 5 6 7 8; do test -e /proc/self/fd/$i && echo $i; done; true"}, "7\n"},
	} {
		e.spec.Process.Args = c.args
		e.write()
		cmd := exec.Command(runtime, "--root", e.root, "run", "--bundle", e.bundle, "--preserve-fds", "20", "holes")
		cmd.ExtraFiles = []*os.File{nil, nil, nil, nil, passed}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != c.want {
			t.Errorf("%v: %q, %v", c.args, out, err)
		}
	}
}

// TestDeleteOfAProcessFrozenElsewhere: somebody has moved the process into a freezer of version 1 and frozen that; no signal ends
// it there, and delete --force takes it back.
func TestDeleteOfAProcessFrozenElsewhere(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.CgroupV1Devices)
	e := newEngine(t)
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.want(0, "", "run", "-d", "--bundle", e.bundle, "frozen")
	var state struct{ Pid int }
	if err := json.Unmarshal([]byte(e.want(0, "", "state", "frozen")), &state); err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("/sys/fs/cgroup/freezer/brig-test-%d", os.Getpid())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	for _, w := range [][2]string{{"cgroup.procs", strconv.Itoa(state.Pid)}, {"freezer.state", "FROZEN"}} {
		if err := os.WriteFile(filepath.Join(dir, w[0]), []byte(w[1]), 0); err != nil {
			t.Fatal(err)
		}
	}
	e.want(0, "", "delete", "--force", "frozen")
}

// TestMountsOfARunningContainer are added and removed.
func TestMountsOfARunningContainer(t *testing.T) {
	t.Parallel()
	for _, user := range []bool{false, true} {
		e := newEngine(t)
		e.spec.Mounts = append(e.spec.Mounts, specs.Mount{Destination: "/ram", Type: "tmpfs", Source: "tmpfs"})
		e.spec.Process.Args = []string{"sleep", "1000"}
		if user {
			e.inUserNamespace()
		}
		e.write()
		source := t.TempDir()
		if err := os.WriteFile(filepath.Join(source, "f"), []byte("of the host"), 0o644); err != nil {
			t.Fatal(err)
		}
		list := []specs.Mount{
			{Destination: "/ram/host", Type: "bind", Source: source, Options: []string{"bind", "ro"}},
			{Destination: "/ram/own", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro"}},
			{Destination: "/ram/file", Type: "bind", Source: filepath.Join(source, "f"), Options: []string{"bind"}},
		}
		file := filepath.Join(t.TempDir(), "mounts.json")
		text, err := json.Marshal(list)
		if err == nil {
			err = os.WriteFile(file, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		e.want(0, "", "run", "-d", "--bundle", e.bundle, "mounts")
		t.Cleanup(func() { e.call("delete", "--force", "mounts") })
		e.want(1, "there are add and remove", "mounts", "move", "mounts", file)
		e.want(0, "", "mounts", "add", "mounts", file)
		e.want(0, "of the hostof the host", "exec", "mounts", "cat", "/ram/host/f", "/ram/file")
		e.want(0, "/ram/own ro", "exec", "mounts", "grep", "-o", "/ram/own ro", "/proc/self/mountinfo")
		e.want(1, "Read-only file system", "exec", "mounts", "sh", "-c", "echo x >/ram/host/g")
		e.want(0, "", "mounts", "remove", "mounts", file)
		if out := e.want(0, "/ram ", "exec", "mounts", "cat", "/proc/self/mountinfo"); strings.Contains(out, "/ram/") {
			t.Errorf("mounts are left:\n%s", out)
		}
		e.want(1, "unmount /ram/host", "mounts", "remove", "mounts", file)
		e.want(0, "", "delete", "--force", "mounts")
		e.want(1, "does not exist", "mounts", "add", "mounts", file)
	}
}

// TestTargetsBehindDanglingLinks are made where the link leads, inside the root file system.
func TestTargetsBehindDanglingLinks(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	outside := filepath.Join(t.TempDir(), "outside")
	for name, to := range map[string]string{"relative": "../../new/place", "absolute": outside, "tmp/folder": "elsewhere/deep"} {
		if err := os.Symlink(to, filepath.Join(e.bundle, "rootfs", name)); err != nil {
			t.Fatal(err)
		}
	}
	source := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(source, []byte("bound "), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/relative", "/absolute", "/tmp/folder/f"} {
		e.spec.Mounts = append(e.spec.Mounts, specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"bind"}})
	}
	e.spec.Process.Args = []string{"cat", "/relative", "/new/place", "/absolute", "/tmp/elsewhere/deep/f"}
	e.write()
	e.want(0, "bound bound bound bound ", "run", "--bundle", e.bundle, "dangling")
	if _, err := os.Lstat(outside); err == nil {
		t.Errorf("%s was made on the host", outside)
	}
}

// TestCopySymlink: the link itself is in the container, wherever it leads, and a root in RAM by tmpcopyup can have it too.
func TestCopySymlink(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("leads/nowhere", link); err != nil {
		t.Fatal(err)
	}
	e.spec.Mounts = append(e.spec.Mounts, specs.Mount{Destination: "/a/sym/link", Type: "bind", Source: link, Options: []string{"rbind", "copy-symlink"}})
	e.spec.Process.Args = []string{"stat", "-c", "%N", "/a/sym/link"}
	e.write()
	for range 2 {
		e.want(0, "'/a/sym/link' -> 'leads/nowhere'", "run", "--bundle", e.bundle, "link")
	}
	e.spec.Mounts = append([]specs.Mount{{Destination: "/", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}}}, e.spec.Mounts...)
	e.spec.Process.Args = []string{"sh", "-c", "stat -f -c %T /; stat -c %N /a/sym/link"}
	e.write()
	kind := "tmpfs"
	if differs(t) {
		kind = "UNKNOWN"
	}
	e.want(0, kind+"\n'/a/sym/link' -> 'leads/nowhere'\n", "run", "--bundle", e.bundle, "ram")
}

// TestExecSetsVariables over the container's own.
func TestExecSetsVariables(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Env = append(e.spec.Process.Env, "FIRST=1")
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.want(0, "", "run", "-d", "--bundle", e.bundle, "env")
	if out := e.want(0, "FIRST=2", "exec", "--env", "FIRST=2", "-e", "SECOND=3", "env", "cat", "/proc/self/environ"); strings.Contains(out, "FIRST=1") {
		t.Errorf("a variable is there twice: %q", out)
	}
	e.want(0, "", "delete", "--force", "env")
}

// TestPidfdReceiver: the annotation's socket gets a pidfd of the container's process.
func TestPidfdReceiver(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // of a test
	e.spec.Annotations = map[string]string{"run.oci.pidfd_receiver": socket}
	e.spec.Process.Args = []string{"sleep", "1000"}
	e.write()
	e.want(0, "", "run", "-d", "--bundle", e.bundle, "watched")
	if err := listener.SetDeadline(time.Now().Add(testenv.Patience(30 * time.Second))); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // of a test
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 100), control)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	pidfd := os.NewFile(uintptr(fds[0]), "pidfd")
	defer pidfd.Close() //nolint:errcheck // of a test
	if err := unix.PidfdSendSignal(fds[0], unix.SIGKILL, nil, 0); err != nil {
		t.Error(err)
	}
	for {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}, 20_000); err == nil {
			break
		} else if !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
	e.want(0, "", "delete", "--force", "watched")
	e.spec.Annotations["run.oci.pidfd_receiver"] = socket + "-none"
	e.write()
	e.want(1, "annotation run.oci.pidfd_receiver="+socket+"-none: no such file", "run", "-d", "--bundle", e.bundle, "watched")
	e.want(1, "does not exist", "state", "watched")
}

// TestAnnotationsOfOtherKernels: what would make another container of it is refused by name; what asks for nothing is not.
func TestAnnotationsOfOtherKernels(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	for key, value := range map[string]string{"run.oci.handler": "krun", "run.oci.seccomp_bpf_data": "AAAA", "run.oci.pidfd_autokill": "1"} {
		e.spec.Annotations = map[string]string{key: value}
		e.write()
		e.want(1, "annotation "+key+"="+value+": not supported", "run", "--bundle", e.bundle, "other")
	}
	e.spec.Annotations = map[string]string{"run.oci.handler": "", "run.oci.mount_context_type": "rootcontext", "io.kubernetes.cri.container-type": "sandbox"}
	e.spec.Process.Args = []string{"echo", "ran"}
	e.write()
	e.want(0, "ran", "run", "--bundle", e.bundle, "none")
}

// TestLogTypes: --log takes crun's forms, and no other type.
func TestLogTypes(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	file := filepath.Join(t.TempDir(), "a:b.log")
	e.want(1, "does not exist", "--log", "file:"+file, "--log-format", "json", "state", "none")
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), `"msg":"none: container does not exist"`) {
		t.Errorf("%q, %v", text, err)
	}
	e.want(1, `unknown log type \"mail\"`, "--log", "mail:/x", "list")
}

// TestPoststopFailureInCrunsWords is a warning, and the container is gone.
func TestPoststopFailureInCrunsWords(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.spec.Process.Args = []string{"true"}
	e.spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "exit 7"}}}}
	e.write()
	e.want(0, "poststop hook failed with exit code 7: error running poststop hook #0", "run", "--bundle", e.bundle, "stops")
}

// TestHelpInCrunsWords has the lines that its suite looks for.
func TestHelpInCrunsWords(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	for verb, line := range map[string]string{"start": "start CONTAINER", "delete": "delete CONTAINER", "update": "update [OPTION]... CONTAINER", "mounts": "mounts [add|remove] CONTAINER FILE"} {
		e.want(0, "Usage: crun [OPTION...] "+line+"\n", verb, "--help")
	}
}
