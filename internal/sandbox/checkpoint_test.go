package sandbox

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/isolation/gvisor"
	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// savedFolder makes a folder like that of a checkpoint, and the store that has its key.
func savedFolder(t *testing.T, change func(m *manifest, key []byte)) (*Store, string) {
	t.Helper()
	s := &Store{root: t.TempDir()}
	key, err := s.key(true)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "saved")
	above, folder, err := makeFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer above.Close()
	defer folder.Close()
	m := &manifest{Version: checkpointVersion, Request: &Request{Spec: &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}}}
	for _, n := range gvisor.SavedFiles {
		f, err := unnamed(folder)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString("the content of " + n); err != nil {
			t.Fatal(err)
		}
		sum, size, err := digest(f)
		if err == nil {
			err = name(f, folder, n)
		}
		if err != nil {
			t.Fatal(err)
		}
		m.Files = append(m.Files, savedFile{n, size, sum})
	}
	if change != nil {
		change(m, key)
	}
	if err := m.write(folder, key); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func openSaved(s *Store, dir string) ([]string, error) {
	folder, err := openOwn(unix.AT_FDCWD, dir, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	m, err := s.readManifest(folder)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{}
	defer c.Close()
	if err := c.open(folder, m); err != nil {
		return nil, err
	}
	var content []string
	for _, f := range c.files {
		text, err := io.ReadAll(f)
		if err != nil {
			return nil, err
		}
		content = append(content, string(text))
	}
	return content, nil
}

// TestDamaged damages each file of a checkpoint in each way: it is refused, in words that name the file.
func TestDamaged(t *testing.T) {
	t.Parallel()
	rewrite := func(change func([]byte) []byte) func(string) error {
		return func(path string) error {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, change(text), 0o600)
		}
	}
	replaced := func(with func(string) error) func(string) error {
		return func(path string) error {
			if err := os.Rename(path, path+".was"); err != nil {
				return err
			}
			return with(path)
		}
	}
	damages := map[string]func(path string) error{
		"truncated":     rewrite(func(b []byte) []byte { return b[:len(b)/2] }),
		"empty":         rewrite(func([]byte) []byte { return nil }),
		"grown":         rewrite(func(b []byte) []byte { return append([]byte("x"), b...) }),
		"a byte":        rewrite(func(b []byte) []byte { b[len(b)/3] ^= 1; return b }),
		"zeroed":        rewrite(func(b []byte) []byte { return make([]byte, len(b)) }),
		"missing":       os.Remove,
		"a link":        replaced(func(path string) error { return os.Symlink(filepath.Base(path)+".was", path) }),
		"a pipe":        replaced(func(path string) error { return unix.Mkfifo(path, 0o600) }),
		"a folder":      replaced(func(path string) error { return os.Mkdir(path, 0o700) }),
		"read by all":   func(path string) error { return os.Chmod(path, 0o644) },
		"of the group":  func(path string) error { return os.Chmod(path, 0o660) },
		"a neighbour's": func(path string) error { return os.Rename(filepath.Join(filepath.Dir(path), "neighbour"), path) },
	}
	for _, file := range append([]string{manifestFile}, gvisor.SavedFiles...) {
		for kind, damage := range damages {
			t.Run(file+" "+kind, func(t *testing.T) {
				t.Parallel()
				s, dir := savedFolder(t, nil)
				if err := os.WriteFile(filepath.Join(dir, "neighbour"), []byte("the content of another"), 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := openSaved(s, dir); err != nil {
					t.Fatal(err)
				}
				if err := damage(filepath.Join(dir, file)); err != nil {
					t.Fatal(err)
				}
				if _, err := openSaved(s, dir); err == nil || !strings.Contains(err.Error(), file) {
					t.Errorf("%v", err)
				}
			})
		}
	}
}

// TestOtherOwner gives a file of a checkpoint to another user.
func TestOtherOwner(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	for _, file := range append([]string{manifestFile, "."}, gvisor.SavedFiles...) {
		s, dir := savedFolder(t, nil)
		if err := os.Chown(filepath.Join(dir, file), 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if _, err := openSaved(s, dir); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestManifest has manifests that are sealed, and not this brig's.
func TestManifest(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(m *manifest, key []byte){
		"the version 2, and this brig reads 1":         func(m *manifest, _ []byte) { m.Version = 2 },
		"the version 0, and this brig reads 1":         func(m *manifest, _ []byte) { m.Version = 0 },
		"has no program":                               func(m *manifest, _ []byte) { m.Request = nil },
		"has no program.":                              func(m *manifest, _ []byte) { m.Request.Spec = nil },
		"it has 2 files, and not 3":                    func(m *manifest, _ []byte) { m.Files = m.Files[:2] },
		`it has the file "../etc/passwd"`:              func(m *manifest, _ []byte) { m.Files[0].Name = "../etc/passwd" },
		"its seal is broken":                           func(_ *manifest, key []byte) { key[3]++ },
		"it has 20 bytes, and not 1152921504606846976": func(m *manifest, _ []byte) { m.Files[0].Size = 1 << 60 },
	} {
		s, dir := savedFolder(t, change)
		if _, err := openSaved(s, dir); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(want, ".")) {
			t.Errorf("%v, and not %s", err, want)
		}
	}
	body, err := json.Marshal(map[string]any{"version": checkpointVersion, "request": map[string]any{"spec": map[string]any{"hardened": true}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseManifest(body); err == nil || !strings.Contains(err.Error(), `the field "hardened", which this brig does not know`) {
		t.Errorf("a policy with more than this brig knows: %v", err)
	}
}

// TestPrivate changes a file after it was copied, by a descriptor from before: the copy stays, small or large, and cannot be changed itself.
func TestPrivate(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 1 << 20, smallState + 1<<20} {
		folder, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer folder.Close()
		content := make([]byte, size)
		_, _ = rand.Read(content)
		f, err := os.OpenFile(filepath.Join(folder.Name(), "state"), os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			_, err = f.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c, sum, err := private(folder, f, int64(size))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if want, _, err := digest(f); err != nil || want != sum {
			t.Errorf("%d bytes: the digest is %s, and not %s: %v", size, sum, want, err)
		}
		if _, err := f.WriteAt([]byte("changed"), 0); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: the copy is another by then: %v", size, err)
		}
		if _, err := c.WriteAt([]byte("x"), 0); err == nil {
			t.Errorf("%d bytes: the copy can be written", size)
		}
		if entries, err := folder.Readdirnames(-1); err != nil || len(entries) != 1 {
			t.Errorf("%d bytes: in the folder are %q: %v", size, entries, err)
		}
	}
}
