package image

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// placeFor is a file system for a store, which goes away with the test. That it can be unmounted then shows that nothing of the store is left.
func placeFor(t *testing.T, kind string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "place")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	args := map[string][]string{
		"tmpfs":   {"-t", "tmpfs", "-o", "size=16m,mode=700", "none", dir},
		"overlay": {"-t", "overlay", "-o", "lowerdir=" + dir + ".lower,upperdir=" + dir + ".over/upper,workdir=" + dir + ".over/work", "none", dir},
	}[kind]
	if kind == "overlay" {
		for _, d := range []string{".lower", ".over/upper", ".over/work"} {
			if err := os.MkdirAll(dir+d, 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	if args == nil {
		disk := dir + ".disk"
		f, err := os.Create(disk)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(320<<20), f.Close()); err != nil {
			t.Fatal(err)
		}
		command(t, "mkfs."+kind, map[string]string{"ext4": "-q", "xfs": "-q", "btrfs": "-q"}[kind], disk)
		args = []string{"-o", "loop", disk, dir}
	}
	command(t, "mount", args...)
	t.Cleanup(func() {
		err := unix.Unmount(dir, 0)
		// A sandbox that another test is just starting has copies of all mounts for a moment.
		for until := time.Now().Add(10 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(until); err = unix.Unmount(dir, 0) {
			runtime.Gosched()
		}
		if err != nil {
			t.Errorf("unmount the store's %s: %v", kind, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

func storeAt(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := s.Prune(true); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestPlaces: a store works on every file system that machines have it on, also when that becomes read-only.
func TestPlaces(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root, testenv.Program("mkfs.ext4"), testenv.Program("mkfs.xfs"), testenv.Program("mkfs.btrfs"))
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs", "overlay"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := placeFor(t, kind)
			s := storeAt(t, dir)
			if err := errors.Join(pullApp(s), useImage(s), useImage(s), checkAll(s)); err != nil {
				t.Fatal(err)
			}
			list, err := s.Entries()
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Record(list[0].Target.Digest)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: sealed %v, mounted from %s", kind, r.Sealed, sourceOf(t, s))
			if _, err := s.Prune(false); err != nil {
				t.Fatal(err)
			}
			readOnly(t, dir)
			if err := flip(2000)(s.imagePath(r.Manifest)); err != nil {
				t.Fatal(err)
			}
			var damage *CorruptError
			if err := useImage(s); !errors.As(err, &damage) {
				t.Errorf("damaged: %v", err)
			}
			if err := errors.Join(pullApp(s), useImage(s)); err != nil {
				t.Errorf("pulled again: %v", err)
			}
		})
	}
}

// readOnly uses a store that cannot be written. A bind mount of its own makes it so, for a loop device's file system may be busy.
func readOnly(t *testing.T, dir string) {
	t.Helper()
	if err := errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""), unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(useImage(s), useImage(s), checkAll(s)); err != nil {
		t.Errorf("read-only: %v", err)
	}
	if _, err := s.Put([]byte("more")); !errors.Is(err, unix.EROFS) {
		t.Errorf("read-only and something new: %v", err)
	}
	ref, _ := ParseRef(app)
	if _, err := s.Remove(ref); !errors.Is(err, unix.EROFS) {
		t.Errorf("read-only and removed: %v", err)
	}
	if err := s.eachMount(func(Digest) bool { return true }); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

// sourceOf tells what the store's image is mounted from.
func sourceOf(t *testing.T, s *Store) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, after, ok := strings.Cut(line, " - erofs "); ok && strings.Contains(line, s.mounts) {
			return strings.Fields(after)[0]
		}
	}
	t.Error("nothing is mounted")
	return ""
}

// TestDiskFull has a disk be full at every page that a pull writes: the error says so and what to do, nothing half-made is seen, what is there
// can be removed, and the pull works once there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := placeFor(t, kind)
			filler := filepath.Join(dir, "filler")
			for pages := 0; ; pages++ {
				s := storeAt(t, filepath.Join(dir, fmt.Sprint("store", pages)))
				fill(t, filler, pages)
				err := pullApp(s)
				if err == nil {
					if pages == 0 {
						t.Error("the disk was not full")
					}
					t.Logf("a pull takes %d pages", pages)
					break
				}
				if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), s.dir) || !strings.Contains(err.Error(), "brig image prune") {
					t.Errorf("%d pages: %v", pages, err)
				}
				if err := useImage(s); !errors.Is(err, ErrNotHere) {
					t.Errorf("%d pages: used: %v", pages, err)
				}
				if _, err := s.Prune(true); err != nil {
					t.Errorf("%d pages: prune: %v", pages, err)
				}
				// Not only removed: what another test is just starting may have a copy of its descriptor.
				if err := errors.Join(os.Truncate(filler, 0), os.Remove(filler)); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(pullApp(s), useImage(s), checkAll(s)); err != nil {
					t.Errorf("%d pages: with room: %v", pages, err)
				}
				if _, err := s.Prune(true); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// fill leaves so many pages of a disk.
func fill(t *testing.T, filler string, pages int) {
	t.Helper()
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // a test
	for size := int64(1 << 20); size >= 4096; {
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Fallocate(int(f.Fd()), 0, st.Size(), size); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	st, err := f.Stat()
	if err == nil {
		err = f.Truncate(st.Size() - int64(pages)*4096)
	}
	if err != nil {
		t.Fatal(err)
	}
}
