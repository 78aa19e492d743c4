package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brig/internal/image"
	"brig/internal/layers"
)

func save(s *image.Store, to string, o SaveOptions, names ...string) error {
	o.Limits = layers.DefaultLimits()
	return Save(context.Background(), s, names, Output{Path: to}, o)
}

// filled is a store with two images, of which one has two names, and an index.
func filled(t *testing.T) *image.Store {
	t.Helper()
	s, p := newStore(t), newPacker(t)
	a := p.manifest(arch(), layer(t, "a", "1"))
	x := image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: []image.Descriptor{
		p.manifest(arch(), layer(t, "a", "here")), p.manifest(other(), layer(t, "a", "far")),
	}}
	index := p.blob(image.MediaIndex, asJSON(t, x))
	p.index(called(a, "one:1"), called(p.manifest(arch(), layer(t, "a", "2")), "example.test/two:2"), called(a, "one:alias"), called(index, "many:1"))
	if _, err := load(t, s, p.bytes(), Options{AllPlatforms: true}); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAgain: what was saved is loaded and saved to the same bytes, whatever the form and the order of the names.
func TestAgain(t *testing.T) {
	t.Parallel()
	s, dir := filled(t), t.TempDir()
	all := []string{"one:1", "many:1", "example.test/two:2", "one:alias"}
	first := filepath.Join(dir, "first.tar")
	if err := save(s, first, SaveOptions{}, all...); err != nil {
		t.Fatal(err)
	}
	if err := save(s, filepath.Join(dir, "folder")+"/", SaveOptions{}, all...); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"first.tar", "folder"} {
		there := newStore(t)
		if _, err := Load(context.Background(), there, Input{Path: filepath.Join(dir, from)}, Options{Build: limits(), AllPlatforms: true}); err != nil {
			t.Fatal(err)
		}
		if a, b := names(t, s), names(t, there); a != b {
			t.Errorf("%s: the names are %q, and were %q", from, b, a)
		}
		again := filepath.Join(dir, "again.tar")
		if err := save(there, again, SaveOptions{}, "example.test/two:2", "one:alias", "one:1", "many:1"); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(again); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: the second archive is another one: %v", from, err)
		}
	}
}

// TestIndex: an index is saved with those of its images that are here, or the one that is asked for; its digest stays.
func TestIndex(t *testing.T) {
	t.Parallel()
	s, dir := filled(t), t.TempDir()
	whole := filepath.Join(dir, "whole.tar")
	if err := save(s, whole, SaveOptions{}, "many:1"); err != nil {
		t.Fatal(err)
	}
	one := newStore(t)
	list, err := Load(context.Background(), one, Input{Path: whole}, Options{Build: limits()})
	if err != nil || len(list) != 1 || !list[0].Target.IsIndex() {
		t.Fatalf("%+v, %v", list, err)
	}
	part := filepath.Join(dir, "part.tar")
	if err := save(one, part, SaveOptions{}, "many:1"); err != nil {
		t.Fatal(err)
	}
	if err := save(one, part, SaveOptions{Platform: other()}, "many:1"); !errors.Is(err, image.ErrNotHere) {
		t.Errorf("a platform that is not here: %v", err)
	}
	two := newStore(t)
	got, err := Load(context.Background(), two, Input{Path: part}, Options{Build: limits()})
	if err != nil || len(got) != 1 || got[0].Target.Digest != list[0].Target.Digest || got[0].Manifest != list[0].Manifest {
		t.Errorf("%+v, %v", got, err)
	}
	if err := save(s, part, SaveOptions{Platform: other()}, "many:1"); err != nil {
		t.Fatal(err)
	}
	three := newStore(t)
	got, err = Load(context.Background(), three, Input{Path: part}, Options{Build: limits(), AllPlatforms: true})
	if err != nil || len(got) != 1 || got[0].Platform.Architecture != other() {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestIndexBomb: of four indexes each has the next one a thousand times. It is an image like any other, and saved as fast.
func TestIndexBomb(t *testing.T) {
	t.Parallel()
	s, p := newStore(t), newPacker(t)
	d := p.manifest(arch(), layer(t, "a", "1"))
	for range 4 {
		platform := d.Platform
		d = p.blob(image.MediaIndex, asJSON(t, image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: slices.Repeat([]image.Descriptor{d}, 1000)}))
		d.Platform = platform
	}
	p.index(called(d, "bomb:1"))
	if _, err := load(t, s, p.bytes(), Options{}); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "bomb.tar")
	if err := save(s, to, SaveOptions{}, "bomb:1"); err != nil {
		t.Fatal(err)
	}
	there := newStore(t)
	if _, err := Load(context.Background(), there, Input{Path: to}, Options{Build: limits()}); err != nil || names(t, there) != names(t, s) {
		t.Errorf("%v, %q", err, names(t, there))
	}
}

