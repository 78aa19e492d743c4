package image

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"brig/internal/image"
	"brig/test/image/fixture"
)

// noisy is an image whose second layer is size bytes that do not compress.
func noisy(t *testing.T, size int) *forged {
	t.Helper()
	noise := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	return newForged(t, func(w *fixture.Tar) { w.File("noise", string(noise)) })
}

// isBlob tells whether a request wants the content of the blob.
func isBlob(r *http.Request, d image.Digest) bool {
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+string(d))
}

// TestWeather: a registry and a way to it that fail as such do. The pull comes to its end, with the right bytes.
func TestWeather(t *testing.T) {
	t.Parallel()
	newMachine(t)
	type weather struct {
		name string
		// answer gives the n-th answer (from 1) to a request for the layer, or false for the registry's own.
		answer func(n int64, w http.ResponseWriter, r *http.Request, layer []byte) bool
		check  func(t *testing.T, f *forge, layer image.Digest, took time.Duration)
	}
	for _, c := range []weather{{
		name: "cut",
		answer: func(n int64, w http.ResponseWriter, r *http.Request, layer []byte) bool {
			return n <= 2 && cut(w, r, layer, len(layer)/3)
		},
		check: func(t *testing.T, f *forge, layer image.Digest, _ time.Duration) {
			if len(f.asked(string(layer), "bytes=")) == 0 {
				t.Errorf("the broken blob was not resumed: %q", f.asked(string(layer)))
			}
		},
	}, {
		name: "cut-at-once",
		answer: func(n int64, w http.ResponseWriter, r *http.Request, layer []byte) bool {
			return n <= 2 && cut(w, r, layer, 0)
		},
	}, {
		name: "ranges-ignored",
		answer: func(n int64, w http.ResponseWriter, r *http.Request, layer []byte) bool {
			if n == 1 {
				return cut(w, r, layer, len(layer)/2)
			}
			_, _ = w.Write(layer)
			return true
		},
	}, {
		name: "ranges-from-elsewhere",
		answer: func(n int64, w http.ResponseWriter, r *http.Request, layer []byte) bool {
			if n == 1 {
				return cut(w, r, layer, len(layer)/2)
			}
			if r.Header.Get("Range") == "" {
				return false
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(layer)-1, len(layer)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(layer)
			return true
		},
	}, {
		name: "range-not-satisfiable",
		answer: func(n int64, w http.ResponseWriter, r *http.Request, layer []byte) bool {
			if n == 1 {
				return cut(w, r, layer, len(layer)/2)
			}
			if r.Header.Get("Range") == "" {
				return false
			}
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		},
	}, {
		name: "too-many-requests",
		answer: func(n int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			if n > 2 {
				return false
			}
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		},
		check: func(t *testing.T, _ *forge, _ image.Digest, took time.Duration) {
			if took < 2*time.Second {
				t.Errorf("it took %v with two times Retry-After: 1", took)
			}
		},
	}, {
		name: "unavailable",
		answer: func(n int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			if n <= 2 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n <= 2
		},
	}, {
		name: "slow",
		answer: func(_ int64, w http.ResponseWriter, r *http.Request, layer []byte) bool {
			w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
			for at := 0; at < len(layer); at += 64 << 10 {
				_, _ = w.Write(layer[at:min(len(layer), at+64<<10)])
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
					return true
				case <-time.After(20 * time.Millisecond):
				}
			}
			return true
		},
	}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, f, o := newMachine(t), newForge(t), noisy(t, 2<<20)
			digest := f.push(o, "1")
			layer := o.layers[1]
			id := image.DigestOf(layer)
			var n atomic.Int64
			f.before = func(w http.ResponseWriter, r *http.Request, back http.Handler) {
				if !isBlob(r, id) || !c.answer(n.Add(1), w, r, layer) {
					back.ServeHTTP(w, r)
				}
			}
			at := time.Now()
			m.ok("image", "pull", f.ref("forged:1"))
			took := time.Since(at)
			if out := m.ok("run", f.ref("forged@"+string(digest)), "/bin/ls", "/noise"); out != "/noise\n" {
				t.Errorf("ls printed %q", out)
			}
			m.ok("image", "verify", f.ref("forged:1"))
			if c.check != nil {
				c.check(t, f, id, took)
			}
		})
	}
}

// cut answers with the blob, or the part that is asked for, and cuts the connection after so many bytes.
func cut(w http.ResponseWriter, r *http.Request, blob []byte, after int) bool {
	var from int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && from < len(blob) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(blob)-1, len(blob)))
		blob = blob[from:]
		w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
		w.WriteHeader(http.StatusPartialContent)
	} else {
		w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
	}
	_, _ = w.Write(blob[:min(after, len(blob))])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler) // closes the connection
}

// lie is a registry's, or an image's.
type lie struct {
	name string
	tell func(t *testing.T, f *forge, o *forged) (ref string)
	says []string
}

