package vmm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// bootTime bounds all of a boot test: an emulated machine on a busy host is slow.
const bootTime = 4 * time.Minute

// kernelDir is where test/vm/kernel.sh unpacks Debian's kernel.
const kernelDir = "../../build/vm/kernels/6.1"

// machineConfig is a machine whose root is busybox alone.
func machineConfig(t testing.TB) Config {
	t.Helper()
	testenv.Check(t, testenv.AMD64, testenv.Program("qemu-system-x86_64"), testenv.File("/bin/busybox", "busybox-static"),
		testenv.File(kernelDir+"/done", "test/vm/kernel.sh 6.1"))
	kernel, err := OpenKernel(kernelDir)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(root+"/bin", 0o755); err != nil { //nolint:gosec // every user's inside
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/bin/busybox", busybox, 0o755); err != nil { //nolint:gosec // every user's inside
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "true", "cat", "sleep", "uname", "id", "ls", "hostname", "touch", "tr"} {
		if err := os.Symlink("busybox", root+"/bin/"+name); err != nil {
			t.Fatal(err)
		}
	}
	image, err := os.Create(filepath.Join(dir, "root.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := folderImage(root, image); err != nil {
		t.Fatal(err)
	}
	if err := testenv.Build(filepath.Join(dir, "brig-agent"), "brig/cmd/brig-agent"); err != nil {
		t.Fatal(err)
	}
	return Config{Kernel: kernel, Agent: filepath.Join(dir, "brig-agent"), Root: image.Name(), Memory: 256 << 20}
}

// One machine proves all that a machine is for, because a boot takes long: programs with their codes, streams and ids, several
// at once, folders and disks, and at the end what is told of a machine that dies.
func TestMachine(t *testing.T) {
	t.Parallel()
	c := machineConfig(t)
	carried := t.TempDir()
	if err := os.WriteFile(carried+"/note", []byte("carried in\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Folders = []Folder{{Host: carried, Guest: "/carried"}}
	ctx, cancel := context.WithTimeout(context.Background(), bootTime)
	defer cancel()
	began := time.Now()
	m, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	t.Logf("the agent answers after %v", time.Since(began).Round(time.Millisecond))

	programs(ctx, t, m)
	severalAtOnce(ctx, t, m)
	thereAndBack(ctx, t, m)
	abandoned(ctx, t, m)

	// The kernel panics, QEMU ends, and the caller hears why.
	_, err = m.Run(ctx, Command{Argv: []string{"/bin/sh", "-c", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 1000"}})
	if err == nil || !strings.Contains(err.Error(), "it has ended") || !strings.Contains(err.Error(), "panic") {
		t.Errorf("a machine that died: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("close what has ended: %v", err)
	}
}

func programs(ctx context.Context, t *testing.T, m *Machine) {
	t.Helper()
	for _, p := range []struct {
		what, script, stdin string
		code                int
		out, errs           string
	}{
		{"streams and a code", "cat; echo err >&2; exit 3", "in\n", 3, "in\n", "err\n"},
		{"a signal", "kill -9 $$", "", 137, "", ""},
		{"the host's name", "hostname", "", 0, "brig\n", ""},
		{"a folder carried in", "cat /carried/note", "", 0, "carried in\n", ""},
		{"which is read-only", "touch /carried/x 2>/dev/null", "", 1, "", ""},
		{"a root to write to", "echo text >/new; cat /new", "", 0, "text\n", ""},
		{"cgroup version 2 alone", "cat /sys/fs/cgroup/cgroup.subtree_control >/dev/null && ls /sys/fs/cgroup/cgroup.procs", "", 0, "/sys/fs/cgroup/cgroup.procs\n", ""},
		{"loopback", "cat /sys/class/net/lo/operstate", "", 0, "unknown\n", ""},
	} {
		var out, errs bytes.Buffer
		code, err := m.Run(ctx, Command{Argv: []string{"/bin/sh", "-c", p.script}, Stdin: strings.NewReader(p.stdin), Stdout: &out, Stderr: &errs})
		if err != nil || code != p.code || out.String() != p.out || errs.String() != p.errs {
			t.Errorf("%s: code %d, %v, %q, %q", p.what, code, err, out.String(), errs.String())
		}
	}
	var out bytes.Buffer
	_, err := m.Run(ctx, Command{Argv: []string{"/bin/sh", "-c", "id -u; id -g; echo $X"}, Env: []string{"X=y"}, Dir: "/", UID: 7, GID: 8, Stdout: &out})
	if err != nil || out.String() != "7\n8\ny\n" {
		t.Errorf("ids and environment: %q, %v", out.String(), err)
	}
	if _, err := m.Run(ctx, Command{Argv: []string{"/nowhere"}}); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("no such program: %v", err)
	}
}

// severalAtOnce runs programs of which each waits for the next: one after the other they would never end.
func severalAtOnce(ctx context.Context, t *testing.T, m *Machine) {
	t.Helper()
	const n = 4
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			script := fmt.Sprintf("touch /tmp/at.%d; until [ -e /tmp/at.%d ]; do sleep 0.1; done; exit %d", i, (i+1)%n, i)
			if code, err := m.Run(ctx, Command{Argv: []string{"/bin/sh", "-c", script}}); err != nil || code != i {
				t.Errorf("program %d: code %d, %v", i, code, err)
			}
		})
	}
	all.Wait()
}

func thereAndBack(ctx context.Context, t *testing.T, m *Machine) {
	t.Helper()
	from, to := t.TempDir(), t.TempDir()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := os.WriteFile(from+"/big", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Push(ctx, from, "/tmp/pushed"); err != nil {
		t.Fatal(err)
	}
	if err := m.Pull(ctx, "/tmp/pushed", to); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to + "/big"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("what came back has %d bytes of %d, %v", len(got), len(data), err)
	}
	if err := m.Pull(ctx, "/tmp/none", t.TempDir()); err == nil {
		t.Error("a folder that is not there was pulled")
	}
}

// abandoned ends the time of one program, which the machine has to end, too, also when it does not read what it is sent.
func abandoned(ctx context.Context, t *testing.T, m *Machine) {
	t.Helper()
	soon, stop := context.WithCancel(ctx)
	defer stop()
	zeroes, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zeroes.Close()
	r, w := io.Pipe()
	go func() {
		_, _ = io.ReadFull(r, make([]byte, len("up\n")))
		stop()
	}()
	script := "echo $$ >/tmp/abandoned; echo up; sleep 1000 & wait"
	if _, err := m.Run(soon, Command{Argv: []string{"/bin/sh", "-c", script}, Stdin: zeroes, Stdout: w}); !errors.Is(err, context.Canceled) {
		t.Errorf("a program whose time ended: %v", err)
	}
	script = "read pid </tmp/abandoned; n=0; while [ -e /proc/$pid ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.1; done"
	if code, err := m.Run(ctx, Command{Argv: []string{"/bin/sh", "-c", script}}); code != 0 || err != nil {
		t.Errorf("it runs on in the machine: code %d, %v", code, err)
	}
}

// An init of the root's is process 1, as at the end of a distribution's boot, and the agent serves beside it.
func TestInit(t *testing.T) {
	t.Parallel()
	c := machineConfig(t)
	said := &tail{}
	c.Init, c.Console = []string{"/bin/sh", "-c", "echo init speaks; trap '' CHLD; exec sleep 100000"}, said
	ctx, cancel := context.WithTimeout(context.Background(), bootTime)
	defer cancel()
	m, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var out bytes.Buffer
	script := "cat /proc/1/cmdline | tr '\\0' ' '; echo $PPID"
	if code, err := m.Run(ctx, Command{Argv: []string{"/bin/busybox", "sh", "-c", script}, Stdout: &out}); code != 0 || err != nil {
		t.Errorf("a program beside init: code %d, %v", code, err)
	}
	var parent int
	if n, err := fmt.Sscanf(out.String(), "sleep 100000 %d\n", &parent); n != 1 || err != nil || parent <= 1 {
		t.Errorf("process 1, and the parent of the host's programs: %q", out.String())
	}
	// What it prints comes on a channel of its own, at its own time.
	for !strings.Contains(said.String(), "init speaks") && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Errorf("the console has %q", said)
	}
}

// TestMain looks, when all machines have ended, for what they have left.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := left(); code == 0 && left != "" {
		fmt.Println("left behind:", left)
		code = 1
	}
	os.Exit(code)
}

