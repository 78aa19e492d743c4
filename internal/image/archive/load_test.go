package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"brig/internal/image"
	"brig/internal/image/build"

	"github.com/klauspost/compress/zstd"
)

// TestNames: what images of an archive are called.
func TestNames(t *testing.T) {
	t.Parallel()
	l, l2 := layer(t, "a", "1"), layer(t, "a", "2")
	docker := func(p *packer, tags ...string) {
		p.text("layer.tar", string(l))
		p.file("config.json", configOf(t, arch(), l))
		p.json("manifest.json", []dockerImage{{Config: "config.json", RepoTags: tags, Layers: []string{"layer.tar"}}})
	}
	for _, c := range []struct {
		name string
		fill func(p *packer)
		o    Options
		want string
	}{
		{"whole", func(p *packer) { p.index(called(p.manifest(arch(), l), "example.test/a:1")) }, Options{}, "example.test/a:1"},
		{"containerd's counts more", func(p *packer) {
			d := called(p.manifest(arch(), l), "1")
			d.Annotations[annotationName] = "docker.io/library/a:1"
			p.index(d)
		}, Options{}, "a:1"},
		{"a tag alone is no name", func(p *packer) { p.index(called(p.manifest(arch(), l), "latest")) }, Options{}, "localhost/unnamed@"},
		{"no reference", func(p *packer) { p.index(called(p.manifest(arch(), l), "A/../b:c")) }, Options{}, "localhost/unnamed@"},
		{"given", func(p *packer) { p.index(called(p.manifest(arch(), l), "a:1")) }, Options{Name: "b"}, "b:latest"},
		{"given to one of two names", func(p *packer) {
			d := p.manifest(arch(), l)
			p.index(called(d, "a:1"), called(d, "a:2"))
		}, Options{Name: "b"}, "b:latest"},
		{"two of one image", func(p *packer) {
			d := p.manifest(arch(), l)
			p.index(called(d, "a:1"), d, called(d, "a:2"))
		}, Options{}, "a:1 a:2"},
		{"two", func(p *packer) {
			p.index(called(p.manifest(arch(), l), "a:1"), called(p.manifest(arch(), l2), "a:2"))
		}, Options{}, "a:1 a:2"},
		{"two of a name, by platform", func(p *packer) {
			p.index(called(p.manifest(other(), l2), "a:1"), called(p.manifest(arch(), l), "a:1"))
		}, Options{}, "a:1"},
		{"an artifact is no image", func(p *packer) {
			m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Config: p.blob("application/vnd.oci.empty.v1+json", []byte("{}"))}
			p.index(called(p.blob(image.MediaManifest, asJSON(t, m)), "a:sig"), called(p.manifest(arch(), l), "a:1"))
		}, Options{}, "a:1"},
		{"docker", func(p *packer) { docker(p, "a:1", "b/c:2") }, Options{}, "b/c:2 a:1"},
		{"docker without", func(p *packer) { docker(p) }, Options{}, "localhost/unnamed@"},
		{"docker given", func(p *packer) { docker(p, "a:1", "a:2") }, Options{Name: "c:3"}, "c:3"},
		{"platform of a manifest", func(p *packer) { p.index(called(p.manifest(other(), l), "a:1")) }, Options{Platform: "linux/" + other()}, "a:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, p := newStore(t), newPacker(t)
			c.fill(p)
			list, err := load(t, s, p.bytes(), c.o)
			if err != nil {
				t.Fatal(err)
			}
			if got := names(t, s); got != c.want && !(strings.HasSuffix(c.want, "@") && got == c.want+string(list[0].Target.Digest)) {
				t.Errorf("the names are %q, wanted %q", got, c.want)
			}
			clean(t, s)
		})
	}
}

// TestPlatforms: of an index one image is taken, or all.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	p := newPacker(t)
	index := image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: []image.Descriptor{
		p.manifest(other(), layer(t, "a", "far")), p.manifest(arch(), layer(t, "a", "here")),
		{MediaType: image.MediaManifest, Digest: image.DigestOf([]byte("elsewhere")), Size: 9, Platform: &image.Platform{OS: "plan9", Architecture: "mips"}},
	}}
	p.index(called(p.blob(image.MediaIndex, asJSON(t, index)), "a:1"))
	data := p.bytes()
	for _, c := range []struct {
		o    Options
		want int
		err  string
	}{
		{Options{}, 1, ""}, {Options{AllPlatforms: true}, 2, ""}, {Options{Platform: "linux/" + other()}, 1, ""},
		{Options{Platform: "plan9/mips"}, 0, "lacks the manifest"}, {Options{Platform: "linux/mips64"}, 0, "not built for linux/mips64"},
	} {
		s := newStore(t)
		list, err := load(t, s, data, c.o)
		if len(list) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: %d images, %v", c.o, len(list), err)
		}
		if c.want == 0 {
			continue
		}
		e, err := s.Find("a:1")
		if err != nil || len(e.Platforms) != c.want || !e.Target.IsIndex() {
			t.Errorf("%+v: the entry is %+v, %v", c.o, e, err)
		}
	}
}

