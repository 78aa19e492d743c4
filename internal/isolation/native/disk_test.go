package native

import (
	"os"
	"runtime"
	"testing"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// TestMakeExt4BesideMounts: an image that is mounted from its file has a descriptor's name as its source, and mkfs takes that name for
// the file it is given.
func TestMakeExt4BesideMounts(t *testing.T) {
	testenv.Check(t, testenv.Root, testenv.Program("mkfs.ext4"))
	dir := t.TempDir()
	fd, err := unix.Open(t.TempDir(), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "unnamed")
	defer f.Close() //nolint:errcheck // a test's
	if err := f.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends, and its mounts with it
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.Mount("/proc/self/fd/3", dir, "tmpfs", 0, ""); err != nil {
				return err
			}
			return makeExt4(f)
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
