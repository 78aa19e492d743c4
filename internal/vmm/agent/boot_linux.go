package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// BootFile is the Boot, as JSON.
const BootFile = "/boot.json"

// serving is the argument of the process that serves the host. Process 1 itself only reaps.
const serving = "serve"

// Main is process 1 of the machine, and its child that serves.
func Main() {
	if len(os.Args) > 1 && os.Args[1] == serving {
		err := serveHost()
		fmt.Fprintln(os.Stderr, "brig-agent:", err)
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		os.Exit(1)
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "brig-agent is the first program of a virtual machine, and nothing a person runs")
		os.Exit(2)
	}
	if err := first(); err != nil {
		fmt.Fprintln(os.Stderr, "brig-agent:", err)
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	os.Exit(1)
}

func first() error {
	boot, err := setUp()
	if err != nil {
		return err
	}
	server := exec.Command("/proc/self/exe", serving)
	server.Stdout, server.Stderr = os.Stdout, os.Stderr
	server.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb"}
	if err := server.Start(); err != nil {
		return err
	}
	if len(boot.Init) > 0 {
		return syscall.Exec(boot.Init[0], boot.Init, server.Env) //nolint:gosec // what the host asked for
	}
	for { // every orphan becomes a child of process 1
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if pid == server.Process.Pid {
			return errors.New("the process that serves the host has ended")
		}
	}
}

// setUp makes a machine of a kernel and disks.
func setUp() (*Boot, error) {
	for _, m := range early {
		if err := m.mount(""); err != nil {
			return nil, err
		}
	}
	data, err := os.ReadFile(BootFile)
	if err != nil {
		return nil, err
	}
	var boot Boot
	if err := json.Unmarshal(data, &boot); err != nil {
		return nil, err
	}
	for _, m := range boot.Modules {
		if err := loadModule(m); err != nil {
			return nil, fmt.Errorf("load module %s: %w", filepath.Base(m), err)
		}
	}
	if err := enterRoot(&boot); err != nil {
		return nil, err
	}
	for _, m := range late {
		if err := m.mount(""); err != nil && !m.optional {
			return nil, err
		}
	}
	if err := unix.Sethostname([]byte(boot.Name)); err != nil {
		return nil, err
	}
	return &boot, loopback()
}

type mounted struct {
	kind, at, data string
	flags          uintptr
	optional       bool // the kernel may not have it
}

// early is what the set-up itself needs; late comes when the root is entered, as systemd and Debian's initramfs make them.
var (
	early = []mounted{
		{"proc", "/proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, false},
		{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, false},
		{"devtmpfs", "/dev", "mode=755", unix.MS_NOSUID, false},
	}
	late = []mounted{
		{"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=000", unix.MS_NOSUID | unix.MS_NOEXEC, false},
		{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV, false},
		{"mqueue", "/dev/mqueue", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, true},
		{"tmpfs", "/run", "mode=755", unix.MS_NOSUID | unix.MS_NODEV, false},
		{"tmpfs", "/tmp", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV, false},
		{"cgroup2", "/sys/fs/cgroup", "nsdelegate,memory_recursiveprot", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, false},
		{"securityfs", "/sys/kernel/security", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, true},
		{"selinuxfs", "/sys/fs/selinux", "", unix.MS_NOSUID | unix.MS_NOEXEC, true},
		{"bpf", "/sys/fs/bpf", "mode=700", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, true},
		{"tracefs", "/sys/kernel/tracing", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, true},
	}
)

func (m *mounted) mount(root string) error {
	at := root + m.at
	if err := os.MkdirAll(at, 0o755); err != nil && !m.optional { //nolint:gosec // a mount point
		return err
	}
	if err := unix.Mount(m.kind, at, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.kind, at, err)
	}
	return nil
}

// loadModule gives the file to the kernel, which unpacks it itself where it is compressed (Linux 5.17).
func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// enterRoot makes the root of the image on the first disk and of memory above it, and goes there with all that is mounted.
func enterRoot(boot *Boot) error {
	lower := mounted{"erofs", "/lower", "", unix.MS_RDONLY, false}
	over := mounted{"tmpfs", "/over", "mode=755,size=80%", 0, false}
	for i, m := range []*mounted{&lower, &over} {
		source := "none"
		if i == 0 {
			var err error
			if source, err = disk("root"); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(m.at, 0o755); err != nil { //nolint:gosec // a mount point
			return err
		}
		if err := unix.Mount(source, m.at, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s as %s: %w", source, m.kind, err)
		}
	}
	for _, dir := range []string{"/over/upper", "/over/work", "/root"} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a root's
			return err
		}
	}
	if err := unix.Mount("overlay", "/root", "overlay", 0, "lowerdir=/lower,upperdir=/over/upper,workdir=/over/work"); err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	for i, at := range boot.Folders {
		source, err := disk(fmt.Sprintf("folder%d", i))
		if err != nil {
			return err
		}
		if err := os.MkdirAll("/root"+at, 0o755); err != nil { //nolint:gosec // a mount point
			return err
		}
		if err := unix.Mount(source, "/root"+at, "erofs", unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("mount the folder %s: %w", at, err)
		}
	}
	for _, m := range early {
		if err := os.MkdirAll("/root"+m.at, 0o755); err != nil { //nolint:gosec // a mount point
			return err
		}
		if err := unix.Mount(m.at, "/root"+m.at, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m.at, err)
		}
	}
	// As switch_root(8) does: the initramfs cannot be left by pivot_root(2).
	if err := unix.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// disk finds a disk by its serial number. The kernel may take a moment to see it.
func disk(serial string) (string, error) {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		files, _ := filepath.Glob("/sys/block/vd*/serial")
		for _, f := range files {
			if data, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(data)) == serial {
				return "/dev/" + filepath.Base(filepath.Dir(f)), nil
			}
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("no disk has the serial number %s", serial)
		}
	}
}

// loopback brings lo up.
func loopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}

// serveHost finds the port by its name and serves on it.
func serveHost() error {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		files, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil || strings.TrimSpace(string(data)) != Port {
				continue
			}
			port, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(f)), os.O_RDWR|unix.O_NONBLOCK, 0)
			if err != nil {
				return err
			}
			return Serve(port)
		}
		if time.Now().After(end) {
			return fmt.Errorf("no virtio-serial port has the name %s", Port)
		}
	}
}
