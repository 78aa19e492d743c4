package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

const (
	app        = "example.test/app:1"
	appContent = "content of the image\n"
)

// useImage does what the start of a sandbox does.
func useImage(s *Store) error {
	i, err := s.Use(app, ThisPlatform())
	if err != nil {
		return err
	}
	defer i.Close() //nolint:errcheck // a lock
	root, err := i.Mount()
	if err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(root, "file"))
	if err == nil && string(data) != strings.Repeat(appContent, 1000) {
		err = errors.New("the image has another content")
	}
	return err
}

func addApp(t *testing.T, s *Store) Digest {
	t.Helper()
	return addImage(t, s, app, strings.Repeat(appContent, 1000))
}

func checkAll(s *Store) error { return s.Check(func(string, int64) {}) }

// flip changes one bit of the byte at an offset, which counts from the end when it is below 0.
func flip(at int64) func(path string) error {
	return func(path string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		off := at
		if off < 0 {
			off += int64(len(data))
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte{data[off] ^ 1}, off)
		return errors.Join(err, f.Close())
	}
}

// damages are what can happen to a file.
var damages = map[string]func(path string) error{
	"first byte":  flip(0),
	"middle byte": flip(40),
	"last byte":   flip(-1),
	"shorter": func(path string) error {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, st.Size()-1)
	},
	"empty": func(path string) error { return os.Truncate(path, 0) },
	"longer": func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.Write([]byte{0})
		return errors.Join(err, f.Close())
	},
	"link": func(path string) error { return errors.Join(os.Rename(path, path+".x"), os.Symlink(path+".x", path)) },
	"pipe": func(path string) error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) },
	"folder": func(path string) error {
		return errors.Join(os.Remove(path), os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "x"), nil, 0o600))
	},
	"another file": func(path string) error {
		return errors.Join(os.WriteFile(path+".x", []byte("other"), 0o600), os.Rename(path+".x", path))
	},
	// The content is another, and all that touch(1) can set is as it was.
	"times set back": func(path string) error {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		return errors.Join(flip(8)(path), os.Chtimes(path, st.ModTime(), st.ModTime()))
	},
}

// TestDamage: whatever happens to a file of the store is found before the file is used, and named; verify lists it once; and what a
// pull does mends it.
func TestDamage(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	manifest := func(s *Store) *Entry {
		e, err := s.Find(app)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	kinds := map[string]struct {
		path func(*Store) string
		used bool // by the start of a sandbox
	}{
		"image":     {func(s *Store) string { return s.imagePath(manifest(s).Target.Digest) }, true},
		"record":    {func(s *Store) string { return s.recordPath(manifest(s).Target.Digest) }, true},
		"reference": {func(s *Store) string { return s.refPath(app) }, true},
		"manifest":  {func(s *Store) string { return s.blobPath(manifest(s).Target.Digest) }, false},
		"layer": {func(s *Store) string {
			m, err := s.Manifest(manifest(s).Target.Digest)
			if err != nil {
				t.Fatal(err)
			}
			return s.blobPath(m.Layers[0].Digest)
		}, false},
	}
	for kind, k := range kinds {
		for name, damage := range damages {
			for _, mountedBefore := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/%v", kind, name, mountedBefore), func(t *testing.T) {
					t.Parallel()
					s := newStore(t)
					addApp(t, s)
					path := k.path(s)
					if mountedBefore {
						if err := useImage(s); err != nil {
							t.Fatal(err)
						}
					}
					if err := damage(path); err != nil {
						t.Fatal(err)
					}
					damaged(t, s, path, k.used)
				})
			}
		}
	}
}

// damaged demands that a damaged file is found, and mended.
func damaged(t *testing.T, s *Store, path string, used bool) {
	t.Helper()
	var damage *CorruptError
	if err := useImage(s); used && (!errors.As(err, &damage) || damage.Path != path) {
		t.Errorf("used: %v", err)
	} else if !used && err != nil {
		t.Errorf("what is not needed to run: %v", err)
	}
	err := checkAll(s)
	if n := strings.Count(fmt.Sprint(err), path+" is damaged"); n != 1 {
		t.Errorf("verify names it %d times: %v", n, err)
	}
	addApp(t, s)
	if err := errors.Join(useImage(s), checkTwice(s)); err != nil {
		t.Errorf("pulled again: %v", err)
	}
}

// checkTwice lets the first check clear away what a test has left beside the file.
func checkTwice(s *Store) error {
	_ = checkAll(s)
	return errors.Join(checkAll(s), useImage(s))
}

