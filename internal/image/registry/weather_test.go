package registry

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"brig/internal/image"
)

// weather is a registry whose answers for one layer of 3 MiB are a test's.
type weather struct {
	*fake
	image *pushed
	layer []byte
	n     atomic.Int64
}

func newWeather(t *testing.T, answer func(n int64, w http.ResponseWriter, r *http.Request, layer []byte) bool) *weather {
	t.Helper()
	x := &weather{fake: newFake(t)}
	x.image = x.push("1", "amd64", 3<<20, 500)
	x.layer = x.image.layers[0]
	x.do(func(w http.ResponseWriter, r *http.Request) bool {
		return isBlob(r, x.layer) && answer(x.n.Add(1), w, r, x.layer)
	})
	return x
}

// ranges are the ranges that were asked for of the layer, in order; "" for the whole.
func (x *weather) ranges() (list []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	path := "GET /v2/a/b/blobs/" + string(image.DigestOf(x.layer))
	for _, a := range x.asked {
		if rest, ok := strings.CutPrefix(a, path); ok {
			list = append(list, strings.TrimSpace(rest))
		}
	}
	return list
}

// TestPasses: failures that pass are outlived, with the right bytes, and a blob goes on where it broke.
func TestPasses(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	half := fmt.Sprintf("bytes=%d-%d", size/2, size-1)
	partial := func(w http.ResponseWriter, r *http.Request, contentRange string, data []byte) bool {
		if r.Header.Get("Range") == "" {
			return false
		}
		w.Header().Set("Content-Range", contentRange)
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(data)
		return true
	}
	for name, c := range map[string]struct {
		answer func(n int64, w http.ResponseWriter, r *http.Request, layer []byte) bool
		ranges []string
	}{
		"cut": {func(n int64, w http.ResponseWriter, r *http.Request, l []byte) bool {
			if n == 1 {
				cut(w, r, l, size/2)
			}
			return false
		}, []string{"", half}},
		"cut before the first byte": {func(n int64, w http.ResponseWriter, r *http.Request, l []byte) bool {
			if n <= 3 {
				cut(w, r, l, 0)
			}
			return false
		}, []string{"", "", "", ""}},
		"cut again and again, with progress": {func(n int64, w http.ResponseWriter, r *http.Request, l []byte) bool {
			if n <= 2 {
				cut(w, r, l, 1<<20)
			}
			return false
		}, []string{"", "bytes=1048576-3145727", "bytes=2097152-3145727"}},
		"ranges ignored": {func(n int64, w http.ResponseWriter, r *http.Request, l []byte) bool {
			if n == 1 {
				cut(w, r, l, size/2)
			}
			_, _ = w.Write(l)
			return true
		}, []string{"", half}},
		"another range": {func(n int64, w http.ResponseWriter, r *http.Request, l []byte) bool {
			if n == 1 {
				cut(w, r, l, size/2)
			}
			return partial(w, r, fmt.Sprintf("bytes 0-%d/%d", size-1, size), l)
		}, []string{"", half, ""}},
		"a range of another blob": {func(n int64, w http.ResponseWriter, r *http.Request, l []byte) bool {
			if n == 1 {
				cut(w, r, l, size/2)
			}
			return partial(w, r, fmt.Sprintf("bytes %d-%d/%d", size/2, size-1, size+7), l[size/2:])
		}, []string{"", half, ""}},
		"no range said": {func(n int64, w http.ResponseWriter, r *http.Request, l []byte) bool {
			if n == 1 {
				cut(w, r, l, size/2)
			}
			return partial(w, r, "", l[size/2:])
		}, []string{"", half, ""}},
		"right range, wrong bytes": {func(n int64, w http.ResponseWriter, r *http.Request, l []byte) bool {
			if n == 1 {
				cut(w, r, l, size/2)
			}
			return partial(w, r, fmt.Sprintf("bytes %d-%d/%d", size/2, size-1, size), make([]byte, size/2))
		}, []string{"", half}},
		"416": {func(n int64, w http.ResponseWriter, r *http.Request, l []byte) bool {
			if n == 1 {
				cut(w, r, l, size/2)
			}
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return true
			}
			return false
		}, []string{"", half, ""}},
		"statuses": {func(n int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			if n > 3 {
				return false
			}
			w.WriteHeader([]int{http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable}[n-1])
			return true
		}, []string{"", "", "", ""}},
		"nothing comes any more": {func(n int64, w http.ResponseWriter, r *http.Request, l []byte) bool {
			if n == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(size))
				_, _ = w.Write(l[:size/2])
				w.(http.Flusher).Flush()
				<-r.Context().Done() // the client ends it
				return true
			}
			return false
		}, []string{"", half}},
		"a drop now and then": {func(n int64, w http.ResponseWriter, r *http.Request, l []byte) bool {
			if n > 1 {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = w.Write(l[:size/2])
			for i := size / 2; r.Context().Err() == nil && i < size; i++ {
				_, _ = w.Write(l[i : i+1])
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond) // the pace is what is tested
			}
			return true
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, s := newWeather(t, c.answer), newStore(t)
			var got atomic.Int64
			client := newClient(t, Options{Got: func(n int64) { got.Add(n) }})
			client.t.window = time.Second
			if name == "right range, wrong bytes" {
				_, err := pullFor(t, client, s, x.ref(":1"))
				refused(t, err, "has the digest", "not used")
				return
			}
			out, err := pullFor(t, client, s, x.ref(":1"))
			if err != nil {
				t.Fatal(err)
			}
			whole(t, s, x.image)
			if got.Load() != out.Fetched {
				t.Errorf("%d bytes were counted, and %d came", got.Load(), out.Fetched)
			}
			if r := x.ranges(); c.ranges != nil && fmt.Sprintf("%q", r) != fmt.Sprintf("%q", c.ranges) {
				t.Errorf("it asked for %q, want %q", r, c.ranges)
			}
		})
	}
}

