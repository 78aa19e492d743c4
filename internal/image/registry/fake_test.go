package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/internal/image"

	"github.com/google/go-containerregistry/pkg/registry"
)

// fake is go-containerregistry's registry behind a handler that does what a test wants.
type fake struct {
	*httptest.Server
	t     *testing.T
	inner http.Handler
	host  string

	mu sync.Mutex
	// before answers in the place of the registry when it gives true.
	before func(w http.ResponseWriter, r *http.Request) bool
	asked  []string
}

// newFake serves plain HTTP on a loopback address.
func newFake(t *testing.T) *fake {
	t.Helper()
	f := newUnstarted(t)
	f.Start()
	return f.ready()
}

func newUnstarted(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, inner: registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))}
	f.Server = httptest.NewUnstartedServer(f)
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	return f
}

func (f *fake) ready() *fake {
	f.t.Cleanup(func() { f.CloseClientConnections(); f.Close() })
	u, err := url.Parse(f.URL)
	if err != nil {
		f.t.Fatal(err)
	}
	f.host = u.Host
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	before := f.before
	f.asked = append(f.asked, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	f.mu.Unlock()
	if before == nil || !before(w, r) {
		f.inner.ServeHTTP(w, r)
	}
}

// do sets what is done before the registry is asked.
func (f *fake) do(before func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.asked = before, nil
}

// count is how many requests had all of the words.
func (f *fake) count(words ...string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, a := range f.asked {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(a, w) }) {
			n++
		}
	}
	return n
}

// put gives the registry something without passing before.
func (f *fake) put(path, kind string, data []byte) image.Digest {
	f.t.Helper()
	d := image.DigestOf(data)
	method := http.MethodPut
	if strings.HasSuffix(path, "/blobs/uploads/") {
		method, path = http.MethodPost, path+"?digest="+string(d)
	}
	r := httptest.NewRequest(method, path, bytes.NewReader(data))
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	f.inner.ServeHTTP(w, r)
	if w.Code/100 != 2 {
		f.t.Fatalf("put %s: %d %s", path, w.Code, w.Body)
	}
	return d
}

func (f *fake) blob(data []byte) map[string]any {
	return map[string]any{"digest": f.put("/v2/a/b/blobs/uploads/", "application/octet-stream", data), "size": len(data)}
}

func with(m map[string]any, pairs ...any) map[string]any {
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	return m
}

func text(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// pushed is an image on a fake.
type pushed struct {
	manifest map[string]any
	config   []byte
	layers   [][]byte
	digest   image.Digest
}

func noise(seed byte, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// push puts an image with layers of these sizes under a tag of the repository a/b. The layers are noise: nobody unpacks them
// here.
func (f *fake) push(tag, arch string, sizes ...int) *pushed {
	f.t.Helper()
	p := &pushed{}
	var layers []any
	var ids []string
	for i, size := range sizes {
		data := noise(byte(i+1), size)
		p.layers = append(p.layers, data)
		layers = append(layers, with(f.blob(data), "mediaType", image.MediaLayer))
		ids = append(ids, string(image.DigestOf(data)))
	}
	p.config = text(map[string]any{"os": "linux", "architecture": arch, "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	p.manifest = map[string]any{"schemaVersion": 2, "mediaType": image.MediaManifest, "config": with(f.blob(p.config), "mediaType", image.MediaConfig), "layers": layers}
	p.digest = f.put("/v2/a/b/manifests/"+tag, image.MediaManifest, text(p.manifest))
	return p
}

// newStore is an empty one.
func newStore(t *testing.T) *image.Store {
	t.Helper()
	s, err := image.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newClient is one that does not wait long.
func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	c := New(o)
	c.t = timing{connect: 5 * time.Second, exchange: 10 * time.Second, window: 10 * time.Second, attempts: 4, backoff: time.Millisecond, longest: 5 * time.Second}
	t.Cleanup(c.Close)
	return c
}

var amd64 = image.Platform{OS: "linux", Architecture: "amd64"}

func (f *fake) ref(end string) image.Ref { return mustRef(f.t, f.host+"/a/b"+end) }

func mustRef(t *testing.T, text string) image.Ref {
	t.Helper()
	r, err := image.ParseRef(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pull pulls, within a bound of time.
func pullFor(t *testing.T, c *Client, s *image.Store, ref image.Ref) (*Pulled, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	return c.Pull(ctx, s, ref, amd64)
}

// whole demands that all of an image is in the store as it was pushed.
func whole(t *testing.T, s *image.Store, p *pushed) {
	t.Helper()
	for i, want := range append([][]byte{p.config, text(p.manifest)}, p.layers...) {
		if got, err := s.Blob(image.DigestOf(want), 1<<30); err != nil || !bytes.Equal(got, want) {
			t.Errorf("blob %d: %v", i, err)
		}
	}
}

// refused demands an error with all of the words.
func refused(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}

func isBlob(r *http.Request, data []byte) bool {
	return strings.HasSuffix(r.URL.Path, "/blobs/"+string(image.DigestOf(data)))
}

// cut sends the blob, or the part that is asked for, and ends the connection after so many bytes.
func cut(w http.ResponseWriter, r *http.Request, blob []byte, after int) {
	var from int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(blob)-1, len(blob)))
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)-from))
		w.WriteHeader(http.StatusPartialContent)
	} else {
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
	}
	_, _ = w.Write(blob[from:min(len(blob), from+after)])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}
