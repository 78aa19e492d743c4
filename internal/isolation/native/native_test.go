package native

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"brig/internal/annotation"
	"brig/internal/idmap"
	"brig/internal/seccomp"
	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hostView is a small spec with every layer on: the host's programs, read-only, and nothing else.
func hostView(t *testing.T, args ...string) *specs.Spec {
	t.Helper()
	filter, err := seccomp.Profile(seccomp.Default, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: "brig",
		Root:     &specs.Root{Readonly: true},
		Process: &specs.Process{
			Args: args, Cwd: "/tmp", Env: []string{"PATH=/usr/bin:/bin"}, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Type: "bind", Source: "/usr", Destination: "/usr", Options: []string{"rbind", "ro", "nosuid", "nodev"}},
			{Type: "bind", Source: "/bin", Destination: "/bin", Options: []string{"bind", "copy-symlink"}},
			{Type: "bind", Source: "/lib", Destination: "/lib", Options: []string{"bind", "copy-symlink"}},
			{Type: "bind", Source: "/lib64", Destination: "/lib64", Options: []string{"bind", "copy-symlink"}},
			{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Type: "devpts", Source: "devpts", Destination: "/dev/pts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Type: "tmpfs", Source: "shm", Destination: "/dev/shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=64m"}},
			{Type: "mqueue", Source: "mqueue", Destination: "/dev/mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Type: "sysfs", Source: "sysfs", Destination: "/sys", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/tmp", Options: []string{"nosuid", "nodev", "mode=1777", "size=64m"}},
		},
		Linux: &specs.Linux{
			MaskedPaths:   []string{"/proc/kcore", "/proc/acpi", "/proc/scsi", "/sys/firmware", "/proc/keys"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/irq"},
			Seccomp:       filter,
		},
		Annotations: map[string]string{
			annotation.Root: "ram", annotation.Landlock: "on", annotation.LockCaps: "true", annotation.MaxUserNamespaces: "0",
			annotation.Files: `{"/etc/passwd":"root:x:0:0::/:/bin/sh\n"}`,
		},
	}
	for _, n := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.PIDNamespace, specs.MountNamespace, specs.NetworkNamespace,
		specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: n})
	}
	return s
}

// run starts the spec and gives what it printed and its exit status.
func run(t *testing.T, s *specs.Spec) (string, int) {
	t.Helper()
	maps := idmap.Range{First: 1 << 20, Size: idmap.Size}.Mappings()
	s.Linux.UIDMappings, s.Linux.GIDMappings = maps, maps
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := Start(s, Options{Maps: idmap.Maps{UID: maps, GID: maps}, Stdio: [3]*os.File{null, w, w}, Supervised: true})
	_ = w.Close()
	_ = null.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	status, err := p.Wait()
	if err != nil {
		t.Error(err)
	}
	if err := p.Release(); err != nil {
		t.Error(err)
	}
	return string(out), status.ExitStatus()
}

func TestHostView(t *testing.T) {
	testenv.Check(t, testenv.Root)
	out, status := run(t, hostView(t, "sh", "-c", `
		id; hostname; cat /proc/self/uid_map; ls /; ls -l /dev; grep -E 'Cap|NoNew|Seccomp' /proc/self/status
		echo x > /tmp/ok && echo wrote; echo x > /usr/bad; ls /home; cat /etc/passwd; mount | head -40; cat /proc/sys/user/max_user_namespaces
		ls -la /proc/self/fd; exit 3`))
	t.Log(out)
	if status != 3 {
		t.Errorf("exit status %d, want 3", status)
	}
	for _, want := range []string{"uid=0(root)", "\nbrig\n", "1048576", "wrote", "Read-only file system", "CapEff:\t0000000000000000", "Seccomp:\t2", "NoNewPrivs:\t1"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
}

// TestDeviceIsTheOneMeant: a spec that means /dev/null and names the path of another device gets neither.
func TestDeviceIsTheOneMeant(t *testing.T) {
	testenv.Check(t, testenv.Root)
	maps := idmap.Range{First: 1 << 20, Size: idmap.Size}.Mappings()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, d := range []specs.LinuxDevice{{Path: "/dev/full", Type: "c", Major: 1, Minor: 3}, {Path: "/dev/full", Type: "b", Major: 1, Minor: 7}} {
		s := hostView(t, "true")
		s.Linux.UIDMappings, s.Linux.GIDMappings, s.Linux.Devices = maps, maps, []specs.LinuxDevice{d}
		p, err := Start(s, Options{Maps: idmap.Maps{UID: maps, GID: maps}, Stdio: [3]*os.File{null, null, null}})
		if err == nil || !strings.Contains(err.Error(), "/dev/full is c 1:7 on this host") {
			t.Errorf("%+v: %+v, %v", d, p, err)
		}
	}
	s := hostView(t, "sh", "-c", "head -c1 /dev/zero > /dev/full")
	s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/full", Type: "u", Major: 1, Minor: 7}}
	if out, status := run(t, s); status == 0 || !strings.Contains(out, "No space left on device") {
		t.Errorf("%d: %s", status, out)
	}
}

// bind adds a bind mount of a folder that everybody may write, whatever the sandbox's ids.
func bind(t *testing.T, s *specs.Spec, target string, options ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{filepath.Dir(dir), dir} { // testing makes both 0700
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: dir, Destination: target, Options: options})
	return dir
}

