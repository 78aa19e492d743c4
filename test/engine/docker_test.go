package engine

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

// docker is a daemon of this test's own, without a network.
type docker struct {
	t      *testing.T
	dir    string
	daemon *exec.Cmd
}

func startDocker(t *testing.T) *docker {
	t.Helper()
	testenv.Check(t, testenv.Root, testenv.Program("dockerd"), testenv.Program("docker"))
	dir, err := os.MkdirTemp("/run", "brig-docker-")
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	d := &docker{t: t, dir: dir}
	d.daemon = exec.Command("dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "-p", dir+"/pid", "-H", "unix://"+dir+"/sock",
		"--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs", "--add-runtime", "brig="+runtime, "--default-runtime=brig")
	d.daemon.Stdout, d.daemon.Stderr = log, log
	if err := d.daemon.Start(); err != nil {
		t.Fatal(err)
	}
	before := dockerCgroups()
	t.Cleanup(func() {
		// Docker answers before the last container is cleared away, and stops without finishing that.
		for deadline := time.Now().Add(patience); len(dockerCgroups()) > len(before); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				text, _ := os.ReadFile(dir + "/log")
				t.Errorf("cgroups of Docker's are left: %v; its log ends:\n%s", dockerCgroups(), text[max(0, len(text)-6000):])
				break
			}
		}
		_ = d.daemon.Process.Signal(unix.SIGTERM) // it takes its containerd along
		_ = d.daemon.Wait()
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		for line := range strings.Lines(string(mounts)) {
			if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir) {
				_ = unix.Unmount(f[4], unix.MNT_DETACH) // Docker leaves its network namespaces mounted
			}
		}
		_ = log.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, code := d.try("version"); code == 0 {
			break
		} else if time.Now().After(deadline) {
			text, _ := os.ReadFile(dir + "/log")
			t.Fatalf("dockerd does not answer: %s", text)
		}
	}
	root := rootfs(t)
	archive := filepath.Join(t.TempDir(), "root.tar")
	if out, err := exec.Command("tar", "-C", root, "-cf", archive, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.want(0, "sha256:", "import", archive, "box")
	return d
}

func dockerCgroups() []string {
	list, _ := filepath.Glob("/sys/fs/cgroup/*/docker/*/cgroup.procs")
	return list
}

// try runs docker with its output in a file: a container may hold a pipe for long.
func (d *docker) try(args ...string) (string, int) {
	d.t.Helper()
	out, err := os.CreateTemp(d.dir, "out-")
	if err != nil {
		d.t.Fatal(err)
	}
	defer out.Close()
	defer os.Remove(out.Name())
	cmd := exec.Command("timeout", append([]string{"-k", "1", "40", "docker", "-H", "unix://" + d.dir + "/sock"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	_ = cmd.Run()
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		d.t.Fatal(err)
	}
	text, err := io.ReadAll(out)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

func (d *docker) want(code int, words string, args ...string) string {
	d.t.Helper()
	out, got := d.try(args...)
	if got != code || !strings.Contains(out, words) {
		d.t.Errorf("docker %s: exit code %d, %q; want %d, %q", strings.Join(args, " "), got, out, code, words)
	}
	return out
}

func TestDocker(t *testing.T) {
	d := startDocker(t)
	d.want(0, "Seccomp:\t2", "run", "--rm", "box", "grep", "Seccomp:", "/proc/self/status")
	d.want(5, "", "run", "--rm", "box", "sh", "-c", "exit 5")
	d.want(127, "executable file not found in $PATH", "run", "--rm", "box", "nosuch")
	d.want(0, "/dev/pts/0", "run", "--rm", "-t", "box", "busybox", "tty")
	d.want(0, "uid=1000", "run", "--rm", "--read-only", "--init", "--user", "1000", "--tmpfs", "/tmp", "--ulimit", "nofile=64:64", "box", "id")
	d.want(137, "", "run", "--name", "hog", "--memory", "16m", "box", "sh", "-c", "x=a; while :; do x=$x$x; done")
	d.want(0, "true", "inspect", "-f", "{{.State.OOMKilled}}", "hog")

	d.want(0, "", "run", "-d", "--name", "long", "--hostname", "shared", "box", "sleep", "1000")
	d.want(0, "second", "exec", "long", "echo", "second")
	d.want(0, "/dev/pts/", "exec", "-t", "long", "busybox", "tty")
	d.want(9, "", "exec", "long", "sh", "-c", "exit 9")
	d.want(0, "sleep 1000", "top", "long")
	d.want(0, "long", "stats", "--no-stream", "long")
	d.want(0, "", "pause", "long")
	d.want(0, "paused", "inspect", "-f", "{{.State.Status}}", "long")
	d.want(0, "", "unpause", "long")
	d.want(0, "", "run", "--rm", "--network", "container:long", "--ipc", "host", "box", "true")
	d.want(0, "", "update", "--memory", "64m", "--memory-swap", "64m", "long")
	d.want(0, "", "restart", "-t", "0", "long")
	d.want(0, "running", "inspect", "-f", "{{.State.Status}}", "long")
	d.want(0, "", "stop", "-t", "0", "long")
	d.want(0, "137", "inspect", "-f", "{{.State.ExitCode}}", "long")
	d.want(0, "", "rm", "long", "hog")
	if out := d.want(0, "", "ps", "-aq"); out != "" {
		t.Errorf("left: %q", out)
	}
}
