package image

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"brig/internal/erofs"
	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// newStore is an empty store that goes away with the test, mounts and all.
func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		list, _ := s.Entries()
		for _, e := range list {
			ref, _ := e.Ref()
			_ = s.Untag(ref)
		}
		if _, err := s.Prune(true); err != nil {
			t.Error(err)
		}
	})
	return s
}

// stored is a manifest in the store.
type stored struct {
	*Manifest
	digest Digest
	size   int64
}

// storeBlobs puts the blobs of an image into the store.
func storeBlobs(s *Store, content string) (*stored, error) {
	config := `{"architecture":"` + ThisPlatform().Architecture + `","os":"linux","config":{"Env":["A=B"]},"rootfs":{"type":"layers","diff_ids":[]}}`
	cd, err := s.Put([]byte(config))
	if err != nil {
		return nil, err
	}
	ld, err := s.Put([]byte(content))
	if err != nil {
		return nil, err
	}
	m := Manifest{SchemaVersion: 2, MediaType: MediaManifest, Config: Descriptor{MediaType: MediaConfig, Digest: cd, Size: int64(len(config))},
		Layers: []Descriptor{{MediaType: MediaLayer, Digest: ld, Size: int64(len(content))}}}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	md, err := s.Put(text)
	return &stored{&m, md, int64(len(text))}, err
}

// pullApp does to the store what a pull does.
func pullApp(s *Store) error {
	session, err := s.Begin()
	if err != nil {
		return err
	}
	defer session.End()
	content := strings.Repeat(appContent, 1000)
	m, err := storeBlobs(s, content)
	if err != nil {
		return err
	}
	signature, err := s.Put([]byte(`{"schemaVersion":2,"mediaType":"` + MediaManifest + `","config":{"mediaType":"x","digest":"` + string(m.Config.Digest) + `","size":1},"layers":[]}`))
	if err != nil {
		return err
	}
	if err := s.Attach(m.digest, []Descriptor{{MediaType: MediaManifest, Digest: signature}}); err != nil {
		return err
	}
	config, err := s.ImageConfig(m.Manifest)
	if err != nil {
		return err
	}
	if _, err := s.MakeRoot(m.digest, config, fillWith(content)); err != nil {
		return err
	}
	ref, err := ParseRef(app)
	if err != nil {
		return err
	}
	return s.Tag(ref, Descriptor{MediaType: MediaManifest, Digest: m.digest}, ThisPlatform(), m.digest)
}

