package registry

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"brig/internal/image"
)

// TestPull: everything is here afterwards, and a second pull is one request.
func TestPull(t *testing.T) {
	t.Parallel()
	f, s := newFake(t), newStore(t)
	p := f.push("1", "amd64", 10, 2<<20, 300)
	var expected, got atomic.Int64
	c := newClient(t, Options{Expect: func(n int64) { expected.Add(n) }, Got: func(n int64) { got.Add(n) }, Version: "9.9"})
	f.do(func(_ http.ResponseWriter, r *http.Request) bool {
		if ua := r.Header.Get("User-Agent"); ua != "brig/9.9" {
			t.Errorf("User-Agent: %s", ua)
		}
		return false
	})
	out, err := pullFor(t, c, s, f.ref(":1"))
	if err != nil {
		t.Fatal(err)
	}
	whole(t, s, p)
	sum := int64(10 + 2<<20 + 300 + len(p.config))
	if out.Manifest != p.digest || out.Target.Digest != p.digest || out.Platform != amd64 || out.Fetched != sum || expected.Load() != sum || got.Load() != sum {
		t.Errorf("%+v; expected %d, got %d, want %d", out, expected.Load(), got.Load(), sum)
	}
	if err := s.Tag(f.ref(":1"), out.Target, out.Platform, out.Manifest); err != nil {
		t.Fatal(err)
	}
	f.do(nil)
	if out, err = pullFor(t, newClient(t, Options{}), s, f.ref(":1")); err != nil || out.Fetched != 0 || out.Manifest != p.digest {
		t.Errorf("again: %+v, %v", out, err)
	}
	if f.count("HEAD") != 1 || f.count("blobs") != 0 || f.count("GET", "manifests") != 0 {
		t.Errorf("again: %q", f.asked)
	}
	// The tag moves: what is new is fetched.
	f.do(nil)
	p = f.push("1", "amd64", 10, 2<<20, 301)
	if out, err = pullFor(t, newClient(t, Options{}), s, f.ref(":1")); err != nil || out.Manifest != p.digest {
		t.Errorf("moved: %+v, %v", out, err)
	}
	whole(t, s, p)
	if n := f.count("GET", "/blobs/"); n != 2 {
		t.Errorf("%d blobs came, and 2 are new", n)
	}
	// By its digest it needs nobody.
	f.do(nil)
	if _, err = pullFor(t, newClient(t, Options{}), s, f.ref("@"+string(p.digest))); err != nil || len(f.asked) != 0 {
		t.Errorf("by digest: %v, %q", err, f.asked)
	}
}

// index puts an index under a tag.
func (f *fake) index(tag string, manifests ...map[string]any) []byte {
	data := text(map[string]any{"schemaVersion": 2, "mediaType": image.MediaIndex, "manifests": manifests})
	f.put("/v2/a/b/manifests/"+tag, image.MediaIndex, data)
	return data
}

func described(kind string, data []byte, arch string) map[string]any {
	m := map[string]any{"mediaType": kind, "digest": image.DigestOf(data), "size": len(data)}
	if arch != "" {
		m["platform"] = map[string]string{"os": "linux", "architecture": arch}
	}
	return m
}

// TestPlatforms: of an index the manifest for the platform comes, and nothing of the others.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	f, s := newFake(t), newStore(t)
	other, this := f.push("o", "arm64", 77), f.push("t", "amd64", 10, 20)
	x := f.index("1", described(image.MediaManifest, text(other.manifest), "arm64"), described(image.MediaManifest, text(this.manifest), "amd64"))
	c := newClient(t, Options{})
	out, err := pullFor(t, c, s, f.ref(":1"))
	if err != nil {
		t.Fatal(err)
	}
	whole(t, s, this)
	if out.Target.Digest != image.DigestOf(x) || out.Target.MediaType != image.MediaIndex || out.Manifest != this.digest || s.HasBlob(other.digest, -1) {
		t.Errorf("%+v", out)
	}
	_, err = c.Pull(t.Context(), s, f.ref(":1"), image.Platform{OS: "linux", Architecture: "s390x"})
	refused(t, err, "not built for linux/s390x", "linux/arm64, linux/amd64")
	_, err = c.Pull(t.Context(), s, f.ref(":t"), image.Platform{OS: "linux", Architecture: "s390x"})
	refused(t, err, "not built for linux/s390x", "linux/amd64")
	f.do(nil)
	f.push("single", "ppc64le", 1234)
	_, err = pullFor(t, c, s, f.ref(":single"))
	refused(t, err, "not built for linux/amd64", "linux/ppc64le")
	if f.count("GET", "/blobs/") != 1 {
		t.Errorf("more than the configuration came: %q", f.asked)
	}
}