// TestInputs: the same archive as a folder, a tar, a compressed one, from a file and from a pipe, is the same image.
func TestInputs(t *testing.T) {
	t.Parallel()
	p := newPacker(t)
	p.index(called(p.manifest(arch(), layer(t, "a", "data")), "a:1"))
	plain := p.bytes()
	var zipped, packed bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(plain)
	_ = z.Close()
	e, _ := zstd.NewWriter(&packed)
	_, _ = e.Write(plain)
	_ = e.Close()
	dir := filepath.Join(t.TempDir(), "layout")
	unpack(t, plain, dir)
	var first image.Digest
	check := func(what string, in Input) {
		s := newStore(t)
		list, err := Load(context.Background(), s, in, Options{Build: limits()})
		if err != nil || len(list) != 1 {
			t.Errorf("%s: %v", what, err)
			return
		}
		if first == "" {
			first = list[0].Manifest
		}
		if list[0].Manifest != first || names(t, s) != "a:1" {
			t.Errorf("%s: %+v", what, list)
		}
		clean(t, s)
	}
	check("folder", Input{Path: dir})
	for what, data := range map[string][]byte{"plain": plain, "gzip": zipped.Bytes(), "zstd": packed.Bytes()} {
		name := written(t, data)
		check(what, Input{Path: name})
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		check(what+" as standard input", Input{File: f})
		_ = f.Close()
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = out.Write(data); _ = out.Close() }()
		check(what+" through a pipe", Input{File: in})
		_ = in.Close()
	}
}

