package native

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/plan"
	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// TestOverlayOnOldKernels: where overlayfs takes no layers that are nowhere, it is made in a mount namespace for that alone, and is
// the same file system.
func TestOverlayOnOldKernels(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "below"), []byte("below"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	for name, create := range map[string]func(*overlay, int) error{
		"detached": func(o *overlay, fs int) error { return o.create(fs) },
		"attached": func(o *overlay, fs int) error { return onThread(func() error { return o.createAttached(fs) }) },
	} {
		t.Run(name, func(t *testing.T) {
			l := &launching{}
			defer l.close()
			if err := l.openOverlay(&plan.Overlay{Reg: 1, Lower: plan.Bind{Source: dir}, Size: 1 << 20, Inodes: 64}); err != nil {
				t.Fatal(err)
			}
			if err := l.overlay.likeLower(); err != nil {
				t.Fatal(err)
			}
			fs := int(l.overlay.context.Fd())
			if err := create(l.overlay, fs); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil || st.Mode&0o7777 != 0o711 {
				t.Errorf("the root has mode %o, want 711 (%v)", st.Mode&0o7777, err)
			}
			if err := unix.Unlinkat(fd, "below", 0); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "below")); err != nil {
				t.Errorf("the folder below was written to: %v", err)
			}
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil || strings.Contains(string(mounts), " - overlay brig ") || strings.Contains(string(mounts), " - tmpfs brig ") {
				t.Errorf("something of it is mounted on the host (%v):\n%s", err, mounts)
			}
		})
	}
}
