package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brig/internal/image"

	"golang.org/x/sys/unix"
)

// TestHostile: archives that mean harm, or are broken, are refused with a reason. Nothing of them gets a name.
func TestHostile(t *testing.T) {
	t.Parallel()
	good := layer(t, "a", "data")
	config := configOf(t, arch(), good)
	docker := func(p *packer, d dockerImage) {
		p.file("c.json", config)
		p.file("l.tar", good)
		p.json("manifest.json", []dockerImage{d})
	}
	// indexed is a layout whose manifest a test has changed.
	indexed := func(p *packer, change func(m *image.Manifest)) {
		m := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Config: p.blob(image.MediaConfig, config), Layers: []image.Descriptor{p.blob(image.MediaLayer, good)}}
		change(&m)
		p.index(called(p.blob(image.MediaManifest, asJSON(t, m)), "a:1"))
	}
	lie := func(p *packer, d image.Descriptor, data string) image.Descriptor {
		p.text(blobName(d.Digest), data)
		return d
	}
	for _, c := range []struct {
		name string
		fill func(p *packer)
		says string
	}{
		{"empty", func(*packer) {}, "it is empty"},
		{"a root file system", func(p *packer) { p.text("etc/passwd", "") }, "brig image import"},
		{"before 1.10", func(p *packer) { p.text("repositories", "{}") }, "older than 1.10"},
		{"no images", func(p *packer) { p.index() }, "no image"},
		{"names without end", func(p *packer) {
			for i := range 70 {
				p.text(strings.Repeat("n", 1_000_000)+fmt.Sprint(i), "")
			}
		}, "more than 64 MiB together"},
		{"layers without end", func(p *packer) {
			p.file("c.json", configOf(t, arch(), slices.Repeat([][]byte{good}, 1001)...))
			p.file("l.tar", good)
			p.json("manifest.json", []dockerImage{{Config: "c.json", Layers: slices.Repeat([]string{"l.tar"}, 1001)}})
		}, "more than 1000 are refused"},
		{"null images", func(p *packer) { p.text("oci-layout", `{"imageLayoutVersion":"1.0.0"}`); p.text("index.json", "null") }, "index.json"},
		{"docker's null", func(p *packer) { p.text("manifest.json", "[null]") }, "no configuration"},
		{"docker's none", func(p *packer) { p.text("manifest.json", "[]") }, "0 images"},
		{"layout of the future", func(p *packer) {
			p.index()
			p.text("x/oci-layout", "")
			p.text("./oci-layout", `{"imageLayoutVersion":"2.0.0"}`)
		}, "twice"},
		{"layout version", func(p *packer) {
			p.text("oci-layout", `{"imageLayoutVersion":"2.0.0"}`)
			p.json("index.json", image.Index{SchemaVersion: 2, Manifests: []image.Descriptor{}})
		}, "2.0.0"},
		{"no layout version", func(p *packer) { p.json("index.json", image.Index{SchemaVersion: 2, Manifests: []image.Descriptor{}}) }, "oci-layout"},
		{"two of one name", func(p *packer) { p.text("index.json", "{}"); p.text("./index.json", "[]") }, `"index.json" twice`},
		{"a file and a link of one name", func(p *packer) { p.text("index.json", "{}"); p.link(tar.TypeSymlink, "index.json", "x") }, `"index.json" twice`},
		{"index too large", func(p *packer) {
			p.text("index.json", strings.Repeat(" ", image.MaxManifest+1))
			p.text("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
		}, "the most that is read"},
		{"docker's too large", func(p *packer) { p.text("manifest.json", strings.Repeat(" ", image.MaxManifest+1)) }, "the most that is read"},
		{"nested a million deep", func(p *packer) { p.text("manifest.json", strings.Repeat("[", 1<<20)) }, "not valid"},
		{"both a manifest and an index", func(p *packer) {
			p.index(called(p.blob(image.MediaManifest, []byte(`{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}`)), "a:1"))
		}, "CVE-2021-41190"},
		{"an index that says it is a manifest", func(p *packer) {
			p.index(called(p.blob(image.MediaManifest, []byte(`{"schemaVersion":2,"manifests":[]}`)), "a:1"))
		}, "declared"},
		{"manifest that lies", func(p *packer) { p.index(called(lie(p, describe(image.MediaManifest, []byte("x")), "y"), "a:1")) }, "has the digest"},
		{"manifest of another size", func(p *packer) {
			d := p.manifest(arch(), good)
			d.Size++
			p.index(d)
		}, "were announced"},
		{"manifest of a negative size", func(p *packer) {
			d := p.manifest(arch(), good)
			d.Size = -1
			p.index(d)
		}, "-1 bytes"},
		{"no manifest", func(p *packer) { p.index(called(describe(image.MediaManifest, []byte("x")), "a:1")) }, "lacks the manifest"},
		{"digest that climbs", func(p *packer) {
			p.text("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
			p.text("index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"`+image.MediaManifest+`","digest":"sha256:../../../etc/passwd","size":1}]}`)
		}, "no digest"},
		{"no layer", func(p *packer) {
			indexed(p, func(m *image.Manifest) { m.Layers[0] = describe(image.MediaLayer, []byte("nowhere")) })
		}, "lacks"},
		{"layer that lies", func(p *packer) {
			indexed(p, func(m *image.Manifest) { m.Layers[0] = lie(p, describe(image.MediaLayer, []byte("x")), "y") })
		}, "has the digest"},
		{"layer of another size", func(p *packer) { indexed(p, func(m *image.Manifest) { m.Layers[0].Size++ }) }, "announced"},
		{"layer with another diffID", func(p *packer) {
			indexed(p, func(m *image.Manifest) { m.Layers[0] = p.blob(image.MediaLayer, layer(t, "a", "other")) })
		}, "unpacks to"},
		{"foreign layer", func(p *packer) { indexed(p, func(m *image.Manifest) { m.Layers[0].URLs = []string{"http://a/"} }) }, "foreign"},
		{"config of 100 MB", func(p *packer) { indexed(p, func(m *image.Manifest) { m.Config.Size = 100 << 20 }) }, "configuration"},
		{"layer out of the root", func(p *packer) {
			l := layer(t, "../escaped", "x")
			m := image.Manifest{SchemaVersion: 2, Config: p.blob(image.MediaConfig, configOf(t, arch(), l)), Layers: []image.Descriptor{p.blob(image.MediaLayer, l)}}
			p.index(called(p.blob(image.MediaManifest, asJSON(t, m)), "a:1"))
		}, "../escaped"},
		{"indexes without end", func(p *packer) {
			d := p.manifest(arch(), good)
			for range 10 {
				platform := d.Platform
				d = p.blob(image.MediaIndex, asJSON(t, image.Index{SchemaVersion: 2, Manifests: []image.Descriptor{d}}))
				d.Platform = platform
			}
			p.index(called(d, "a:1"))
		}, "lie in one another"},
		{"another platform", func(p *packer) {
			x := image.Index{SchemaVersion: 2, Manifests: []image.Descriptor{p.manifest(other(), good)}}
			p.index(called(p.blob(image.MediaIndex, asJSON(t, x)), "a:1"))
		}, "not built for"},
		{"docker's config outside", func(p *packer) { docker(p, dockerImage{Config: "../../../../etc/passwd", Layers: []string{"l.tar"}}) }, "leads out of the archive"},
		{"docker's config absolute", func(p *packer) { docker(p, dockerImage{Config: "/etc/passwd", Layers: []string{"l.tar"}}) }, "leads out of the archive"},
		{"docker's layer outside", func(p *packer) { docker(p, dockerImage{Config: "c.json", Layers: []string{"../l.tar"}}) }, "leads out of the archive"},
		{"docker's layer is not there", func(p *packer) { docker(p, dockerImage{Config: "c.json", Layers: []string{"m.tar"}}) }, `lacks the layer "m.tar"`},
		{"docker's layer is a link out", func(p *packer) {
			p.link(tar.TypeSymlink, "out", "../../../../../etc/passwd")
			docker(p, dockerImage{Config: "c.json", Layers: []string{"out"}})
		}, "link out of the archive"},
		{"docker's layer is an absolute link", func(p *packer) {
			p.link(tar.TypeSymlink, "out", "/etc/passwd")
			docker(p, dockerImage{Config: "c.json", Layers: []string{"out"}})
		}, "link out of the archive"},
		{"docker's layer is a hard link out", func(p *packer) {
			p.link(tar.TypeLink, "out", "../etc/passwd")
			docker(p, dockerImage{Config: "c.json", Layers: []string{"out"}})
		}, "link out of the archive"},
		{"links in a ring", func(p *packer) {
			p.link(tar.TypeSymlink, "x", "y")
			p.link(tar.TypeSymlink, "y", "x")
			docker(p, dockerImage{Config: "c.json", Layers: []string{"x"}})
		}, "leads to no file"},
		{"docker's layer is a device", func(p *packer) {
			p.entry(tar.Header{Typeflag: tar.TypeChar, Name: "zero", Devmajor: 1, Devminor: 5}, nil)
			docker(p, dockerImage{Config: "c.json", Layers: []string{"zero"}})
		}, "lacks the layer"},
		{"more layers than diffIDs", func(p *packer) { docker(p, dockerImage{Config: "c.json", Layers: []string{"l.tar", "l.tar"}}) }, "2 layers"},
		{"fewer layers than diffIDs", func(p *packer) { docker(p, dockerImage{Config: "c.json"}) }, "0 layers"},
		{"another layer than the config's", func(p *packer) {
			p.file("other.tar", layer(t, "a", "other"))
			docker(p, dockerImage{Config: "c.json", Layers: []string{"other.tar"}})
		}, "has the digest"},
		{"docker's config under another digest", func(p *packer) {
			p.file(strings.Repeat("0", 64)+".json", config)
			docker(p, dockerImage{Config: strings.Repeat("0", 64) + ".json", Layers: []string{"l.tar"}})
		}, "has the digest"},
		{"docker's foreign layer", func(p *packer) {
			docker(p, dockerImage{Config: "c.json", Layers: []string{"l.tar"}, LayerSources: map[image.Digest]image.Descriptor{
				image.DigestOf(good): {MediaType: image.MediaDockerLayer, Digest: image.DigestOf(good), URLs: []string{"http://a/"}},
			}})
		}, "foreign"},
		{"docker's config too large", func(p *packer) {
			p.text("big.json", strings.Repeat(" ", image.MaxConfig+1))
			docker(p, dockerImage{Config: "big.json", Layers: []string{"l.tar"}})
		}, "the most that is read"},
		{"with holes", func(p *packer) {
			p.entry(tar.Header{Typeflag: tar.TypeGNUSparse, Name: "manifest.json"}, nil)
		}, "holes"},
		{"an escape for the terminal", func(p *packer) {
			docker(p, dockerImage{Config: "c.json", Layers: []string{"\x1b[2Jl.tar"}})
		}, `\x1b[2J`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, p := newStore(t), newPacker(t)
			if c.name == "with holes" { // which the standard library does not write
				p.buf.Write(sparseHeader("manifest.json"))
			} else {
				c.fill(p)
			}
			_, err := load(t, s, p.bytes(), Options{})
			switch {
			case err == nil:
				t.Errorf("it was loaded as %s", names(t, s))
			case !strings.Contains(err.Error(), c.says):
				t.Errorf("the error does not say %q: %v", c.says, err)
			case strings.ContainsAny(err.Error(), "\x1b\x00"):
				t.Errorf("the terminal gets what the archive says: %q", err)
			}
			if got := names(t, s); got != "" {
				t.Errorf("the store has %q", got)
			}
			clean(t, s)
		})
	}
}

// sparseHeader is an empty file in GNU tar's old form of files with holes.
func sparseHeader(name string) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00")
	b[156] = tar.TypeGNUSparse
	copy(b[257:], "ustar  \x00")
	copy(b[483:], "00000000000\x00")
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// TestBroken: what is no archive, or ends too early, is an error and leaves nothing.
func TestBroken(t *testing.T) {
	t.Parallel()
	p := newPacker(t)
	p.index(called(p.manifest(arch(), layer(t, "a", strings.Repeat("data", 5000))), "a:1"))
	whole := p.bytes()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(whole)
	_ = z.Close()
	for what, data := range map[string][]byte{
		"text": []byte(strings.Repeat("no archive ", 500)), "nothing": nil, "cut": whole[:len(whole)/2], "cut gzip": zipped.Bytes()[:zipped.Len()/2],
		"xz": []byte("\xfd7zXZ\x00 and so on"), "bad gzip": append([]byte("\x1f\x8b"), make([]byte, 100)...),
	} {
		s := newStore(t)
		if _, err := load(t, s, data, Options{}); err == nil {
			t.Errorf("%s was loaded", what)
		}
		if got := names(t, s); got != "" {
			t.Errorf("%s: the store has %q", what, got)
		}
		clean(t, s)
	}
}

// TestBounds: what is too large is refused before it fills the disk.
func TestBounds(t *testing.T) {
	t.Parallel()
	p := newPacker(t)
	p.index(called(p.manifest(arch(), layer(t, "a", strings.Repeat("\x00", 1<<20))), "a:1"))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	data := p.bytes()
	_, _ = z.Write(data)
	_ = z.Close()
	for what, data := range map[string][]byte{"plain": data, "gzip": zipped.Bytes()} {
		o := limits()
		o.Limits.Size = 1 << 19
		if _, err := load(t, newStore(t), data, Options{Build: o}); err == nil || !strings.Contains(err.Error(), "bytes than it may") {
			t.Errorf("%s: %v", what, err)
		}
	}
	p = newPacker(t)
	for range maxEntries + 1 {
		p.entry(tar.Header{Typeflag: tar.TypeDir, Name: "d/"}, nil)
	}
	if _, err := load(t, newStore(t), p.bytes(), Options{}); err == nil || !strings.Contains(err.Error(), "entries") {
		t.Errorf("entries: %v", err)
	}
}

// FuzzLoad: no bytes bring the loader down, and what has a name afterwards is whole.
func FuzzLoad(f *testing.F) {
	p := newPacker(f)
	p.index(called(p.manifest(arch(), layer(f, "a", "1")), "a:1"))
	f.Add(p.bytes())
	p = newPacker(f)
	l := layer(f, "a", "1")
	p.file("l/layer.tar", l)
	p.link(tar.TypeSymlink, "m/layer.tar", "../l/layer.tar")
	p.file("c.json", configOf(f, arch(), l, l))
	p.json("manifest.json", []dockerImage{{Config: "c.json", RepoTags: []string{"a:1"}, Layers: []string{"l/layer.tar", "m/layer.tar"}}})
	f.Add(p.bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newStore(t)
		o := limits()
		o.Limits.Size = 1 << 20
		list, err := load(t, s, data, Options{Build: o, AllPlatforms: len(data)%2 == 0})
		if err != nil {
			if got := names(t, s); got != "" {
				t.Errorf("%v, and the store has %q", err, got)
			}
			return
		}
		for _, l := range list {
			if _, err := s.Record(l.Manifest); err != nil {
				t.Error(err)
			}
			if _, err := s.Entry(l.Ref); err != nil {
				t.Error(err)
			}
		}
		clean(t, s)
	})
}

