package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"brig/internal/image"
	"brig/test/image/fixture"

	"github.com/google/go-containerregistry/pkg/registry"
)

// forge is a registry that can be made to lie: go-containerregistry's, behind a handler that a test puts before it.
type forge struct {
	*httptest.Server
	t    *testing.T
	back http.Handler

	mu       sync.Mutex
	before   func(w http.ResponseWriter, r *http.Request, back http.Handler) // nil: nothing
	requests []string                                                        // method, path and range
}

func newForge(t *testing.T) *forge {
	t.Helper()
	f := &forge{t: t, back: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// ServeHTTP answers a request in the test's way.
func (f *forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	before := f.before
	f.mu.Unlock()
	if before == nil {
		f.back.ServeHTTP(w, r)
		return
	}
	before(w, r, f.back)
}

// asked are the requests that contain all the words.
func (f *forge) asked(words ...string) (list []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(r, w) }) {
			list = append(list, r)
		}
	}
	return list
}

func (f *forge) ref(name string) string { return strings.TrimPrefix(f.URL, "http://") + "/" + name }

// put gives the registry a blob or a manifest, past the test's handler.
func (f *forge) put(method, path, kind string, body []byte) {
	f.t.Helper()
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	f.back.ServeHTTP(w, r)
	if w.Code/100 != 2 {
		f.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
}

// blob gives it a blob of the repository "forged".
func (f *forge) blob(data []byte) image.Descriptor {
	f.t.Helper()
	d := image.DigestOf(data)
	f.put("POST", "/v2/forged/blobs/uploads/?digest="+string(d), "application/octet-stream", data)
	return image.Descriptor{Digest: d, Size: int64(len(data))}
}

// forged is an image in the making; a test changes what it wants to be wrong.
type forged struct {
	layers   [][]byte // as the registry has them
	diffIDs  []image.Digest
	config   map[string]any
	manifest map[string]any
}

// newForged is an image of ordinary ground and the layers, each compressed.
func newForged(t *testing.T, layers ...func(t *fixture.Tar)) *forged {
	t.Helper()
	o := &forged{config: map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"/bin/true"}},
	}, manifest: map[string]any{"schemaVersion": 2, "mediaType": image.MediaManifest}}
	for _, fill := range append([]func(*fixture.Tar){ground(t)}, layers...) {
		o.add(archive(t, fill))
	}
	return o
}

func (o *forged) add(plain []byte) {
	o.diffIDs = append(o.diffIDs, image.DigestOf(plain))
	o.layers = append(o.layers, compressed(plain))
}

// ground is a root file system of one program.
var program = sync.OnceValues(func() ([]byte, error) { return fixture.Program() })

func ground(t *testing.T) func(*fixture.Tar) {
	data, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return func(w *fixture.Tar) {
		w.Dir("./")
		w.Dirs("bin", "dev", "etc", "mnt", "proc", "run", "sys")
		w.Dir("tmp", fixture.Mode(0o1777))
		w.File("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
		w.File("bin/busybox", string(data), fixture.Mode(0o755))
		for _, name := range []string{"sh", "cat", "ls", "true", "echo", "stat", "id"} {
			w.Symlink("bin/"+name, "busybox")
		}
	}
}

// archive is a tar. What the writer of tars refuses to write, a test writes by hand.
func archive(t *testing.T, fill func(*fixture.Tar)) []byte {
	t.Helper()
	var out bytes.Buffer
	w := fixture.NewTar(&out)
	fill(w)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func compressed(data []byte) []byte {
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	_, _ = w.Write(data)
	_ = w.Close()
	return out.Bytes()
}

// push gives the registry the image as forged:TAG.
func (f *forge) push(o *forged, tag string) image.Digest {
	f.t.Helper()
	var layers []map[string]any
	for _, l := range o.layers {
		layers = append(layers, described(f.blob(l), image.MediaLayer+"+gzip"))
	}
	if o.manifest["layers"] == nil {
		o.manifest["layers"] = layers
	}
	if o.config["rootfs"] == nil {
		o.config["rootfs"] = map[string]any{"type": "layers", "diff_ids": o.diffIDs}
	}
	if o.manifest["config"] == nil {
		o.manifest["config"] = described(f.blob(marshal(f.t, o.config)), image.MediaConfig)
	}
	kind, _ := o.manifest["mediaType"].(string)
	text := marshal(f.t, o.manifest)
	f.put("PUT", "/v2/forged/manifests/"+tag, kind, text)
	return image.DigestOf(text)
}

func described(d image.Descriptor, kind string) map[string]any {
	return map[string]any{"mediaType": kind, "digest": d.Digest, "size": d.Size}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// raw is one tar entry by hand: the header's fields are what they are given as, and the checksum is right.
type raw struct {
	name, link, size, mode, uid string
	kind                        byte
	data                        string
}

// bytes is the entry in the ustar format (pax(1), "ustar Interchange Format").
func (r raw) bytes() []byte {
	h := make([]byte, 512)
	field := func(at, length int, text, other string) {
		if text == "" {
			text = other
		}
		copy(h[at:at+length], text)
	}
	field(0, 100, r.name, "")
	field(100, 8, r.mode, "0000644\x00")
	field(108, 8, r.uid, "0000000\x00")
	field(116, 8, "", "0000000\x00")
	field(124, 12, r.size, fmt.Sprintf("%011o\x00", len(r.data)))
	field(136, 12, "", "14524411400\x00")
	if r.kind == 0 {
		r.kind = tar.TypeReg
	}
	h[156] = r.kind
	field(157, 100, r.link, "")
	copy(h[257:], "ustar\x0000")
	copy(h[148:156], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	h = append(h, r.data...)
	return append(h, make([]byte, (512-len(r.data)%512)%512)...)
}

// byHand is an archive of such entries.
func byHand(entries ...raw) []byte {
	var all []byte
	for _, e := range entries {
		all = append(all, e.bytes()...)
	}
	return append(all, make([]byte, 1024)...)
}
