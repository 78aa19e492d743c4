package image

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
)

const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// TestRefs: what people write, and what it means; docker's documentation has the same.
func TestRefs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][3]string{
		"alpine":                            {"index.docker.io", "library/alpine", "alpine:latest"},
		"alpine:3.22":                       {"index.docker.io", "library/alpine", "alpine:3.22"},
		"docker.io/alpine":                  {"index.docker.io", "library/alpine", "alpine:latest"},
		"me/app":                            {"index.docker.io", "me/app", "me/app:latest"},
		"alpine:3.22@" + sum:                {"index.docker.io", "library/alpine", "alpine@" + sum},
		"localhost/app":                     {"localhost", "app", "localhost/app:latest"},
		"localhost:5000/app":                {"localhost:5000", "app", "localhost:5000/app:latest"},
		"[::1]:5000/app/x__y:V1":            {"[::1]:5000", "app/x__y", "[::1]:5000/app/x__y:V1"},
		"registry.example/a/b-c/d.e:latest": {"registry.example", "a/b-c/d.e", "registry.example/a/b-c/d.e:latest"},
	} {
		r, err := ParseRef(text)
		if err != nil || r.Registry() != want[0] || r.Repository() != want[1] || r.String() != want[2] {
			t.Errorf("%s: %s %s %s, %v; want %v", text, r.Registry(), r.Repository(), r, err, want)
		}
		again, err := ParseRef(r.Name())
		if err != nil || again != r {
			t.Errorf("%s: its name %s is read as %v, %v", text, r.Name(), again, err)
		}
	}
	for _, text := range []string{
		"", "Alpine", "alpine:", "alpine@sha256:12", ":tag", "a//b", "a/../b", "../a", "/a", "a b", "a:t@md5:00", "-a", "a-", "a:.t", "a:" + strings.Repeat("x", 129),
		"a\x00b", "host:port/app", "host:123456/app", "http://registry.example/app",
	} {
		if r, err := ParseRef(text); err == nil {
			t.Errorf("%q is read as %s", text, r.Name())
		}
	}
}

// FuzzRef compares with go-containerregistry: what both take means the same. It may take more (it does not look at how
// separators stand), but not what it refuses.
func FuzzRef(f *testing.F) {
	for _, s := range []string{"alpine", "a.b/c:d", "localhost:5000/x@" + sum, "[::1]:5/x", "docker.io/x/y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRef(text)
		if err != nil {
			return
		}
		if strings.HasPrefix(text, "localhost/") || strings.ContainsAny(r.registry, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
			return // docker's reading, and not that library's
		}
		other, err := name.ParseReference(text)
		if err != nil {
			if len(r.repository) < 2 || strings.Contains(err.Error(), "repository can only contain") {
				return // the library wants two letters
			}
			t.Fatalf("%q is read as %s, and refused by the judge: %v", text, r.Name(), err)
		}
		if other.Name() != r.Name() {
			t.Fatalf("%q is read as %s, and by the judge as %s", text, r.Name(), other.Name())
		}
	})
}