// left names a file of a machine that is still open, or a process that has not been waited for.
func left() string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err.Error()
	}
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.Contains(name, "brig-vm-") {
			return name
		}
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		return fmt.Sprintf("a child (process %d, %v)", pid, err)
	}
	return ""
}

// A machine that never answers is told by what its console said, and its time is the caller's.
func TestMachineThatCannotStart(t *testing.T) {
	t.Parallel()
	c := machineConfig(t)
	ctx, cancel := context.WithTimeout(context.Background(), bootTime)
	defer cancel()
	notAnImage := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(notAnImage, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := c
	broken.Root = notAnImage
	if m, err := Start(ctx, broken); err == nil || !strings.Contains(err.Error(), "as erofs") {
		if err == nil {
			_ = m.Close()
		}
		t.Errorf("a root that is no EROFS image: %v", err)
	}
	soon, stop := context.WithTimeout(ctx, 500*time.Millisecond)
	defer stop()
	if m, err := Start(soon, c); err == nil {
		_ = m.Close()
		t.Error("a machine outlived its time")
	} else if soon.Err() == nil {
		t.Errorf("it ended before its time: %v", err)
	}
}

// QEMU does not outlive a program that is killed: the test runs itself as that program.
func TestQEMUEndsWithItsStarter(t *testing.T) {
	t.Parallel()
	if os.Getenv("BRIG_TEST_STARTER") != "" {
		m := &Machine{console: &tail{}}
		cmd := exec.Command("qemu-system-x86_64", "-nodefaults", "-display", "none", "-S", "-M", "none", "-name", os.Getenv("BRIG_TEST_STARTER"))
		confine(cmd)
		if err := m.spawn(cmd); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("pid %d\n", cmd.Process.Pid)
		m.qemu.wait()
		return
	}
	testenv.Check(t, testenv.Program("qemu-system-x86_64"))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	starter := exec.CommandContext(ctx, "/proc/self/exe", "-test.run", "^TestQEMUEndsWithItsStarter$")
	starter.Env = append(os.Environ(), "BRIG_TEST_STARTER=brig-vmm-test")
	out, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanf(out, "pid %d\n", &pid); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		t.Fatalf("QEMU does not run: %v", err)
	}
	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = starter.Wait() // killed
	if !ended(ctx, pid) {
		t.Errorf("QEMU, process %d, lives on: %v", pid, unix.Kill(pid, unix.SIGKILL))
	}
}

// ended waits until a process is gone, or is dead and waits for its parent.
func ended(ctx context.Context, pid int) bool {
	for ctx.Err() == nil {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(data), ") Z ") {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}
