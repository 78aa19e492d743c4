//go:build vm

// Package gvisor is for guests with AppArmor and with SELinux: gVisor's kernel runs under the profile or label that the sandbox has
// and serves its program, and what takes that kernel's place has no more than the profile gives. It needs the folder BRIG_TEST_BIN
// with brig and brig-gvisor.
package gvisor

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"
)

// module is what confines sandboxes on this machine: the flag that asks for it, and how it shows in attr/current.
type module struct{ name, flag, label string }

func present(t *testing.T) module {
	t.Helper()
	switch {
	case testenv.SELinux.Missing() == "":
		return module{"SELinux", "--security-opt=label=auto", "system_u:system_r:brig_"}
	case testenv.AppArmor.Missing() == "":
		return module{"AppArmor", "--security-opt=apparmor=auto", "brig-"}
	}
	testenv.Check(t, testenv.AppArmor)
	return module{}
}

func command(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(os.Getenv("BRIG_TEST_BIN"), "brig"), args...)
}

// TestKernelIsConfined: each process of a gVisor sandbox has the label, and its programs run: they fork, read a file of the root and
// write a volume.
func TestKernelIsConfined(t *testing.T) {
	m := present(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // for a sandbox's user
		t.Fatal(err)
	}
	const script = `echo said >/vol/out; (cat /vol/out) | cat; head -c 4 /bin/sh >/dev/null && echo started; read line; echo "$line"`
	name := "confined-" + strings.ToLower(rand.Text()[:8])
	cmd := command("run", "-i", "--name", name, "--isolation", "gvisor", m.flag, "-v", dir+":/vol:Z", "--", "sh", "-c", script)
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var got []byte
	for buf := make([]byte, 256); !bytes.Contains(got, []byte("started\n")); {
		n, err := out.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			t.Fatalf("%v %q %s %v", err, got, said.String(), cmd.Wait())
		}
	}
	found := labels(t)
	if len(found) < 3 { // the kernel, the file server and a stub
		t.Errorf("processes: %q", found)
	}
	for process, label := range found {
		if !strings.HasPrefix(label, m.label) {
			t.Errorf("%s has the label %q", process, label)
		}
	}
	if out, err := command("exec", name, "cat", "/vol/out").CombinedOutput(); err != nil || string(out) != "said\n" {
		t.Errorf("exec: %v %q", err, out)
	}
	if _, err := fmt.Fprintln(in, "heard"); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 256)); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v %s", err, said.String())
	}
	if !strings.HasPrefix(string(got), "said\n") {
		t.Errorf("%q", got)
	}
	testenv.Layer(t, "gVisor under "+m.name, testenv.Enforced, "its kernel, file server and stubs have the sandbox's label, and its program forks, reads the root and writes a volume; exec too")
}

// labels are those of the processes that execute gVisor's kernel's program: it, its stubs and the file server.
func labels(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		if err != nil || filepath.Base(exe) != "brig-gvisor" {
			continue
		}
		label, err := os.ReadFile(filepath.Join(dir, "attr/current"))
		if err != nil {
			t.Fatal(err)
		}
		found[dir] = string(label)
	}
	return found
}
