package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/internal/isolation/gvisor/job"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A kernel is `brig-gvisor sentry` as the tests start it: with its job and its files, and without what Brig confines it with.
type kernel struct {
	t       *testing.T
	job     *job.Job
	root    *os.File
	sockets []*os.File
	control string
	gofer   *exec.Cmd
	out     bytes.Buffer
	stdout  *os.File // nil for out
	warm    *os.File // the socket for the job of a kernel that was started without
	status  *os.File
	cmd     *exec.Cmd
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "brig-gvisor-test-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "brig-gvisor")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("%w: %s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if bin, err := build(); err == nil {
		_ = os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// program gives brig-gvisor, built once.
func program(t *testing.T) string {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// guestRoot is a folder with a busybox.
func guestRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"bin", "proc", "dev", "tmp", "sys", "etc", "volume"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields("sh cat echo chown chmod mv ln sleep ls uname mkdir touch id hostname ps kill true false seq ip nc head od wc") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// shell is the spec of a guest that runs a script as root, with the rights over files.
func shell(script string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"}
	return &specs.Spec{
		Version: specs.Version, Hostname: "guest", Root: &specs.Root{Path: "/"},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{{Type: "proc", Destination: "/proc"}, {Type: "tmpfs", Destination: "/tmp"}},
		Linux:  &specs.Linux{},
	}
}

func bind(path string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: path, Destination: path, Options: append(options, "rbind")}
}

// image gives the folder as an EROFS image.
func image(t *testing.T, root string) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	if out, err := exec.Command("mkfs.erofs", "-E", "noinline_data", name, root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newKernel(t *testing.T, spec *specs.Spec) *kernel {
	return &kernel{t: t, job: &job.Job{ID: "guest", Spec: spec}, control: filepath.Join(t.TempDir(), "control")}
}

// serve starts a file server for the kernel.
func (k *kernel) serve(served ...job.Served) {
	k.t.Helper()
	proc, err := os.Open("/proc")
	if err != nil {
		k.t.Fatal(err)
	}
	defer proc.Close()
	k.gofer = exec.Command(program(k.t), "gofer", job.Interface)
	k.gofer.Stderr = k.t.Output()
	k.gofer.ExtraFiles = []*os.File{asFile(k.t, job.Files{Served: served}), proc}
	for i := range served {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			k.t.Fatal(err)
		}
		theirs := os.NewFile(uintptr(pair[1]), "server")
		defer theirs.Close()
		k.gofer.ExtraFiles = append(k.gofer.ExtraFiles, theirs)
		if ours := os.NewFile(uintptr(pair[0]), "client"); i == 0 {
			k.root = ours
		} else {
			k.sockets = append(k.sockets, ours)
		}
	}
	if err := k.gofer.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		if err := within(k.gofer.Wait); err != nil {
			k.t.Errorf("the file server ended with %v", err)
			_ = k.gofer.Process.Kill()
		}
	})
}

// boot starts the kernel, without the guest's program.
func (k *kernel) boot() {
	k.t.Helper()
	l, err := net.Listen("unix", k.control)
	if err != nil {
		k.t.Fatal(err)
	}
	defer l.Close()
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	control, err := l.(*net.UnixListener).File()
	if err != nil {
		k.t.Fatal(err)
	}
	defer control.Close()
	r, w, err := os.Pipe()
	if err != nil {
		k.t.Fatal(err)
	}
	defer w.Close()
	k.status = r
	given := append([]*os.File{asFile(k.t, k.job), control, w, k.root}, k.sockets...)
	if k.warm != nil {
		k.send(given)
	} else {
		k.cmd = exec.Command(program(k.t), "sentry", job.Interface)
		k.cmd.Stdout, k.cmd.Stderr = &k.out, &k.out
		if k.stdout != nil {
			k.cmd.Stdout, k.cmd.Stderr = k.stdout, k.stdout
		}
		k.cmd.ExtraFiles = given
		k.start()
	}
	for _, f := range append(k.sockets, k.root) {
		_ = f.Close()
	}
}