// addImage puts an image of one file into the store and gives its manifest.
func addImage(t *testing.T, s *Store, ref, content string) Digest {
	t.Helper()
	m, err := storeBlobs(s, content)
	if err != nil {
		t.Fatal(err)
	}
	makeRoot(t, s, m.digest, content)
	r, err := ParseRef(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(r, Descriptor{MediaType: MediaManifest, Digest: m.digest, Size: m.size}, ThisPlatform(), m.digest); err != nil {
		t.Fatal(err)
	}
	return m.digest
}

func makeRoot(t *testing.T, s *Store, md Digest, content string) {
	t.Helper()
	m, err := s.Manifest(md)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.ImageConfig(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.MakeRoot(md, c, fillWith(content)); err != nil {
		t.Fatal(err)
	}
}

func fillWith(content string) func(*os.File) (int64, error) {
	return func(f *os.File) (int64, error) {
		w, err := erofs.NewWriter(f)
		if err != nil {
			return 0, err
		}
		data, err := w.Copy(strings.NewReader(content))
		if err != nil {
			return 0, err
		}
		file := &erofs.Inode{Mode: unix.S_IFREG | 0o644, Data: data}
		return w.Close(&erofs.Inode{Mode: unix.S_IFDIR | 0o755, Children: map[string]*erofs.Inode{"file": file}})
	}
}

// TestUse: an image is mounted with its content, is kept while somebody uses it, and is gone afterwards.
func TestUse(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	s := newStore(t)
	content := strings.Repeat("text of the image\n", 1000)
	md := addImage(t, s, "example.test/app:1", content)
	i, err := s.Use("example.test/app:1", ThisPlatform())
	if err != nil {
		t.Fatal(err)
	}
	if i.Digest != md || i.Config.Env[0] != "A=B" {
		t.Errorf("it is %+v", i)
	}
	root, err := i.Mount()
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(root, "file")); err != nil || string(data) != content {
		t.Fatalf("%q, %v", data, err)
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to the image: %v", err)
	}
	if again, err := i.Mount(); err != nil || again != root {
		t.Errorf("mounted again: %s, %v", again, err)
	}
	ref, _ := ParseRef("example.test/app:1")
	if p, err := s.Remove(ref); err != nil || p.Roots+p.Blobs != 0 {
		t.Errorf("an image in use: %+v, %v", p, err)
	}
	if _, err := os.ReadFile(filepath.Join(root, "file")); err != nil {
		t.Errorf("after the removal of its name: %v", err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err := s.Prune(false); err != nil || p.Roots != 1 || p.Blobs != 3 {
		t.Errorf("%+v, %v", p, err)
	}
	if mounted(root) || exists(root) || exists(s.mounts) {
		t.Errorf("%s is still there", root)
	}
	if _, err := s.Use("example.test/app:1", ThisPlatform()); !errors.Is(err, ErrNotHere) {
		t.Errorf("%v", err)
	}
}

// TestIngest: of many that want a blob one fetches; what is wrong is not kept, and what was begun goes on.
func TestIngest(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	content := []byte(strings.Repeat("x", 100000))
	d := DigestOf(content)
	broken := errors.New("cut")
	err := s.Ingest(d, int64(len(content)), func(p *Partial) error {
		_, _ = p.Write(content[:40000])
		return broken
	})
	if !errors.Is(err, broken) || s.HasBlob(d, -1) {
		t.Fatalf("%v", err)
	}
	var fetched atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := s.Ingest(d, int64(len(content)), func(p *Partial) error {
				fetched.Add(1)
				if p.Offset() != 40000 {
					t.Errorf("it goes on at %d", p.Offset())
				}
				_, err := p.Write(content[p.Offset():])
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if fetched.Load() != 1 || !s.HasBlob(d, int64(len(content))) {
		t.Errorf("fetched %d times", fetched.Load())
	}
	var wrong *DigestError
	other := DigestOf([]byte("other"))
	if err := s.Ingest(other, 5, func(p *Partial) error { _, err := p.Write([]byte("0ther")); return err }); !errors.As(err, &wrong) || s.HasBlob(other, -1) {
		t.Errorf("%v", err)
	}
	if left, _ := filepath.Glob(s.path("tmp", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestLoop: where the kernel mounts no files, a loop device serves, and goes with the mount.
func TestLoop(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	s := newStore(t)
	md := addImage(t, s, "example.test/app:1", "content")
	f, err := os.Open(s.imagePath(md))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // a test
	mnt, err := detachedLoop(f, "")
	if err != nil {
		t.Fatal(err)
	}
	file, err := unix.Openat(mnt, "file", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 20)
	if n, err := unix.Read(file, b); err != nil || string(b[:n]) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	_, _ = unix.Close(file), unix.Close(mnt)
}

// TestStoreInReach: a store of root's that somebody else could put another in the place of, by a folder above it or by a link, is refused.
func TestStoreInReach(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"theirs": 0o755, "open": 0o777, "sticky": 0o777 | os.ModeSticky} {
		above := filepath.Join(dir, name)
		for _, d := range []string{above, filepath.Join(above, "store")} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(above, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(above, "store"), filepath.Join(dir, name+"-link")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(dir, "theirs"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"theirs/store", "theirs/new/store", "theirs-link", "open/store", "open/new", "open-link"} {
		if s, err := Open(filepath.Join(dir, path)); err == nil || !strings.Contains(err.Error(), "nobody else may write it") {
			t.Errorf("%s: %v, %v", path, s, err)
		}
	}
	for _, path := range []string{"theirs/new", "open/new"} {
		if exists(filepath.Join(dir, path)) {
			t.Errorf("%s was made", path)
		}
	}
	// What is used is not the link that was checked.
	s, err := Open(filepath.Join(dir, "sticky-link/new"))
	if err != nil || s.Dir() != filepath.Join(dir, "sticky/store/new") {
		t.Errorf("%v, %v", s, err)
	}
}

// TestRecordTooLarge: a configuration that fits, but whose record nobody could read, is refused when it comes and not at every use.
func TestRecordTooLarge(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	m, err := storeBlobs(s, "x")
	if err != nil {
		t.Fatal(err)
	}
	c := &Config{Labels: map[string]string{"label": strings.Repeat("<", 7<<20)}}
	if _, err := s.MakeRoot(m.digest, c, fillWith("x")); err == nil || !strings.Contains(err.Error(), "configuration is too large") {
		t.Errorf("%v", err)
	}
	if _, err := s.Record(m.digest); !errors.Is(err, ErrNotHere) {
		t.Errorf("%v", err)
	}
}