// TestOldDocker: docker's archive alone has names as docker gives them, and what is loaded from it is the same file system.
func TestOldDocker(t *testing.T) {
	t.Parallel()
	s := filled(t)
	file := filepath.Join(t.TempDir(), "docker.tar")
	if err := save(s, file, SaveOptions{Docker: true}, "one:1", "one:alias", "many:1"); err != nil {
		t.Fatal(err)
	}
	there := newStore(t)
	list, err := Load(context.Background(), there, Input{Path: file}, Options{Build: limits()})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(t, there); got != "many:1 one:1 one:alias" {
		t.Errorf("the names are %q", got)
	}
	for _, l := range list {
		e, err := s.Entry(l.Ref)
		if err != nil {
			t.Fatal(err)
		}
		d, err := e.Manifest(image.ThisPlatform())
		if err != nil {
			t.Fatal(err)
		}
		a, errA := s.Record(d)
		b, errB := there.Record(l.Manifest)
		if errA != nil || errB != nil || a.Verity != b.Verity {
			t.Errorf("%s: %v, %v; the file systems differ", l.Ref, errA, errB)
		}
	}
}

// TestDamaged: a blob that has changed in the store fails the save, which leaves what was there before and nothing else.
func TestDamaged(t *testing.T) {
	t.Parallel()
	s, dir := filled(t), t.TempDir()
	e, err := s.Find("one:1")
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Manifest(e.Target.Digest)
	if err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(s.Dir(), "blobs/sha256", m.Layers[0].Digest.Hex())
	data, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	file := filepath.Join(dir, "a.tar")
	if err := os.WriteFile(file, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		to string
		o  SaveOptions
	}{{file, SaveOptions{}}, {file, SaveOptions{Docker: true}}, {filepath.Join(dir, "folder") + "/", SaveOptions{}}} {
		if err := os.WriteFile(blob, data, 0o600); err != nil { // what is found to be damaged is set aside
			t.Fatal(err)
		}
		var corrupt *image.CorruptError
		if err := save(s, c.to, c.o, "one:1"); !errors.As(err, &corrupt) || !strings.Contains(err.Error(), m.Layers[0].Digest.Hex()) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "before" {
		t.Errorf("the file has %.20q, %v", data, err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("the folder has %v", list)
	}
}

// TestOutputs: where an archive may go.
func TestOutputs(t *testing.T) {
	t.Parallel()
	s, dir := filled(t), t.TempDir()
	if err := save(s, dir, SaveOptions{}, "one:1"); err == nil || !strings.Contains(err.Error(), "slash") {
		t.Errorf("a folder without a slash: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := save(s, filepath.Join(dir, "empty")+"/", SaveOptions{}, "one:1"); err != nil {
		t.Errorf("an empty folder: %v", err)
	}
	if err := save(s, filepath.Join(dir, "empty")+"/", SaveOptions{}, "one:1"); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a folder with something in it: %v", err)
	}
	if err := save(s, filepath.Join(dir, "none/a.tar"), SaveOptions{}, "one:1"); err == nil {
		t.Error("a folder that is not there")
	}
	if err := save(s, filepath.Join(dir, "a.tar"), SaveOptions{}, "one:1", "nothing:1"); !errors.Is(err, image.ErrNotHere) {
		t.Errorf("an image that is not here: %v", err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("the folder has %v", list)
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := Save(context.Background(), s, []string{"one:1"}, Output{File: out}, SaveOptions{}); err != nil {
			t.Error(err)
		}
		_ = out.Close()
	}()
	r := tar.NewReader(in)
	if h, err := r.Next(); err != nil || h.Name != "oci-layout" {
		t.Errorf("through a pipe: %v", err)
	}
	_, _ = io.Copy(io.Discard, in)
	_ = in.Close()
}