// TestDocker: links between layers, as docker writes them, layers that are compressed, and the same manifest each time.
func TestDocker(t *testing.T) {
	t.Parallel()
	l1, l2 := layer(t, "a", "1"), layer(t, "b", "2")
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(l2)
	_ = z.Close()
	config := configOf(t, arch(), l1, l2, l1, l1)
	p := newPacker(t)
	p.file("aa/layer.tar", l1)
	p.file("bb/layer.tar", zipped.Bytes())
	p.link(tar.TypeSymlink, "cc/layer.tar", "../aa/layer.tar")
	p.link(tar.TypeLink, "dd/layer.tar", "aa/layer.tar")
	p.file(image.DigestOf(config).Hex()+".json", config)
	p.json("manifest.json", []dockerImage{{Config: image.DigestOf(config).Hex() + ".json", RepoTags: []string{"a:1"},
		Layers: []string{"aa/layer.tar", "bb/layer.tar", "cc/layer.tar", "dd/layer.tar"}}})
	data := p.bytes()
	var digests []image.Digest
	for range 2 {
		s := newStore(t)
		list, err := load(t, s, data, Options{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Manifest(list[0].Manifest)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{image.MediaLayer, image.MediaLayer + "+gzip", image.MediaLayer, image.MediaLayer}
		for i, l := range m.Layers {
			if l.MediaType != want[i] {
				t.Errorf("layer %d is %s", i, l.MediaType)
			}
		}
		digests = append(digests, list[0].Manifest)
	}
	if digests[0] != digests[1] {
		t.Errorf("two loads gave %q", digests)
	}
}

// TestAccept: who refuses a name is obeyed, and no image of the archive has one then.
func TestAccept(t *testing.T) {
	t.Parallel()
	s, p := newStore(t), newPacker(t)
	p.index(called(p.manifest(arch(), layer(t, "a", "1")), "a:1"), called(p.manifest(arch(), layer(t, "a", "2")), "b:2"))
	refused := errors.New("nobody vouches for it")
	_, err := load(t, s, p.bytes(), Options{Accept: func(ref image.Ref, target, manifest image.Digest) error {
		if ref.String() == "b:2" && target == manifest {
			return refused
		}
		return nil
	}})
	if !errors.Is(err, refused) || names(t, s) != "" {
		t.Errorf("%v; the store has %q", err, names(t, s))
	}
}

// TestInterrupted: whoever interrupts a load, at whatever it is, gets it to end, and no image has a name.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	p := newPacker(t)
	d := p.manifest(arch(), layer(t, "a", strings.Repeat("data", 1<<20)))
	p.index(called(d, "a:1"))
	file := written(t, p.bytes())
	stopped := errors.New("interrupted")
	ended := make(chan struct{}) // nobody waits for what is unpacked
	for what, arrange := range map[string]func(o *Options, stop func()){
		"before":               func(_ *Options, stop func()) { stop() },
		"while it comes":       func(o *Options, stop func()) { o.Progress = func(int64, int64) { stop() } },
		"while it is unpacked": func(o *Options, stop func()) { o.Build.Layer = func(image.Digest, int64) { stop(); <-ended } },
	} {
		s := newStore(t)
		ctx, cancel := context.WithCancelCause(context.Background())
		o := Options{Build: limits()}
		arrange(&o, func() { cancel(stopped) })
		if _, err := Load(ctx, s, Input{Path: file}, o); !errors.Is(err, stopped) {
			t.Errorf("%s: %v", what, err)
		}
		if got := names(t, s); got != "" {
			t.Errorf("%s: the store has %q", what, got)
		}
		if what != "while it is unpacked" {
			continue
		}
		close(ended)
		// Whoever wants it next waits until it is made, or makes it.
		if _, err := build.Root(s, d.Digest, limits()); err != nil {
			t.Error(err)
		}
	}
}

// TestOldConfig: a configuration that says nothing of its platform is of this machine's.
func TestOldConfig(t *testing.T) {
	t.Parallel()
	s, p := newStore(t), newPacker(t)
	l := layer(t, "a", "1")
	p.file("l.tar", l)
	p.text("c.json", `{"rootfs":{"type":"layers","diff_ids":["`+string(image.DigestOf(l))+`"]}}`)
	p.json("manifest.json", []dockerImage{{Config: "c.json", RepoTags: []string{"a:1"}, Layers: []string{"l.tar"}}})
	if _, err := load(t, s, p.bytes(), Options{}); err != nil {
		t.Fatal(err)
	}
	e, err := s.Find("a:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Manifest(image.ThisPlatform()); err != nil {
		t.Error(err)
	}
}

// TestMemory: a large layer goes through in memory that has nothing to do with its size. It runs beside no other test: what is
// counted is all that the process allocates.
func TestMemory(t *testing.T) {
	size := int64(192 << 20)
	if os.Getenv("BRIG_TEST_LONG") == "1" {
		size = 2 << 30
	}
	head := func(w io.Writer, name string, size int64) *tar.Writer {
		t := tar.NewWriter(w)
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
			panic(err)
		}
		return t
	}
	// The layer is one file of noise without end; its digest is computed on the way.
	stream := func(w io.Writer) error {
		t := head(w, "big", size)
		if _, err := io.CopyN(t, &noise{}, size); err != nil {
			return err
		}
		return t.Close()
	}
	layerSize, sum := counter(0), sha256.New()
	if err := stream(io.MultiWriter(sum, &layerSize)); err != nil {
		t.Fatal(err)
	}
	config := []byte(fmt.Sprintf(`{"os":"linux","architecture":%q,"rootfs":{"type":"layers","diff_ids":[%q]}}`, arch(), image.DigestOfHash(sum)))
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	go func() {
		w := head(out, "layer.tar", int64(layerSize))
		_ = stream(w)
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "c.json", Mode: 0o644, Size: int64(len(config))})
		_, _ = w.Write(config)
		m := asJSON(t, []dockerImage{{Config: "c.json", RepoTags: []string{"big:1"}, Layers: []string{"layer.tar"}}})
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Mode: 0o644, Size: int64(len(m))})
		_, _ = w.Write(m)
		_ = w.Close()
		_ = out.Close()
	}()
	store := newStore(t)
	o := limits()
	o.Limits.Size = 2*size + 1<<20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Load(context.Background(), store, Input{File: in}, Options{Build: o}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "saved.tar")
	if err := Save(context.Background(), store, []string{"big:1"}, Output{Path: file}, SaveOptions{Limits: o.Limits}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	const most = 64 << 20
	if got := after.TotalAlloc - before.TotalAlloc; got > most {
		t.Errorf("a layer of %d bytes took %d bytes of memory; %d are the most", layerSize, got, most)
	} else {
		t.Logf("a layer of %d bytes took %d bytes of memory", layerSize, got)
	}
}

// noise is bytes that no block of repeats.
type noise struct{ n uint64 }

func (r *noise) Read(p []byte) (int, error) {
	for i := range p {
		r.n += 0x9e3779b97f4a7c15
		p[i] = byte(r.n >> 32)
	}
	return len(p), nil
}
