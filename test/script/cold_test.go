package script

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// TestProgramIsNotTheSandboxes: a sandbox has no more of its memory for its kernel's program where that lay in no memory before it started, as
// after a boot or an upgrade, or lies in none any more when a program is executed in it.
func TestProgramIsNotTheSandboxes(t *testing.T) {
	t.Parallel()
	if testenv.Isolation() != "gvisor" {
		return // it is the sandbox's own program, as any
	}
	testenv.Check(t, testenv.Root, testenv.Program("busybox"))
	dir := testRoot(t)
	var on unix.Statfs_t
	if err := unix.Statfs(dir, &on); err != nil {
		t.Fatal(err)
	}
	if on.Type == unix.TMPFS_MAGIC {
		return // what is in no memory there is nowhere
	}
	for _, name := range []string{"brig", "brig-gvisor"} { // which no other test executes
		if err := copyInto(dir, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	brig := func(args ...string) []byte {
		t.Helper()
		c := exec.Command(dir+"/brig", append([]string{"--root", dir + "/state"}, args...)...) //nolint:gosec // the test's
		out, err := c.Output()
		if err != nil {
			t.Fatalf("brig %q: %v", args, err)
		}
		return out
	}
	const most = 8 << 20 // of 25 that a start reads
	held := func(when string) {
		t.Helper()
		var list []struct{ Memory struct{ File uint64 } }
		if err := json.Unmarshal(brig("stats", "--format", "json", "cold"), &list); err != nil || len(list) != 1 || list[0].Memory.File == 0 {
			t.Fatalf("%+v, %v", list, err)
		}
		if n := list[0].Memory.File; n > most {
			t.Errorf("%s, %d KiB of files are the sandbox's", when, n>>10)
		}
	}
	evict(t, dir+"/brig-gvisor")
	brig("run", "-d", "--name", "cold", "--isolation", "gvisor", "--rootfs", dir+"/root", "busybox", "sleep", "1000")
	defer brig("rm", "-f", "cold")
	held("started")
	evict(t, dir+"/brig-gvisor")
	brig("exec", "cold", "busybox", "true")
	held("with a program more")
}

// copyInto copies a program into a folder.
func copyInto(dir, program string) error {
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, filepath.Base(program)), text, 0o755) //nolint:gosec // a program
}

// evict takes a file out of the page cache (POSIX_FADV_DONTNEED of posix_fadvise(2)), all but what a processor's list holds back, as soon as
// nobody has it mapped any more.
func evict(t *testing.T, file string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fd := int(f.Fd()) //nolint:gosec // a file descriptor
	if err := unix.Fsync(fd); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); ; time.Sleep(10 * time.Millisecond) {
		if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		n := inCore(t, fd, int(info.Size()))
		if int64(n) < info.Size()/4 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d KiB of %s are in memory", n>>10, file)
		}
	}
}

// inCore is how much of a file is in the page cache (mincore(2)).
func inCore(t *testing.T, fd, size int) (n int) {
	t.Helper()
	text, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(text) //nolint:errcheck // of this function alone
	page := os.Getpagesize()
	there := make([]byte, (size+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&text[0])), uintptr(size), uintptr(unsafe.Pointer(&there[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, b := range there {
		n += int(b&1) * page
	}
	return n
}
