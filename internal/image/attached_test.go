package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
)

// attachOne puts an artifact for subject into the store and attaches it.
func attachOne(t *testing.T, s *Store, subject Digest, text string) (manifest, layer Digest) {
	t.Helper()
	ld, err := s.Put([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	cd, err := s.Put([]byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := json.Marshal(Manifest{SchemaVersion: 2, MediaType: MediaManifest, Config: Descriptor{Digest: cd, Size: 2}, Layers: []Descriptor{{Digest: ld, Size: int64(len(text))}}})
	if err != nil {
		t.Fatal(err)
	}
	md, err := s.Put(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Attach(subject, []Descriptor{{MediaType: MediaManifest, Digest: md, Size: int64(len(m))}}); err != nil {
		t.Fatal(err)
	}
	return md, ld
}

// TestAttached: what is attached to an image stays with it, whatever is attached later, and goes with it.
func TestAttached(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	d := addImage(t, s, "registry.example/a:1", "content")
	m1, l1 := attachOne(t, s, d, "one")
	m2, l2 := attachOne(t, s, d, "two")
	_, l3 := attachOne(t, s, DigestOf([]byte("an image that is not here")), "three")
	if _, err := s.Prune(false); err != nil {
		t.Fatal(err)
	}
	list, err := s.Attached(d)
	if err != nil || len(list) != 2 || list[0].Digest != m2 || list[1].Digest != m1 {
		t.Fatalf("attached are %v, %v", list, err)
	}
	for _, b := range []Digest{m1, l1, m2, l2} {
		if !s.HasBlob(b, -1) {
			t.Errorf("%s was pruned, and its image is here", b)
		}
	}
	if s.HasBlob(l3, -1) {
		t.Error("what is attached to nothing was kept")
	}
	ref, _ := ParseRef("registry.example/a:1")
	if _, err := s.Remove(ref); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(s.path("attached")); len(files) > 0 || s.HasBlob(l1, -1) {
		t.Errorf("after rm there are %v, layer %v", files, s.HasBlob(l1, -1))
	}
}

// TestAttachedLimits: no registry can fill the list, and a damaged one is found and mended.
func TestAttachedLimits(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	d := addImage(t, s, "registry.example/b:1", "content")
	for i := range maxAttached + 5 {
		if err := s.Attach(d, []Descriptor{{MediaType: MediaManifest, Digest: DigestOf(fmt.Append(nil, i))}}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.Attached(d)
	if err != nil || len(list) != maxAttached || list[0].Digest != DigestOf(fmt.Append(nil, maxAttached+4)) {
		t.Errorf("%d are attached, %v", len(list), err)
	}
	if err := s.Attach(d, []Descriptor{{MediaType: MediaIndex, Digest: d}}); err == nil {
		t.Error("an index was attached")
	}
	if err := os.WriteFile(s.attachedPath(d), []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged *CorruptError
	if _, err := s.Attached(d); !errors.As(err, &damaged) {
		t.Errorf("a damaged list: %v", err)
	}
	if err := s.Check(func(string, int64) {}); !errors.As(err, &damaged) {
		t.Errorf("verify of a damaged list: %v", err)
	}
	attachOne(t, s, d, "one")
	if list, err := s.Attached(d); err != nil || len(list) != 1 {
		t.Errorf("the mended list is %v, %v", list, err)
	}
}
