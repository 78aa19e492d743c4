package idmap_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"brig/internal/idmap"
	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// waiting starts a process in a user namespace without maps; it ends with the test.
func waiting(t *testing.T, credential *syscall.Credential) int {
	t.Helper()
	testenv.Check(t, testenv.UserNamespaces)
	cmd := exec.Command("/bin/cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, Credential: credential}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func TestWriteMaps(t *testing.T) {
	t.Parallel()
	pid := waiting(t, nil)
	m := idmap.OneID(os.Geteuid(), os.Getegid())
	if os.Geteuid() == 0 {
		m = idmap.Maps{UID: idmap.Range{524288, 65536}.Mappings(), GID: idmap.Range{589824, 65536}.Mappings()}
	}
	if err := idmap.WriteMaps(pid, m); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string][]specs.LinuxIDMapping{"uid_map": m.UID, "gid_map": m.GID} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		l := want[0]
		if fmt.Sprint(strings.Fields(string(text))) != fmt.Sprintf("[%d %d %d]", l.ContainerID, l.HostID, l.Size) {
			t.Errorf("%s: %s", file, text)
		}
	}
	if err := idmap.WriteMaps(pid, m); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a second write: %v", err)
	}
}

func TestUserNamespaceForMounts(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root, testenv.UserNamespaces)
	f, err := idmap.UserNamespace(idmap.Range{524288, 65536}.Mappings(), idmap.Range{524288, 65536}.Mappings())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The namespace must outlive its first process and be good for a mount.
	tree, err := unix.OpenTree(unix.AT_FDCWD, t.TempDir(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(f.Fd())})
	if errors.Is(err, unix.EINVAL) {
		testenv.Check(t, testenv.Need{Name: "idmapped-mounts", Missing: func() string { return "the file system of the temporary folder has none" }})
	}
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil || st.Uid != 524288 {
		t.Errorf("owner through the mount: %d, %v", st.Uid, err)
	}
}

func BenchmarkUserNamespace(b *testing.B) {
	testenv.Check(b, testenv.Root, testenv.UserNamespaces)
	m := idmap.Range{524288, 65536}.Mappings()
	for b.Loop() {
		f, err := idmap.UserNamespace(m, m)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