// TestLies: what is not what it says is refused by name, in a bounded time and a bounded memory, and nothing of it can be run.
func TestLies(t *testing.T) {
	t.Parallel()
	newMachine(t)
	for _, l := range lies() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			m, f, o := newMachine(t), newForge(t), noisy(t, 1<<20)
			name := l.tell(t, f, o)
			r := m.brig("run", name)
			if r.code == 0 {
				t.Fatalf("it ran: %s%s", r.out, r.err)
			}
			for _, w := range l.says {
				if !strings.Contains(r.err, w) {
					t.Errorf("the error does not say %q: %s", w, r.err)
				}
			}
			if len(r.err) > 4000 {
				t.Errorf("the error has %d bytes: %s…", len(r.err), r.err[:1000])
			}
			m.nothing()
			m.honest()
		})
	}
}

// honest demands that every blob of the store has the digest that it is named by.
func (m *machine) honest() {
	m.t.Helper()
	names, _ := filepath.Glob(filepath.Join(m.store, "blobs/sha256/*"))
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			m.t.Fatal(err)
		}
		if got := image.DigestOf(data).Hex(); got != filepath.Base(n) {
			m.t.Errorf("the blob %s has the digest %s", n, got)
		}
	}
}

func lies() []lie {
	return []lie{{
		name: "layer-of-another-digest",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			f.push(o, "1")
			layer := bytes.Clone(o.layers[1])
			id := image.DigestOf(layer)
			layer[len(layer)/2]++
			f.before = func(w http.ResponseWriter, r *http.Request, back http.Handler) {
				if isBlob(r, id) {
					_, _ = w.Write(layer)
					return
				}
				back.ServeHTTP(w, r)
			}
			return f.ref("forged:1")
		},
		says: []string{"digest"},
	}, {
		name: "layer-without-end",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			f.push(o, "1")
			id := image.DigestOf(o.layers[1])
			f.before = func(w http.ResponseWriter, r *http.Request, back http.Handler) {
				if !isBlob(r, id) {
					back.ServeHTTP(w, r)
					return
				}
				for zeros := make([]byte, 1<<20); ; {
					if _, err := w.Write(zeros); err != nil {
						return
					}
				}
			}
			return f.ref("forged:1")
		},
		says: []string{"sha256:"},
	}, {
		name: "layer-always-cut",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			f.push(o, "1")
			layer := o.layers[1]
			id := image.DigestOf(layer)
			f.before = func(w http.ResponseWriter, r *http.Request, back http.Handler) {
				if isBlob(r, id) {
					cut(w, r, layer, 0)
				}
				back.ServeHTTP(w, r)
			}
			return f.ref("forged:1")
		},
		says: []string{"sha256:"},
	}, {
		name: "size-too-small",
		tell: func(t *testing.T, f *forge, o *forged) string { return sized(t, f, o, -1) },
		says: []string{"sha256:"},
	}, {
		name: "size-too-large",
		tell: func(t *testing.T, f *forge, o *forged) string { return sized(t, f, o, 1) },
		says: []string{"sha256:"},
	}, {
		name: "diff-id",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			o.diffIDs[1] = image.DigestOf([]byte("another"))
			f.push(o, "1")
			return f.ref("forged:1")
		},
		says: []string{"sha256:"},
	}, {
		name: "fewer-diff-ids",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			o.diffIDs = o.diffIDs[:1]
			f.push(o, "1")
			return f.ref("forged:1")
		},
		says: []string{"layers"},
	}, {
		name: "config-of-100-MB",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			o.config["config"] = map[string]any{"Labels": map[string]string{"large": strings.Repeat("x", 100<<20)}}
			f.push(o, "1")
			return f.ref("forged:1")
		},
		says: []string{"config"},
	}, {
		name: "manifest-a-million-deep",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			f.push(o, "1")
			return manifest(f, "application/vnd.oci.image.manifest.v1+json", []byte(`{"schemaVersion":2,"x":`+strings.Repeat("[", 1e6)+strings.Repeat("]", 1e6)+"}"))
		},
		says: []string{},
	}, {
		name: "config-a-million-deep",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			deep := f.blob([]byte(`{"os":"linux","architecture":"amd64","x":` + strings.Repeat(`{"a":`, 1e6) + "1" + strings.Repeat("}", 1e6) + "}"))
			o.manifest["config"] = described(deep, image.MediaConfig)
			f.push(o, "1")
			return f.ref("forged:1")
		},
		says: []string{"config"},
	}, {
		name: "manifest-says-index",
		tell: func(t *testing.T, f *forge, o *forged) string {
			o.manifest["mediaType"] = image.MediaIndex
			f.push(o, "2")
			return manifest(f, image.MediaIndex, marshal(t, o.manifest))
		},
		says: []string{},
	}, {
		name: "manifest-and-index-at-once",
		tell: func(t *testing.T, f *forge, o *forged) string {
			f.push(o, "1")
			o.manifest["manifests"] = []any{map[string]any{"mediaType": image.MediaManifest, "digest": image.DigestOf(nil), "size": 3}}
			return manifest(f, image.MediaManifest, marshal(t, o.manifest))
		},
		says: []string{},
	}, {
		name: "foreign-layer",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			base := described(f.blob(o.layers[0]), image.MediaLayer+"+gzip")
			foreign := described(f.blob(o.layers[1]), "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
			foreign["urls"] = []string{f.URL + "/elsewhere"}
			o.manifest["layers"] = []any{base, foreign}
			f.push(o, "1")
			return f.ref("forged:1")
		},
		says: []string{"foreign"},
	}, {
		name: "manifest-of-another-digest",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			f.push(o, "1")
			other := image.DigestOf([]byte("other"))
			f.before = func(w http.ResponseWriter, r *http.Request, back http.Handler) {
				if strings.HasSuffix(r.URL.Path, "/manifests/"+string(other)) {
					answer := httptest.NewRecorder()
					r.URL.Path = "/v2/forged/manifests/1"
					back.ServeHTTP(answer, r)
					w.Header().Set("Content-Type", image.MediaManifest)
					w.Header().Set("Docker-Content-Digest", string(other))
					_, _ = io.Copy(w, answer.Body)
					return
				}
				back.ServeHTTP(w, r)
			}
			return f.ref("forged@" + string(other))
		},
		says: []string{"digest"},
	}, {
		name: "index-of-itself",
		tell: func(t *testing.T, f *forge, o *forged) string {
			f.push(o, "1")
			index := marshal(t, map[string]any{"schemaVersion": 2, "mediaType": image.MediaIndex, "manifests": []any{
				map[string]any{"mediaType": image.MediaIndex, "digest": image.DigestOf([]byte("me")), "size": 300},
			}})
			f.before = func(w http.ResponseWriter, r *http.Request, back http.Handler) {
				if strings.Contains(r.URL.Path, "/manifests/") {
					w.Header().Set("Content-Type", image.MediaIndex)
					_, _ = w.Write(index)
					return
				}
				back.ServeHTTP(w, r)
			}
			return f.ref("forged:1")
		},
		says: []string{},
	}, {
		name: "index-a-hundred-deep",
		tell: func(t *testing.T, f *forge, o *forged) string {
			d := f.push(o, "1")
			kind, size := image.MediaManifest, len(marshal(t, o.manifest))
			var text []byte
			for range 100 {
				text = marshal(t, map[string]any{"schemaVersion": 2, "mediaType": image.MediaIndex, "manifests": []any{
					map[string]any{"mediaType": kind, "digest": d, "size": size, "platform": map[string]string{"os": "linux", "architecture": "amd64"}},
				}})
				manifest(f, image.MediaIndex, text)
				d, kind, size = image.DigestOf(text), image.MediaIndex, len(text)
			}
			return f.ref("forged@" + string(d))
		},
		says: []string{},
	}, {
		name: "gzip-bomb",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			// Members of gzip one after the other are one stream (RFC 1952, 2.2): 4 GiB in 4 MB, and no zeros, which would take no disk.
			ones := compressed(bytes.Repeat([]byte{1}, 64<<20))
			bomb := append(compressed(raw{name: "bomb", size: "40000000000\x00"}.bytes()), bytes.Repeat(ones, 64)...)
			o.layers, o.diffIDs = append(o.layers, bomb), append(o.diffIDs, image.DigestOf(nil))
			f.push(o, "1")
			return f.ref("forged:1")
		},
		says: []string{"sha256:", "bomb"},
	}, {
		name: "not-for-this-machine",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			o.config["architecture"] = "s390x"
			f.push(o, "1")
			return f.ref("forged:1")
		},
		says: []string{"s390x"},
	}, {
		name: "signature-in-place-of-an-image",
		tell: func(_ *testing.T, f *forge, o *forged) string {
			o.manifest["config"] = described(f.blob([]byte("{}")), "application/vnd.oci.empty.v1+json")
			f.push(o, "1")
			return f.ref("forged:1")
		},
		says: []string{"application/vnd.oci.empty.v1+json"},
	}}
}

// manifest gives the registry a manifest as it is, and the reference of it.
func manifest(f *forge, kind string, text []byte) string {
	d := image.DigestOf(text)
	f.put("PUT", "/v2/forged/manifests/"+string(d), kind, text)
	return f.ref("forged@" + string(d))
}

// sized gives a layer's size wrongly.
func sized(t *testing.T, f *forge, o *forged, by int64) string {
	t.Helper()
	var layers []any
	for _, l := range o.layers {
		d := f.blob(l)
		d.Size += by
		layers = append(layers, described(d, image.MediaLayer+"+gzip"))
	}
	o.manifest["layers"] = layers
	f.push(o, "1")
	return f.ref("forged:1")
}
