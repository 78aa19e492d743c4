package trust

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/image"
)

// TestCosign: what cosign 3.1.3 itself made is taken: `cosign sign --key KIND.key`, with and without --new-bundle-format=false, of the
// image manifest.json. For the second the name was given by --sign-container-identity.
func TestCosign(t *testing.T) {
	t.Parallel()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join("testdata/cosign", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	kinds := []string{"p256", "p384", "rsa", "ed25519"}
	for i, kind := range kinds {
		keys, err := ReadKeys(filepath.Join("testdata/cosign", kind+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		others, err := ReadKeys(filepath.Join("testdata/cosign", kinds[(i+1)%len(kinds)]+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		for _, bundle := range []bool{true, false} {
			f := newFixture(t)
			d := f.bytes(read("manifest.json"))
			if bundle {
				f.attach(d, f.layer(mediaBundle+".v0.3+json", string(read(kind+".bundle"))))
			} else {
				l := f.layer(mediaSimpleSigning, string(read("payload")))
				l.Annotations = map[string]string{annotationSignature: strings.TrimSpace(string(read(kind + ".sig")))}
				f.attach(d, l)
			}
			want := demand(t)
			want.Keys = keys
			if err := Check(f.s, d, d, []Demand{want}); err != nil {
				t.Errorf("%s, bundle %v: %v", kind, bundle, err)
			}
			want.Keys = others
			if err := Check(f.s, d, d, []Demand{want}); err == nil {
				t.Errorf("%s, bundle %v: another key took it", kind, bundle)
			}
			want.Keys, want.Ref = keys, must(t, "registry.example/team/another:1")
			if err := Check(f.s, d, d, []Demand{want}); (err == nil) != bundle { // a bundle says no name
				t.Errorf("%s, bundle %v, under another name: %v", kind, bundle, err)
			}
		}
	}
}

func must(t *testing.T, name string) image.Ref {
	t.Helper()
	ref, err := image.ParseRef(name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}
