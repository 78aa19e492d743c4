package registry

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"

	"brig/internal/image"
)

// FuzzAnswer gives readers whatever a registry may send: what they take has the digest that it is known by, and what they say of
// the rest is text without a secret.
func FuzzAnswer(f *testing.F) {
	f.Add(200, image.MediaManifest, "", `{"schemaVersion":2,"config":{},"layers":[]}`)
	f.Add(429, "text/plain", "7", `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow\u001b[1m down issued-token-secret"}]}`)
	f.Add(404, "", "Fri, 02 Jan 2026 03:04:10 GMT", `{"errors":[{"code":"NAME_UNKNOWN","detail":{"x":[1]}}]}`)
	f.Add(206, "bytes 7-9/10", `<https://x/y?n=1>; rel="next"`, "issued-token-secret")
	f.Fuzz(func(t *testing.T, status int, header, other, body string) {
		e := &endpoint{host: "registry.example", c: New(Options{}), sessions: map[string]*session{}}
		e.hide(issued)
		s := e.session("a/b")
		resp := &http.Response{
			StatusCode: status, Body: io.NopCloser(strings.NewReader(body)),
			Header:  http.Header{"Content-Type": {header}, "Docker-Content-Digest": {other}, "Retry-After": {other}, "Link": {other}},
			Request: &http.Request{Method: http.MethodGet, URL: mustURL("https://registry.example/v2/")},
		}
		if doc, err := readDocument(resp, "1"); err == nil && (doc.desc.Digest != image.DigestOf([]byte(body)) || doc.desc.Size != int64(len(body)) || !bytes.Equal(doc.data, []byte(body))) {
			t.Errorf("%+v", doc.desc)
		}
		resp.Body = io.NopCloser(strings.NewReader(body))
		if err := e.checkStatus(resp, http.StatusOK); err != nil {
			said := s.explain("tag 1", err).Error()
			if strings.Contains(said, issued) || len(said) > 2000 || strings.ContainsFunc(said, unicode.IsControl) {
				t.Errorf("%q", said)
			}
		}
		if rightRange(header, 7, 10) && !strings.Contains(header, "7") {
			t.Errorf("%q is no part from 7 to 10", header)
		}
		if next := nextPage(other); next != "" && next[0] != '?' {
			t.Errorf("%q", next)
		}
		if d := retryAfter(other, time.Unix(0, 0)); d < 0 {
			t.Errorf("%s", d)
		}
		_, path := splitKey(body)
		if strings.HasPrefix(path, "/") {
			t.Errorf("%q", path)
		}
	})
}

func mustURL(text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	return u
}
