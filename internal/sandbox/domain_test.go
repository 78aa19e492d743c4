package sandbox

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestPlaces: what is mounted at a folder of a request, and below it, is a part of what the folder is.
func TestPlaces(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	runtime.LockOSThread() // and never unlocked: the mount namespace ends with the thread
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	volume, below := filepath.Join(dir, "volume"), filepath.Join(dir, "volume", "below")
	if err := os.MkdirAll(below, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("volume", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	mount := func(source, target, kind string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE)
	mount(volume, volume, "", unix.MS_BIND)
	defer unix.Unmount(volume, unix.MNT_DETACH) //nolint:errcheck // of a namespace that ends
	for _, source := range []string{volume, filepath.Join(dir, "link")} {
		var seen [][]string
		look := func(what string, before int) {
			t.Helper()
			list, err := places(&Request{Spec: &specs.Spec{Mounts: []specs.Mount{{Type: "bind", Source: source, Destination: "/v"}}}})
			if err != nil {
				t.Fatal(err)
			}
			if i := slices.IndexFunc(seen, func(s []string) bool { return slices.Equal(s, list) }); i != before {
				t.Errorf("%s: %s is as it was at %d, and not at %d: %q", what, source, i, before, list)
			}
			seen = append(seen, list)
		}
		look("as it is", -1)
		mount("", volume, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY)
		look("read-only", -1)
		mount("", volume, "", unix.MS_REMOUNT|unix.MS_BIND)
		look("writable again", 0)
		mount("tmpfs", below, "tmpfs", 0)
		look("a mount below", -1)
		if err := unix.Unmount(below, 0); err != nil {
			t.Fatal(err)
		}
		look("gone again", 0)
	}
}