// TestHostileFolder: links of a folder lead nowhere outside it, and what would have a reader wait does not.
func TestHostileFolder(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	p := newPacker(t)
	d := p.manifest(arch(), layer(t, "a", "1"))
	p.index(called(d, "a:1"))
	unpack(t, p.bytes(), outside)
	blob := blobName(d.Digest)
	for what, arrange := range map[string]func(dir string) error{
		"a link to a folder outside": func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, "blobs")), os.Symlink(filepath.Join(outside, "blobs"), filepath.Join(dir, "blobs")))
		},
		"a link to a file outside": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, blob)), os.Symlink(filepath.Join(outside, blob), filepath.Join(dir, blob)))
		},
		"a FIFO": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, blob)), unix.Mkfifo(filepath.Join(dir, blob), 0o600))
		},
		"a folder": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, blob)), os.Mkdir(filepath.Join(dir, blob), 0o700))
		},
		"an index that is a FIFO": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "index.json")), unix.Mkfifo(filepath.Join(dir, "index.json"), 0o600))
		},
	} {
		s, dir := newStore(t), t.TempDir()
		unpack(t, p.buf.Bytes(), dir)
		if err := arrange(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(context.Background(), s, Input{Path: dir}, Options{Build: limits()}); err == nil || names(t, s) != "" {
			t.Errorf("%s was followed", what)
		}
	}
}

// unpack writes the files of an archive into a folder.
func unpack(t *testing.T, data []byte, dir string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for h, err := r.Next(); err == nil; h, err = r.Next() {
		data, _ := io.ReadAll(r)
		at := filepath.Join(dir, h.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}