// TestDamageMended: a damaged image is made anew by the next pull without a verify before.
func TestDamageMended(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	s := newStore(t)
	md := addApp(t, s)
	for _, path := range []string{s.imagePath(md), s.recordPath(md), s.refPath(app), s.blobPath(md)} {
		if err := errors.Join(useImage(s), flip(10)(path)); err != nil {
			t.Fatal(err)
		}
		if useImage(s) == nil && path != s.blobPath(md) { // which is not needed to run
			t.Errorf("%s was used", path)
		}
		addApp(t, s)
		if err := errors.Join(useImage(s), checkAll(s)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestPrunePastDamage: a reference that cannot be read keeps prune from taking what it may lead to, until verify has named it.
func TestPrunePastDamage(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	s := newStore(t)
	md := addApp(t, s)
	if err := flip(5)(s.refPath(app)); err != nil {
		t.Fatal(err)
	}
	for _, all := range []bool{false, true} {
		if _, err := s.Prune(all); err == nil || !strings.Contains(err.Error(), "brig image verify") || !strings.Contains(err.Error(), s.refPath(app)) {
			t.Errorf("prune: %v", err)
		}
	}
	if !exists(s.imagePath(md)) {
		t.Error("the image is gone")
	}
	if err := checkAll(s); err == nil {
		t.Error("verify finds nothing")
	}
	if p, err := s.Prune(false); err != nil || p.Roots != 1 || p.Blobs != 3 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestMissing: verify names what somebody has removed.
func TestMissing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	md := addApp(t, s)
	m, err := s.Manifest(md)
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{s.blobPath(m.Config.Digest), s.blobPath(m.Layers[0].Digest), s.imagePath(md)}
	for _, p := range paths {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	err = checkAll(s)
	for _, p := range paths {
		if strings.Count(fmt.Sprint(err), p+" is damaged: it is gone") != 1 {
			t.Errorf("%s is not named once: %v", p, err)
		}
	}
}

// TestOtherFile: a mount of the file that was there before is not taken for a mount of the one that is there now.
func TestOtherFile(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	s := newStore(t)
	md := addApp(t, s)
	i, err := s.Use(app, ThisPlatform())
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close() //nolint:errcheck // a lock
	before, err := i.Mount()
	if err != nil {
		t.Fatal(err)
	}
	// A backup is put back: the same content, and another file.
	data, err := os.ReadFile(s.imagePath(md))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(s.path("tmp", "backup"), data, 0o600), os.Rename(s.path("tmp", "backup"), s.imagePath(md))); err != nil {
		t.Fatal(err)
	}
	after, err := i.Mount()
	if err != nil || after == before {
		t.Errorf("%s, then %s: %v", before, after, err)
	}
	if !mounted(before) || !mounted(after) {
		t.Error("a mount is gone that somebody may be copying")
	}
}

// TestDeletedStore: mounts of a store that somebody has removed, moved or replaced go with the next prune of any store.
func TestDeletedStore(t *testing.T) {
	testenv.Check(t, testenv.Root)
	for name, do := range map[string]func(dir string) error{
		"removed":  os.RemoveAll,
		"moved":    func(dir string) error { return os.Rename(dir, dir+".moved") },
		"replaced": func(dir string) error { return errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o700)) },
	} {
		dir := filepath.Join(t.TempDir(), "store")
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		addApp(t, s)
		if err := errors.Join(useImage(s), do(dir)); err != nil {
			t.Fatal(err)
		}
		if !exists(s.mounts) {
			t.Fatal("nothing is mounted")
		}
		if name == "moved" {
			moved, err := Open(dir + ".moved")
			if err != nil || moved.mounts != s.mounts {
				t.Errorf("the moved store has its mounts at %s, and had them at %s: %v", moved.mounts, s.mounts, err)
			}
		}
		if _, err := newStore(t).Prune(false); err != nil {
			t.Error(err)
		}
		if exists(s.mounts) {
			t.Errorf("%s: %s is still there", name, s.mounts)
		}
	}
}

// TestStrangeStore: a store that others can write is refused by the name of the folder.
func TestStrangeStore(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	for name, do := range map[string]func(dir string) error{
		"writable":      func(dir string) error { return os.Chmod(dir, 0o777) },
		"of another":    func(dir string) error { return os.Chown(dir, 1000, 1000) },
		"refs writable": func(dir string) error { return os.Chmod(dir+"/refs", 0o770) },
		"roots a link":  func(dir string) error { return errors.Join(os.Remove(dir+"/roots"), os.Symlink("/tmp", dir+"/roots")) },
		"locks a file": func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/locks"), os.WriteFile(dir+"/locks", nil, 0o600))
		},
		"blobs of other": func(dir string) error { return os.Chown(dir+"/blobs/sha256", 1000, 0) },
	} {
		dir := t.TempDir() + "/store"
		if _, err := Open(dir); err != nil {
			t.Fatal(err)
		}
		if err := do(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBoot: after a boot, and where the note of the last check is of another file, the digest is computed, by one of many, and noted.
func TestBoot(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	s := newStore(t)
	md := addApp(t, s)
	r, err := s.Record(md)
	if err != nil {
		t.Fatal(err)
	}
	r.Checked.Boot = "another"
	if err := s.writeFile(s.recordPath(md), r, false); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 20)
	for range cap(errs) {
		go func() { errs <- useImage(s) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	now, err := s.Record(md)
	if err != nil || now.Checked.Boot == "another" || now.Built.Sub(r.Built) != time.Duration(0) {
		t.Errorf("%+v, %v", now, err)
	}
}