func (k *kernel) start() {
	k.t.Helper()
	if err := k.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = k.cmd.Process.Kill() })
}

// warmUp starts the kernel without a job, and waits until it is warm.
func (k *kernel) warmUp() {
	k.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		k.t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "job")
	defer theirs.Close()
	k.warm = os.NewFile(uintptr(pair[0]), "warm")
	k.cmd = exec.Command(program(k.t), "sentry", job.Interface)
	k.cmd.Stderr = &k.out
	k.cmd.ExtraFiles = []*os.File{theirs}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		k.t.Fatal(err)
	}
	defer null.Close()
	for range job.FirstFD - job.ControlFD + k.job.Mounts + k.job.PassFDs {
		k.cmd.ExtraFiles = append(k.cmd.ExtraFiles, null)
	}
	k.start()
	if n, err := unix.Read(pair[0], make([]byte, 2)); err != nil || n != 1 {
		k.t.Fatalf("the kernel did not become warm: %d, %v, %s", n, err, k.out.String())
	}
}

// send gives a warm kernel its job.
func (k *kernel) send(given []*os.File) {
	k.t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		k.t.Fatal(err)
	}
	defer null.Close()
	fds := []int{int(null.Fd()), int(k.stdout.Fd()), int(k.stdout.Fd())}
	for _, f := range given {
		fds = append(fds, int(f.Fd()))
	}
	if err := unix.Sendmsg(int(k.warm.Fd()), []byte(job.Warm), unix.UnixRights(fds...), nil, 0); err != nil {
		k.t.Fatal(err)
	}
	_ = k.warm.Close()
}

// files are the open ones of the kernel process, by their numbers.
func (k *kernel) files() map[string]string {
	k.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", k.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		k.t.Fatal(err)
	}
	open := make(map[string]string)
	for _, e := range entries {
		if path, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			open[e.Name()] = path
		}
	}
	return open
}

// call makes one call to gVisor's control server, by its protocol of JSON with files beside it.
func (k *kernel) call(method string, arg, result any, files ...*os.File) error {
	k.t.Helper()
	c, err := net.Dial("unix", k.control)
	if err != nil {
		return err
	}
	defer c.Close()
	text, err := json.Marshal(map[string]any{"method": method, "arg": arg})
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := c.(*net.UnixConn).WriteMsgUnix(text, rights, nil); err != nil {
		return err
	}
	answer := struct {
		Success bool
		Err     string
		Result  any
	}{Result: result}
	if err := json.NewDecoder(c).Decode(&answer); err != nil {
		return err
	}
	if !answer.Success {
		return fmt.Errorf("%s: %s", method, answer.Err)
	}
	return nil
}

// run boots and starts, and waits for the end.
func (k *kernel) run() (job.End, string) {
	k.t.Helper()
	k.boot()
	if err := k.call("containerManager.StartRoot", k.job.ID, nil); err != nil {
		k.t.Error(err)
	}
	return k.end()
}

// end waits for the guest's end.
func (k *kernel) end() (job.End, string) {
	k.t.Helper()
	_ = k.status.SetReadDeadline(time.Now().Add(time.Minute))
	defer k.status.Close()
	var end job.End
	if err := json.NewDecoder(k.status).Decode(&end); err != nil {
		k.t.Errorf("the kernel did not tell the end: %v", err)
		_ = k.cmd.Process.Kill()
	}
	_ = within(k.cmd.Wait)
	return end, k.out.String()
}

// within gives what f says in a minute, or an error.
func within(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		return fmt.Errorf("not within a minute")
	}
}

// asFile gives a file that has v as JSON.
func asFile(t *testing.T, v any) *os.File {
	t.Helper()
	text, err := json.Marshal(v)
	if raw, ok := v.(json.RawMessage); ok {
		text, err = raw, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("job", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "job")
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.Write(text); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	return f
}
