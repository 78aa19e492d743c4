package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/image"
	"brig/internal/layers"
	"brig/internal/testenv"
)

func newStore(t *testing.T) *image.Store {
	t.Helper()
	s, err := image.Open(t.TempDir())
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

// layer gives a compressed layer with one file, and its diffID.
func layer(t *testing.T, name, content string) ([]byte, image.Digest) {
	t.Helper()
	var plain, packed bytes.Buffer
	w := tar.NewWriter(&plain)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(content))
	_ = w.Close()
	sum := sha256.New()
	sum.Write(plain.Bytes())
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(plain.Bytes())
	_ = z.Close()
	return packed.Bytes(), image.DigestOfHash(sum)
}

// put stores an image and gives its manifest.
func put(t *testing.T, s *image.Store, diffIDs []image.Digest, blobs ...[]byte) image.Digest {
	t.Helper()
	ids, _ := json.Marshal(diffIDs)
	config := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":` + string(ids) + `}}`)
	m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest}
	store := func(data []byte) image.Descriptor {
		d, err := s.Put(data)
		if err != nil {
			t.Fatal(err)
		}
		return image.Descriptor{MediaType: image.MediaLayer, Digest: d, Size: int64(len(data))}
	}
	m.Config = store(config)
	for _, b := range blobs {
		m.Layers = append(m.Layers, store(b))
	}
	text, _ := json.Marshal(m)
	return store(text).Digest
}

// TestRoot: two layers become one file system, the same bytes each time, and a name is all that Use needs.
func TestRoot(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	b1, d1 := layer(t, "a", "one")
	b2, d2 := layer(t, "b", "two")
	var sums []string
	for range 2 {
		s := newStore(t)
		md := put(t, s, []image.Digest{d1, d2}, b1, b2)
		read := map[image.Digest]int64{}
		r, err := Root(s, md, Options{Limits: layers.DefaultLimits(), Layer: func(d image.Digest, n int64) { read[d] += n }})
		if err != nil {
			t.Fatal(err)
		}
		if len(read) != 2 || read[image.DigestOf(b1)] != int64(len(b1)) {
			t.Errorf("told of %v", read)
		}
		sums = append(sums, r.Verity)
		ref, _ := image.ParseRef("example.test/x")
		if err := s.Tag(ref, image.Descriptor{MediaType: image.MediaManifest, Digest: md}, r.Config.Platform, md); err != nil {
			t.Fatal(err)
		}
		i, err := s.Use("example.test/x", r.Config.Platform)
		if err != nil {
			t.Fatal(err)
		}
		root, err := i.Mount()
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"a": "one", "b": "two"} {
			if text, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(text) != want {
				t.Errorf("%s: %q, %v", name, text, err)
			}
		}
		_ = i.Close()
	}
	if sums[0] != sums[1] {
		t.Errorf("two makings: %v", sums)
	}
}

// TestRefused: a layer that is not what manifest and configuration say makes no root, and is named.
func TestRefused(t *testing.T) {
	t.Parallel()
	b1, d1 := layer(t, "a", "one")
	_, d2 := layer(t, "a", "two")
	bad, badID := layer(t, "../../etc/passwd", "mine")
	for name, c := range map[string]struct {
		ids  []image.Digest
		blob []byte
		want string
	}{
		"another diffID":    {[]image.Digest{d2}, b1, "it unpacks to " + string(d1)},
		"too many diffIDs":  {[]image.Digest{d1, d2}, b1, "1 layers"},
		"climbs out":        {[]image.Digest{badID}, bad, "../../etc/passwd"},
		"cut short":         {[]image.Digest{d1}, b1[:len(b1)-10], ""},
		"garbage behind it": {[]image.Digest{d1}, append(b1[:len(b1):len(b1)], "garbage"...), ""},
	} {
		s := newStore(t)
		md := put(t, s, c.ids, c.blob)
		_, err := Root(s, md, Options{Limits: layers.DefaultLimits()})
		var l *LayerError
		if err == nil || !strings.Contains(err.Error(), c.want) || name != "too many diffIDs" && (!errors.As(err, &l) || l.Layer != image.DigestOf(c.blob)) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Record(md); !errors.Is(err, image.ErrNotHere) {
			t.Errorf("%s: there is a root: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(s.TempDir(), "*")); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}