// TestMountOverGeneratedFiles: a mount covers the folder where the launch has put small files, and gets none of them.
func TestMountOverGeneratedFiles(t *testing.T) {
	testenv.Check(t, testenv.Root)
	s := hostView(t, "sh", "-c", "ls -A /etc; echo x > /etc/new")
	dir := bind(t, s, "/etc", "rbind")
	if out, status := run(t, s); status != 0 || out != "" {
		t.Errorf("%d: %s", status, out)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 || list[0].Name() != "new" {
		t.Errorf("on the host: %v, %v", list, err)
	}
}

// TestReadOnlyBelowStaysSo: a folder is bound for writing, and a mount below it is read-only on the host.
func TestReadOnlyBelowStaysSo(t *testing.T) {
	testenv.Check(t, testenv.Root)
	for _, option := range []string{"rw", "exec", "suid"} {
		s := hostView(t, "sh", "-c", "echo x > /data/new && echo wrote; echo x > /data/sub/new && echo BROKEN")
		dir := bind(t, s, "/data", "rbind", option)
		sub := filepath.Join(dir, "sub")
		if err := os.Mkdir(sub, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("brig-test", sub, "tmpfs", 0, "mode=777,size=64k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(sub, 0); err != nil {
				t.Error(err)
			}
		})
		if err := unix.MountSetattr(unix.AT_FDCWD, sub, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			t.Fatal(err)
		}
		if out, _ := run(t, s); !strings.Contains(out, "wrote") || !strings.Contains(out, "Read-only file system") || strings.Contains(out, "BROKEN") {
			t.Errorf("%s: %s", option, out)
		}
	}
}

// TestCallersUmask: it neither cuts the modes of what the launch makes, nor is it the program's.
func TestCallersUmask(t *testing.T) {
	testenv.Check(t, testenv.Root)
	defer unix.Umask(unix.Umask(0o077))
	s := hostView(t, "sh", "-c", "umask; stat -c '%a %n' /etc /etc/passwd /usr/.. /dev /dev/shm; cat /etc/passwd > /dev/null && echo read")
	s.Process.User = specs.User{UID: 1000, GID: 1000}
	out, status := run(t, s)
	if want := "0022\n755 /etc\n644 /etc/passwd\n755 /usr/..\n755 /dev\n1777 /dev/shm\nread\n"; status != 0 || out != want {
		t.Errorf("%d:\n%s\nwant\n%s", status, out, want)
	}
}

// TestMasksOnOwnMounts: a mask holds on a file system, a file and a device of the launch's own.
func TestMasksOnOwnMounts(t *testing.T) {
	testenv.Check(t, testenv.Root)
	s := hostView(t, "sh", "-c", "ls -A /dev/shm; echo empty; echo x > /dev/shm/x; cat /etc/passwd; head -c 1 /dev/zero | wc -c; echo x > /tmp/new && echo BROKEN; echo end")
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/dev/shm", "/etc/passwd", "/dev/zero")
	s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/tmp")
	s.Process.Args = []string{"bash", "-c", s.Process.Args[2]}
	s.Process.Cwd = "/"
	out, _ := run(t, s)
	for _, want := range []string{"/dev/shm/x: Read-only file system", "/tmp/new: Read-only file system", "\n0\nbash: ", "\nend\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%s\nlacks %q", out, want)
		}
	}
	if !strings.HasPrefix(out, "empty\n") || strings.Contains(out, "root:x") || strings.Contains(out, "BROKEN") {
		t.Errorf("not masked: %s", out)
	}
}
