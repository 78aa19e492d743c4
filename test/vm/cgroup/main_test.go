//go:build vm

// Package cgroup is for a guest with version 2 of control groups alone: every limit of a policy and of a bundle is set, read back
// from the group's files, and felt by a program that tries to use more. Each has a control, the same program without the limit.
//
// It needs the folder BRIG_TEST_BIN with brig and brig-oci, busybox, and for the limits on disks a block device, BRIG_TEST_DISK
// (/dev/vdb if empty), whose contents it overwrites.
package cgroup

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bench is what all tests share.
var bench struct {
	dir, rootfs, probe, brig, oci, disk string
	major, minor                        int64
}

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && filepath.Base(os.Args[0]) == "probe" {
		os.Exit(probe(os.Args[1:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	defer os.RemoveAll(bench.dir)
	defer os.RemoveAll(filepath.Dir(bench.probe))
	code := m.Run()
	for _, parent := range []string{"brig-vm"} {
		if err := os.Remove("/sys/fs/cgroup/" + parent); err != nil && !os.IsNotExist(err) {
			fmt.Fprintln(os.Stderr, "FAIL: left behind:", err)
			code = 1
		}
	}
	return code
}

func prepare() error {
	var err error
	if bench.dir, err = os.MkdirTemp("", "brig-cgroup-"); err != nil {
		return err
	}
	if err := os.Chmod(bench.dir, 0o755); err != nil { //nolint:gosec // users of sandboxes go through it
		return err
	}
	bin := os.Getenv("BRIG_TEST_BIN")
	bench.brig, bench.oci = filepath.Join(bin, "brig"), filepath.Join(bin, "brig-oci")
	bench.rootfs = filepath.Join(bench.dir, "rootfs")
	for _, dir := range []string{"bin", "dev", "proc", "sys", "tmp", "run", "etc"} {
		if err := os.MkdirAll(filepath.Join(bench.rootfs, dir), 0o755); err != nil { //nolint:gosec // a root file system
			return err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := copyProgram(busybox, filepath.Join(bench.rootfs, "bin/busybox")); err != nil {
		return err
	}
	if err := copyProgram("/proc/self/exe", filepath.Join(bench.rootfs, "probe")); err != nil {
		return err
	}
	// The view of the host that `brig run` gives has /usr.
	if err := os.MkdirAll("/usr/local", 0o755); err != nil { //nolint:gosec // as everywhere
		return err
	}
	programs, err := os.MkdirTemp("/usr/local", "brig-cgroup-")
	if err != nil {
		return err
	}
	bench.probe = filepath.Join(programs, "probe")
	if err := os.Chmod(programs, 0o755); err != nil { //nolint:gosec // users go through it
		return err
	}
	if err := copyProgram("/proc/self/exe", bench.probe); err != nil {
		return err
	}
	return prepareDisk()
}

// prepareDisk lets everybody open the disk: what is tested is not the permissions of its file.
func prepareDisk() error {
	if bench.disk = os.Getenv("BRIG_TEST_DISK"); bench.disk == "" {
		bench.disk = "/dev/vdb"
	}
	var st unix.Stat_t
	if err := unix.Stat(bench.disk, &st); err != nil {
		return fmt.Errorf("the block device for limits, %s: %w", bench.disk, err)
	}
	bench.major, bench.minor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	return os.Chmod(bench.disk, 0o666) //nolint:gosec // on purpose
}

func copyProgram(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755) //nolint:gosec // a program
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	return w.Close()
}

// makeBundle writes a bundle with limits, for a process with these arguments.
func makeBundle(t *testing.T, path string, args []string, a ask) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command(bench.oci, "spec", "--bundle", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	s.Root.Path, s.Process.Args, s.Process.Terminal, s.Linux.CgroupsPath = bench.rootfs, args, false, path
	// A hook-free, root-owned bundle as an engine has it, with a disk.
	s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/disk", Type: "b", Major: bench.major, Minor: bench.minor})
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: &bench.major, Minor: &bench.minor, Access: a.disk()})
	if a.set != nil {
		a.set(s.Linux.Resources)
	}
	if a.spec != nil {
		a.spec(&s)
	}
	if text, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