// TestFails: what does not pass ends, in a bounded number of attempts, and says so.
func TestFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer   func(n int64, w http.ResponseWriter, r *http.Request, layer []byte) bool
		attempts int
		says     string
	}{
		"always cut": {func(_ int64, w http.ResponseWriter, r *http.Request, l []byte) bool { cut(w, r, l, 10); return true }, 4, "it ended after"},
		"longer, announced": {func(_ int64, w http.ResponseWriter, _ *http.Request, l []byte) bool {
			_, _ = w.Write(append(bytes.Clone(l), 0))
			return true
		}, 1, "more than the 3145728 bytes"},
		"without an end": {func(_ int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			for zeros := make([]byte, 1<<20); ; {
				if _, err := w.Write(zeros); err != nil {
					return true
				}
			}
		}, 1, "more than the 3145728 bytes"},
		"another length announced": {func(_ int64, w http.ResponseWriter, _ *http.Request, l []byte) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(l)-1))
			_, _ = w.Write(l[1:])
			return true
		}, 1, "announced with 3145727 bytes"},
		"shorter": {func(_ int64, w http.ResponseWriter, _ *http.Request, l []byte) bool {
			w.(http.Flusher).Flush()
			_, _ = w.Write(l[:100])
			return true
		}, 4, "it ended after 100 of 3145728 bytes"},
		"another digest": {func(_ int64, w http.ResponseWriter, _ *http.Request, l []byte) bool {
			_, _ = w.Write(append([]byte{l[0] + 1}, l[1:]...))
			return true
		}, 1, "it is not used"},
		"packed on the way": {func(_ int64, w http.ResponseWriter, _ *http.Request, l []byte) bool {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(l)
			_ = z.Close()
			return true
		}, 1, string(image.DigestOf(noise(1, 3<<20)))},
		"part of what was asked for in whole": {func(_ int64, w http.ResponseWriter, _ *http.Request, l []byte) bool {
			w.Header().Set("Content-Range", "bytes 0-9/3145728")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(l[:10])
			return true
		}, 1, "part of a blob that was asked for in whole"},
		"404": {func(_ int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.WriteHeader(http.StatusNotFound)
			return true
		}, 1, "the repository a/b has no blob sha256:"},
		"401": {func(_ int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}, 1, "401"},
		"403": {func(_ int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		}, 1, "no access to the repository a/b"},
		"503 for ever": {func(_ int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}, 4, "503 Service Unavailable"},
		"rate limit": {func(_ int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			w.Header().Set("Retry-After", "21600")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"you have reached\u001b[31m your limit"}]}`)
			return true
		}, 1, "try again in 6h0m0s (it says: you have reached�[31m your limit)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, s := newWeather(t, c.answer), newStore(t)
			_, err := pullFor(t, newClient(t, Options{}), s, x.ref(":1"))
			refused(t, err, c.says)
			if n := x.n.Load(); n != int64(c.attempts) {
				t.Errorf("%d attempts, want %d", n, c.attempts)
			}
			if s.HasBlob(image.DigestOf(x.layer), -1) {
				t.Error("the layer is in the store")
			}
		})
	}
}

// TestRetryAfter: the registry's word on when to come again counts.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	x := newWeather(t, func(n int64, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		if n == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
		return n == 1
	})
	begun := time.Now()
	if _, err := pullFor(t, newClient(t, Options{}), newStore(t), x.ref(":1")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < time.Second {
		t.Errorf("it came again after %s", took)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "x": 0, "Fri, 02 Jan 2026 03:04:10 GMT": 5 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0, "1h": 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// TestNextCommandResumes: what a broken command brought is there for the next one; when it was wrong, it is fetched again.
func TestNextCommandResumes(t *testing.T) {
	t.Parallel()
	for _, wrong := range []bool{false, true} {
		s := newStore(t)
		x := newWeather(t, func(_ int64, w http.ResponseWriter, r *http.Request, l []byte) bool { cut(w, r, l, 1000); return true })
		c := newClient(t, Options{})
		c.t.attempts = 1
		_, err := pullFor(t, c, s, x.ref(":1"))
		refused(t, err, "it ended after 1000 of 3145728 bytes")
		if wrong {
			partial := filepath.Join(s.TempDir(), "blob-"+image.DigestOf(x.layer).Hex())
			if err := os.WriteFile(partial, make([]byte, 1000), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		x.do(func(w http.ResponseWriter, r *http.Request) bool {
			// A registry that knows ranges, which the other side of this one does in part.
			if isBlob(r, x.layer) {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(x.layer))
				return true
			}
			return false
		})
		if _, err := pullFor(t, newClient(t, Options{}), s, x.ref(":1")); err != nil {
			t.Fatal(err)
		}
		whole(t, s, x.image)
		want := []string{"bytes=1000-3145727"}
		if wrong {
			want = append(want, "")
		}
		if r := x.ranges(); fmt.Sprint(r) != fmt.Sprint(want) {
			t.Errorf("it asked for %q, want %q", r, want)
		}
	}
}

// TestCancelled: an interrupted pull ends at once, also when it waits for another process.
func TestCancelled(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 2)
	x := newWeather(t, func(_ int64, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		begun <- struct{}{}
		<-r.Context().Done()
		return true
	})
	s := newStore(t)
	first, second := make(chan error, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _, err := newClient(t, Options{}).Pull(ctx, s, x.ref(":1"), amd64); first <- err }()
	<-begun
	waiting, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { _, err := newClient(t, Options{}).Pull(waiting, s, x.ref(":1"), amd64); second <- err }()
	for _, c := range []struct {
		stop func()
		end  chan error
	}{{stop, second}, {cancel, first}} {
		c.stop()
		select {
		case err := <-c.end:
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("it does not end")
		}
	}
}
