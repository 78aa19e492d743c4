//go:build vm

package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// someone is the user to whom a part of the tree is given.
const someone = 1000

// delegate gives someone a group, as cgroup-v2.rst has it ("Delegation"), with the controllers; the command is to start in a group
// inside.
func delegate(t *testing.T, controllers string) (inside string) {
	t.Helper()
	const mount = "/sys/fs/cgroup"
	name := strings.NewReplacer("/", "-", " ", "-", ",", "").Replace(t.Name())
	top := filepath.Join(mount, "brig-vm", name)
	inside = filepath.Join(top, "shell")
	if err := os.MkdirAll(top, 0o755); err != nil { //nolint:gosec // as cgroup folders are
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(inside); _ = os.Remove(top) })
	for _, dir := range []string{mount, filepath.Join(mount, "brig-vm")} {
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+cpu +memory +pids +io +cpuset"), 0); err != nil {
			t.Fatal(err)
		}
	}
	// What the parent does not give is not there below.
	for _, c := range []string{"cpu", "memory", "pids", "io", "cpuset"} {
		if !slices.Contains(strings.Fields(controllers), c) {
			if err := os.WriteFile(filepath.Join(mount, "brig-vm", "cgroup.subtree_control"), []byte("-"+c), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Mkdir(inside, 0o755); err != nil { //nolint:gosec // as cgroup folders are
		t.Fatal(err)
	}
	for _, dir := range []string{top, inside} {
		for _, file := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
			if err := os.Chown(filepath.Join(dir, file), someone, someone); err != nil {
				t.Fatal(err)
			}
		}
	}
	return inside
}

// by has someone run a command, in a group.
func by(t *testing.T, c *exec.Cmd, group string) *exec.Cmd {
	t.Helper()
	home := filepath.Join(bench.dir, "someone")
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, someone, someone); err != nil {
		t.Fatal(err)
	}
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home}
	c.Dir = home
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: someone, Gid: someone}}
	if group != "" {
		dir, err := os.Open(group)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = dir.Close() })
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	return c
}

// unprivileged are the drivers of someone, in a group.
func unprivileged(group string) []driver {
	return []driver{{"brig run", func(t *testing.T, id string, a ask, args []string) *exec.Cmd {
		words := append([]string{"run", "-i", "--name", id, "--device", bench.disk + ":/dev/disk:rw"}, a.flags...)
		return by(t, exec.Command(bench.brig, append(append(words, "--", bench.probe), args[1:]...)...), group)
	}, true}, {"brig-oci", func(t *testing.T, id string, a ask, args []string) *exec.Cmd {
		a.spec = func(s *specs.Spec) {
			s.Linux.Devices, s.Linux.Resources.Devices = nil, nil
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: someone, Size: 1}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
			s.Mounts = append(slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
				return m.Destination == "/dev/pts" || m.Type == "sysfs" || m.Type == "cgroup"
			}),
				specs.Mount{Destination: "/dev/disk", Type: "bind", Source: bench.disk, Options: []string{"bind"}})
		}
		bundle := makeBundle(t, "", args, a)
		own(t, bundle)
		return by(t, exec.Command(bench.oci, "run", "--bundle", bundle, id), group)
	}, false}}
}

// own gives someone a folder, and lets it be reached.
func own(t *testing.T, dir string) {
	t.Helper()
	for at := dir; at != "/" && at != os.TempDir(); at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil { //nolint:gosec // for somebody else
			t.Fatal(err)
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "config.json")} {
		if err := os.Chown(path, someone, someone); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDelegated: a user to whom a part of the tree is given has the same limits.
func TestDelegated(t *testing.T) {
	list := unprivileged(delegate(t, "cpu memory pids io cpuset"))
	if testing.Short() {
		list = list[1:]
	}
	for _, l := range limits {
		if l.access != "" || l.name == "hugetlb" { // neither is a user's to limit
			continue
		}
		t.Run(l.name, func(t *testing.T) {
			if l.waits {
				t.Parallel()
			}
			l.by(t, "cgroup "+l.name+", delegated to a user", list)
		})
	}
}

// TestDelegatedInPart: without the controller of processors everything else holds, and a limit on them is refused by name.
func TestDelegatedInPart(t *testing.T) {
	inside := delegate(t, "memory pids")
	d := unprivileged(inside)[0]
	b := d.probe(t, ask{flags: []string{"-m", "32m"}}, "eat", "96")
	if got := b.file("memory.max"); got != "33554432" {
		t.Errorf("memory.max says %q", got)
	}
	if r := b.finish(); !killed(r) {
		t.Errorf("code %d, %q", r.code, r.said)
	}
	for _, c := range []struct{ group, flag, value, words string }{
		{inside, "--cpus", "0.5", "the cgroup controller cpu has no cpu.max"},
		{inside, "--cpuset-cpus", "0", "the cgroup controller cpuset has no cpuset.cpus"},
		{"", "-m", "32m", "no cgroup subtree is delegated to this user"},
	} {
		layer := "cgroup " + c.flag + ", not delegated"
		t.Run(fmt.Sprint(c.flag), func(t *testing.T) {
			cmd := by(t, exec.Command(bench.brig, "run", c.flag, c.value, "--", bench.probe, "x", "cpus"), c.group)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.words) {
				t.Errorf("%v: %s", err, out)
			}
			left, err := filepath.Glob(filepath.Join(filepath.Dir(inside), "brig"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			testenv.Layer(t, layer, testenv.Refused, c.words)
		})
	}
}
