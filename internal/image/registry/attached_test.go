package registry

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"brig/internal/image"
)

// artifact puts something that refers to a subject, or nothing, under a tag; "" for its digest.
func (f *fake) artifact(tag, subject string, blob []byte, more ...any) ([]byte, image.Digest) {
	f.t.Helper()
	m := map[string]any{
		"schemaVersion": 2, "mediaType": image.MediaManifest, "artifactType": "application/vnd.example.signature",
		"config": with(f.blob([]byte("{}")), "mediaType", "application/vnd.oci.empty.v1+json"),
		"layers": []any{with(f.blob(blob), "mediaType", "application/vnd.example")},
	}
	if subject != "" {
		m["subject"] = map[string]any{"mediaType": image.MediaManifest, "digest": subject, "size": 1}
	}
	data := text(with(m, more...))
	if tag == "" {
		tag = string(image.DigestOf(data))
	}
	return data, f.put("/v2/a/b/manifests/"+tag, image.MediaManifest, data)
}

// attachedTo gives what was found, as tag and digest, and demands that it is here.
func attachedTo(t *testing.T, f *fake, subject image.Digest) (list []string, err error) {
	t.Helper()
	s := newStore(t)
	found, err := newClient(t, Options{}).Attached(t.Context(), s, f.ref(":1"), subject)
	for _, a := range found {
		list = append(list, a.Tag+" "+string(a.Descriptor.Digest))
		if a.Skipped != "" {
			list[len(list)-1] += " skipped"
			continue
		}
		for _, d := range append([]image.Descriptor{a.Manifest.Config}, a.Manifest.Layers...) {
			if _, err := s.Blob(d.Digest, 1<<20); err != nil {
				t.Error(err)
			}
		}
	}
	slices.Sort(list)
	return list, err
}

func sorted(words ...string) []string {
	slices.Sort(words)
	return words
}

// TestAttached: referrers by the list of the registry or by its fallback tag, and cosign's tags.
func TestAttached(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	p := f.push("1", "amd64", 10)
	if list, err := attachedTo(t, f, p.digest); err != nil || len(list) != 0 {
		t.Errorf("%q, %v", list, err)
	}
	first, a := f.artifact("", string(p.digest), []byte("one"))
	_, b := f.artifact("", string(p.digest), []byte("two"))
	_, c := f.artifact("sha256-"+p.digest.Hex()+".sig", "", []byte("three"))
	_, d := f.artifact("sha256-"+p.digest.Hex()+".att", "", []byte("four"))
	_, _ = f.artifact("", string(image.DigestOf([]byte("another"))), []byte("five"))
	want := sorted(" "+string(a), " "+string(b), "sig "+string(c), "att "+string(d))
	if list, err := attachedTo(t, f, p.digest); err != nil || !slices.Equal(list, want) {
		t.Errorf("%q, %v, want %q", list, err, want)
	}
	// A registry without the list has a tag for it.
	old := func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/referrers/") {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	}
	f.do(old)
	if list, err := attachedTo(t, f, p.digest); err != nil || !slices.Equal(list, sorted("sig "+string(c), "att "+string(d))) {
		t.Errorf("%q, %v", list, err)
	}
	f.index("sha256-"+p.digest.Hex(), described(image.MediaManifest, first, ""))
	if list, err := attachedTo(t, f, p.digest); err != nil || !slices.Equal(list, sorted(" "+string(a), "sig "+string(c), "att "+string(d))) {
		t.Errorf("%q, %v", list, err)
	}
}

// TestAttachedPages: a list may come in pages, and does not end the pull when there is no end of them.
func TestAttachedPages(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	p := f.push("1", "amd64", 10)
	var all [][]byte
	var want []string
	for i := range 3 {
		data, d := f.artifact("", string(p.digest), []byte{byte(i)})
		all, want = append(all, data), append(want, " "+string(d))
	}
	endless := false
	f.do(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		n := 0
		_, _ = fmt.Sscan(r.URL.Query().Get("n"), &n)
		if n < 2 || endless {
			// Of another host: it is asked of this one.
			w.Header().Set("Link", fmt.Sprintf(`<http://elsewhere.example%s?n=%d>; rel="next"`, r.URL.Path, n+1))
		}
		w.Header().Set("Content-Type", image.MediaIndex)
		_, _ = w.Write(text(map[string]any{"schemaVersion": 2, "mediaType": image.MediaIndex, "manifests": []any{described(image.MediaManifest, all[n%3], "")}}))
		return true
	})
	if list, err := attachedTo(t, f, p.digest); err != nil || !slices.Equal(list, sorted(want...)) {
		t.Errorf("%q, %v, want %q", list, err, want)
	}
	endless = true
	_, err := attachedTo(t, f, p.digest)
	t.Log(err)
	if n := f.count("/referrers/"); n > 2*maxPages+3 {
		t.Errorf("%d pages were asked for", n)
	}
}

// TestAttachedLies: what a list says of artifacts is not believed, large ones are left where they are, and neither hides what is good.
func TestAttachedLies(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	p := f.push("1", "amd64", 10)
	good, a := f.artifact("", string(p.digest), []byte("good"))
	foreign, _ := f.artifact("", string(p.digest), []byte("foreign"), "layers", []any{map[string]any{"digest": image.DigestOf(nil), "size": 0, "urls": []string{"https://elsewhere.example"}}})
	other, _ := f.artifact("", string(image.DigestOf([]byte("another"))), []byte("other"))
	none, _ := f.artifact("", "", []byte("none"))
	large, b := f.artifact("", string(p.digest), []byte("large"), "layers", []any{map[string]any{"digest": image.DigestOf([]byte("?")), "size": maxAttachedBlob + 1}})
	f.do(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		w.Header().Set("Content-Type", image.MediaIndex)
		_, _ = w.Write(text(map[string]any{"schemaVersion": 2, "mediaType": image.MediaIndex, "manifests": []any{
			described(image.MediaManifest, foreign, ""), described(image.MediaManifest, other, ""), described(image.MediaManifest, none, ""),
			described(image.MediaManifest, []byte("not here"), ""), described(image.MediaIndex, good, ""), map[string]any{"mediaType": image.MediaManifest},
			with(described(image.MediaManifest, good, ""), "size", 1<<40), with(described(image.MediaManifest, good, ""), "urls", []string{"x"}),
			described(image.MediaManifest, large, ""), described(image.MediaManifest, good, ""),
		}}))
		return true
	})
	list, err := attachedTo(t, f, p.digest)
	refused(t, err, "foreign layers are refused", string(image.DigestOf([]byte("not here"))))
	if want := sorted(" "+string(a), " "+string(b)+" skipped"); !slices.Equal(list, want) {
		t.Errorf("%q, want %q", list, want)
	}
}