// TestAtOnce: of twenty pulls each blob is fetched by one.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	f, s := newFake(t), newStore(t)
	p := f.push("1", "amd64", 100<<10, 200<<10, 300<<10, 400<<10, 500<<10)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := pullFor(t, newClient(t, Options{}), s, f.ref(":1")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	whole(t, s, p)
	for _, l := range append(p.layers, p.config) {
		if n := f.count("GET", "/blobs/"+string(image.DigestOf(l))); n != 1 {
			t.Errorf("a blob of %d bytes was fetched %d times", len(l), n)
		}
	}
}

// TestRefused: documents that are not what they say, or that lead astray.
func TestRefused(t *testing.T) {
	t.Parallel()
	answer := func(kind string, data []byte, header ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/manifests/1") {
				return false
			}
			w.Header().Set("Content-Type", kind)
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			if r.Method != http.MethodHead {
				_, _ = w.Write(data)
			}
			return true
		}
	}
	for name, c := range map[string]struct {
		ready func(f *fake, p *pushed)
		says  []string
	}{
		"type that lies": {func(f *fake, p *pushed) { f.do(answer(image.MediaIndex, text(p.manifest))) }, []string{"declared as", "index"}},
		"both at once": {func(f *fake, p *pushed) {
			f.do(answer(image.MediaManifest, text(with(p.manifest, "manifests", []any{}))))
		}, []string{"CVE-2021-41190"}},
		"version 1": {func(f *fake, _ *pushed) {
			f.do(answer("application/vnd.docker.distribution.manifest.v1+json", []byte(`{"schemaVersion":1,"fsLayers":[]}`)))
		}, []string{"schema version 1"}},
		"a page":    {func(f *fake, _ *pushed) { f.do(answer("text/html", []byte("<html>log in</html>"))) }, []string{"tag 1", "JSON"}},
		"too large": {func(f *fake, _ *pushed) { f.do(answer(image.MediaManifest, make([]byte, image.MaxManifest+1))) }, []string{"larger than 4 MiB"}},
		"encoded": {func(f *fake, p *pushed) {
			f.do(answer(image.MediaManifest, text(p.manifest), "Content-Encoding", "gzip"))
		}, []string{"Content-Encoding"}},
		"another digest in the header": {func(f *fake, p *pushed) {
			f.do(answer(image.MediaManifest, text(p.manifest), "Docker-Content-Digest", string(image.DigestOf(nil))))
		}, []string{"announced as sha256:e3b0"}},
		"config of 100 MB": {func(f *fake, p *pushed) {
			p.manifest["config"].(map[string]any)["size"] = 100 << 20
			f.do(answer(image.MediaManifest, text(p.manifest)))
		}, []string{"configuration is larger than 8 MiB"}},
		"foreign layer": {func(f *fake, p *pushed) {
			p.manifest["layers"].([]any)[0].(map[string]any)["urls"] = []string{"https://elsewhere.example/x"}
			f.do(answer(image.MediaManifest, text(p.manifest)))
		}, []string{"foreign layers are refused", string(image.DigestOf(noise(1, 64)))}},
		"an artifact": {func(f *fake, p *pushed) {
			p.manifest["config"].(map[string]any)["mediaType"] = "application/vnd.example+json"
			f.do(answer(image.MediaManifest, text(p.manifest)))
		}, []string{"it is no image", "application/vnd.example+json"}},
		"larger than can be counted": {func(f *fake, p *pushed) {
			for i, l := range p.manifest["layers"].([]any) {
				with(l.(map[string]any), "size", int64(1<<63-1), "digest", image.DigestOf([]byte{byte(i)}))
			}
			f.do(answer(image.MediaManifest, text(p.manifest)))
		}, []string{"larger than can be counted"}},
		"one blob of two sizes": {func(f *fake, p *pushed) {
			for i, l := range p.manifest["layers"].([]any) {
				with(l.(map[string]any), "size", i, "digest", image.DigestOf(nil))
			}
			f.do(answer(image.MediaManifest, text(p.manifest)))
		}, []string{"0 bytes, and with 1"}},
		"more than the disk has": {func(f *fake, p *pushed) {
			with(p.manifest["layers"].([]any)[0].(map[string]any), "size", int64(1<<60), "digest", image.DigestOf(nil))
			f.do(answer(image.MediaManifest, text(p.manifest)))
		}, []string{"are needed"}},
		"fewer diff ids": {func(f *fake, p *pushed) {
			with(p.manifest, "layers", p.manifest["layers"].([]any)[:1])
			f.do(answer(image.MediaManifest, text(p.manifest)))
		}, []string{"1 layers", "2"}},
		"index of itself": {func(f *fake, _ *pushed) {
			x := text(map[string]any{"schemaVersion": 2, "manifests": []any{described(image.MediaIndex, []byte("me"), "amd64")}})
			f.do(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/manifests/") {
					w.Header().Set("Content-Type", image.MediaIndex)
					_, _ = w.Write(x)
					return true
				}
				return false
			})
		}, []string{"has the digest", "not used"}},
		"indexes in each other": {func(f *fake, p *pushed) {
			data, kind := text(p.manifest), image.MediaManifest
			for i := range 10 {
				data, kind = f.index(fmt.Sprintf("x%d", i), described(kind, data, "amd64")), image.MediaIndex
			}
			f.do(answer(kind, data))
		}, []string{"more than 4 deep"}},
		"size of a manifest": {func(f *fake, p *pushed) {
			f.do(answer(image.MediaIndex, text(map[string]any{"schemaVersion": 2, "manifests": []any{
				with(described(image.MediaManifest, text(p.manifest), "amd64"), "size", 7)}})))
		}, []string{"7"}},
		"manifest said to be an index": {func(f *fake, p *pushed) {
			f.do(answer(image.MediaIndex, text(map[string]any{"schemaVersion": 2, "manifests": []any{
				described(image.MediaIndex, text(p.manifest), "amd64")}})))
		}, []string{"announced as " + image.MediaIndex}},
		"no such tag": {func(f *fake, _ *pushed) {
			f.do(func(_ http.ResponseWriter, r *http.Request) bool {
				r.URL.Path = strings.Replace(r.URL.Path, "/1", "/none", 1)
				return false
			})
		}, []string{"the repository a/b has no tag 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, s := newFake(t), newStore(t)
			p := f.push("0", "amd64", 64, 65)
			c.ready(f, p)
			_, err := pullFor(t, newClient(t, Options{}), s, f.ref(":1"))
			refused(t, err, append(c.says, "pull "+f.host+"/a/b:1: ")...)
			if _, err := s.Entry(f.ref(":1")); err == nil {
				t.Error("it has a name")
			}
		})
	}
}

