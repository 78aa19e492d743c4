package policy

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// TestReadInRoot reads a root folder's passwd as data, and never anything outside of the folder (CVE-2019-14271 is what
// happens when an image decides what a look-up reads).
func TestReadInRoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(root+"/etc/dir", 0o755))
	must(os.WriteFile(dir+"/secret", []byte("outside"), 0o600))
	must(os.WriteFile(root+"/secret", []byte("inside"), 0o600))
	must(os.WriteFile(root+"/etc/passwd", []byte("root:x:0:0::/:/bin/sh\n"), 0o600))
	must(os.WriteFile(root+"/etc/empty", nil, 0o600))
	must(os.Symlink("passwd", root+"/etc/relative"))
	must(os.Symlink("../../../../../../secret", root+"/etc/dotdot"))
	must(os.Symlink(dir+"/secret", root+"/etc/absolute"))
	must(os.Symlink("/secret", root+"/etc/slash"))
	must(os.Symlink("/proc/self/root"+dir+"/secret", root+"/etc/magic"))
	must(unix.Mkfifo(root+"/etc/fifo", 0o600))
	big, err := os.Create(root + "/etc/big")
	must(err)
	must(big.Truncate(maxPasswd + 1))
	must(big.Close())

	for name, want := range map[string]string{
		"/etc/passwd": "root:x:0:0::/:/bin/sh\n", "/etc/relative": "root:x:0:0::/:/bin/sh\n", "/etc/empty": "",
		// Links count inside the root: what they name is the root's own file.
		"/etc/dotdot": "inside", "/etc/slash": "inside",
	} {
		if got, err := readInRoot(root, name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"/etc/absolute", "/etc/magic", "/etc/fifo", "/etc/dir", "/etc/big", "/etc/no", "/../secret2"} {
		if got, err := readInRoot(root, name); err == nil {
			t.Errorf("%s gives %q", name, got)
		}
	}
	if _, err := readInRoot(dir+"/no", "/etc/passwd"); err == nil {
		t.Error("a root that does not exist is read")
	}
}

func TestDevice(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][2]uint32{"/dev/null": {1, 3}, "/dev/zero": {1, 5}, "/dev/tty": {5, 0}} {
		kind, major, minor, err := device(name)
		if err != nil || kind != "c" || [2]uint32{major, minor} != want {
			t.Errorf("%s: %s %d:%d, %v", name, kind, major, minor, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, "/", "/dev/no-such-device"} {
		if kind, _, _, err := device(name); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %q, %v", name, kind, err)
		}
	}
}

// TestBlockDevice makes a node, for not every machine has a disk.
func TestBlockDevice(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	name := filepath.Join(t.TempDir(), "disk")
	if err := unix.Mknod(name, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 300))); err != nil {
		t.Fatal(err)
	}
	if kind, major, minor, err := device(name); err != nil || kind != "b" || major != 7 || minor != 300 {
		t.Errorf("%s %d:%d, %v", kind, major, minor, err)
	}
}

// TestThisHost compares with what the kernel says elsewhere.
func TestThisHost(t *testing.T) {
	t.Parallel()
	h, err := ThisHost(true)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if h.EUID != os.Geteuid() || !h.CgroupV2 || h.MemTotal < 64<<20 || h.NoFile != limit.Max || strconv.Itoa(h.OOMScoreAdj) != strings.TrimSpace(string(text)) {
		t.Errorf("%+v", h)
	}
	if cwd, _ := os.Getwd(); h.Cwd != cwd {
		t.Errorf("cwd %q, want %q", h.Cwd, cwd)
	}
	if !h.Exists("/proc/self") || h.Exists("/no/such/file") {
		t.Error("Exists")
	}
	if to, ok := h.Link("/proc/self"); !ok || to == "" {
		t.Error("/proc/self is a link")
	}
	if _, ok := h.Link("/"); ok {
		t.Error("/ is no link")
	}
	if _, err := h.Read("/no/such/file"); err == nil {
		t.Error("a file that is not there is read")
	}
}
