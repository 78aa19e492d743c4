//go:build vm

package image

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"brig/internal/fsverity"

	"golang.org/x/sys/unix"
)

// TestVerity runs in the virtual machine of test/vm/images: the store is on a file system with fs-verity, whose disk is the file
// BRIG_TEST_DISK, and the kernel is one that mounts no files. What is made there is sealed, serves through a loop device and with
// ids of its own, and a byte that changes on the disk below is refused by the kernel.
func TestVerity(t *testing.T) {
	s := newStore(t)
	md, line := addSealed(t, s)
	r, err := s.Record(md)
	if err != nil || !r.Sealed {
		t.Fatalf("it is not sealed: %+v, %v", r, err)
	}
	f, err := os.Open(s.imagePath(md))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := fsverity.Measure(f)
	_ = f.Close()
	if err != nil || hex.EncodeToString(sum[:]) != r.Verity {
		t.Errorf("the kernel measures %x, and the record has %s: %v", sum, r.Verity, err)
	}
	if f, err := os.OpenFile(s.imagePath(md), os.O_WRONLY, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("a sealed file could be opened for writing: %v", err)
		_ = f.Close()
	}
	root := mountSealed(t, s)
	if source := sourceOf(t, s); !strings.HasPrefix(source, "/dev/loop") {
		t.Errorf("mounted from %s", source)
	}
	shifted(t, root)
	if err := checkAll(s); err != nil {
		t.Error(err)
	}
	if _, err := s.Prune(false); err != nil {
		t.Fatal(err)
	}
	changeDisk(t, s, line)
	root = mountSealed(t, s)
	if _, err := os.ReadFile(filepath.Join(root, "file")); !errors.Is(err, unix.EIO) {
		t.Errorf("the changed byte was read: %v", err)
	}
	var damage *CorruptError
	if err := checkAll(s); !errors.As(err, &damage) || damage.Path != s.imagePath(md) {
		t.Errorf("verify: %v", err)
	}
	if again, _ := addSealed(t, s); again != md {
		t.Errorf("%s was made again as %s", md, again)
	}
	if data, err := os.ReadFile(filepath.Join(mountSealed(t, s), "file")); err != nil || !bytes.Contains(data, []byte(line)) {
		t.Errorf("pulled again: %v", err)
	}
	// The same bytes without the seal are not taken: whoever could put them there could change them later.
	data, err := os.ReadFile(s.imagePath(md))
	if err == nil {
		err = errors.Join(os.WriteFile(s.path("tmp", "copy"), data, 0o400), os.Rename(s.path("tmp", "copy"), s.imagePath(md)))
	}
	if err != nil {
		t.Fatal(err)
	}
	i, err := s.Use(app, ThisPlatform())
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close() //nolint:errcheck // a lock
	if _, err := i.Mount(); !errors.As(err, &damage) {
		t.Errorf("without its seal: %v", err)
	}
}

// addSealed adds an image, and gives a line of its file that is nowhere else on the disk.
func addSealed(t *testing.T, s *Store) (Digest, string) {
	t.Helper()
	m, err := storeBlobs(s, "a layer")
	if err != nil {
		t.Fatal(err)
	}
	var content strings.Builder
	for n := range 2000 {
		fmt.Fprintf(&content, "line %06d of what is sealed\n", n)
	}
	makeRoot(t, s, m.digest, content.String())
	ref, err := ParseRef(app)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(ref, Descriptor{MediaType: MediaManifest, Digest: m.digest}, ThisPlatform(), m.digest); err != nil {
		t.Fatal(err)
	}
	return m.digest, fmt.Sprintf("line %06d of what is sealed\n", 1000)
}

func mountSealed(t *testing.T, s *Store) string {
	t.Helper()
	i, err := s.Use(app, ThisPlatform())
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close() //nolint:errcheck // a lock
	root, err := i.Mount()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// shifted makes a copy of a mount with other ids, as a sandbox does.
func shifted(t *testing.T, root string) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()         //nolint:errcheck // it is killed
	defer cmd.Process.Kill() //nolint:errcheck // it is there
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close() //nolint:errcheck // a test
	tree, err := unix.OpenTree(unix.AT_FDCWD, root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tree)                                                              //nolint:errcheck // a test
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())} //nolint:gosec // a file descriptor
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		t.Fatal("idmapped mount: ", err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(tree, "file", &st, 0); err != nil || st.Uid != 100000 {
		t.Errorf("the file belongs to user %d: %v", st.Uid, err)
	}
}

// changeDisk changes a byte below the file system.
func changeDisk(t *testing.T, s *Store, line string) {
	t.Helper()
	disk, err := os.OpenFile(os.Getenv("BRIG_TEST_DISK"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close() //nolint:errcheck // a test
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(disk.Name())
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for at := 0; ; changed++ {
		i := bytes.Index(data[at:], []byte(line))
		if i < 0 {
			break
		}
		at += i + 1
		if _, err := disk.WriteAt([]byte("L"), int64(at-1)); err != nil {
			t.Fatal(err)
		}
	}
	if changed == 0 {
		t.Fatalf("the file of %s is not on the disk", s.dir)
	}
}