// TestHeadLies: what HEAD says is no more than a question whether to fetch. What is fetched is known by its own digest.
func TestHeadLies(t *testing.T) {
	t.Parallel()
	f, s := newFake(t), newStore(t)
	p := f.push("1", "amd64", 10)
	c := newClient(t, Options{})
	out, err := pullFor(t, c, s, f.ref(":1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(f.ref(":1"), out.Target, out.Platform, out.Manifest); err != nil {
		t.Fatal(err)
	}
	for _, told := range []string{string(image.DigestOf([]byte("other"))), "", "sha256:../../../etc"} {
		f.do(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead {
				w.Header().Set("Docker-Content-Digest", told)
				return true
			}
			return false
		})
		if out, err = pullFor(t, c, s, f.ref(":1")); err != nil || out.Manifest != p.digest || f.count("GET", "manifests/1") != 1 {
			t.Errorf("%q: %+v, %v, %q", told, out, err, f.asked)
		}
	}
}

// TestMends: documents that are damaged in the store come anew with the pull that finds it.
func TestMends(t *testing.T) {
	t.Parallel()
	f, s := newFake(t), newStore(t)
	p := f.push("t", "amd64", 10)
	x := f.index("1", described(image.MediaManifest, text(p.manifest), "amd64"))
	ref := f.ref("@" + string(image.DigestOf(x)))
	for _, spoiled := range [][]byte{nil, x, text(p.manifest), p.config} {
		if spoiled != nil {
			path := filepath.Join(s.Dir(), "blobs/sha256", image.DigestOf(spoiled).Hex())
			if err := os.Chmod(path, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, bytes.ToUpper(spoiled), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := pullFor(t, newClient(t, Options{}), s, ref); err != nil {
			t.Fatal(err)
		}
		whole(t, s, p)
		if _, err := s.Index(image.DigestOf(x)); err != nil {
			t.Error(err)
		}
	}
}
