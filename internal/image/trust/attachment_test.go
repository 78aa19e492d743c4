package trust

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"brig/internal/image"
)

const (
	spdx       = "https://spdx.dev/Document"
	provenance = "https://slsa.dev/provenance/v1"
)

// TestAttachments: what cosign, referrers and buildkit attach is listed with its type, who signed it, and what is wrong with it.
func TestAttachments(t *testing.T) {
	t.Parallel()
	s, thief := newSigner(t, "p256"), newSigner(t, "p256")
	f := newFixture(t)
	f.attach(f.manifest, f.simple(s, claimOf(name, f.manifest)))
	f.attach(f.index, f.layer(mediaEnvelope, envelopeOf(t, s, mediaStatement, statementOf(spdx, f.index))))
	f.attach(f.manifest, f.bundle(thief, provenance, f.manifest))
	f.attach(f.manifest, f.bundle(s, "https://example.com/other", image.DigestOf(nil)))
	f.attach(f.manifest, f.layer("application/vnd.cyclonedx+json", `{"bomFormat":"CycloneDX"}`))
	f.attach(f.manifest, image.Descriptor{MediaType: mediaEnvelope, Digest: image.DigestOf([]byte("not fetched")), Size: 20 << 20})
	keys := demand(t, s).Keys
	list, err := Attachments(f.s, f.index, f.manifest, keys)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range list {
		got = append(got, fmt.Sprintf("%s signature=%v signatures=%d mine=%v %s", a.Type, a.Signature, a.Signatures, len(a.SignedBy) > 0, a.Problem))
	}
	want := []string{
		mediaSimpleSigning + " signature=true signatures=1 mine=true ",
		spdx + " signature=false signatures=1 mine=true ",
		provenance + " signature=false signatures=1 mine=false ",
		"https://example.com/other signature=false signatures=1 mine=true it is of another image",
		"application/vnd.cyclonedx+json signature=false signatures=0 mine=false ",
		mediaEnvelope + " signature=false signatures=0 mine=false it is not here, or too large to be read",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, c := range []struct {
		word   string
		signed bool
		want   string // of the content, or of the error
	}{
		{"spdx", true, `"predicateType":"` + spdx + `"`},
		{provenance, false, `"predicateType":"` + provenance + `"`},
		{"provenance", true, "signed by none of the keys"},
		{"other", true, "it is of another image"},
		{"https", false, "more than one attestation"},
		{"vuln", false, "there is no attestation"},
		{"cyclonedx", false, "CycloneDX"},
	} {
		a, err := Find(list, c.word, c.signed)
		text := fmt.Sprint(err)
		if err == nil {
			text = string(a.Content())
		}
		if !strings.Contains(text, c.want) {
			t.Errorf("%s: %s, want … %s", c.word, text, c.want)
		}
	}
	if names, err := SignedBy(f.s, demand(t).Ref, f.index, f.manifest, append(keys, demand(t, thief).Keys...)); err != nil || !slices.Equal(names, []string{s.public}) {
		t.Errorf("signed by %v, %v", names, err)
	}
}

// TestEmbedded: what buildkit puts into the index is found there, for the manifest that it says.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	text := statementOf(spdx, f.manifest)
	l := f.layer(mediaStatement, text)
	l.Annotations = map[string]string{annotationPredicate: spdx}
	att := image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Config: image.Descriptor{Digest: f.bytes([]byte("{}")), Size: 2}, Layers: []image.Descriptor{l}}
	data, err := json.Marshal(att)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(subject image.Digest) image.Descriptor {
		return image.Descriptor{MediaType: image.MediaManifest, Digest: f.bytes(data), Size: int64(len(data)), Platform: &image.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{annotationReferenceType: referenceAttestation, annotationReferenceDigest: string(subject)}}
	}
	index := f.put(image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: []image.Descriptor{
		{MediaType: image.MediaManifest, Digest: f.manifest}, {MediaType: image.MediaManifest, Digest: f.other}, entry(f.manifest),
	}})
	list, err := Attachments(f.s, index, f.manifest, nil)
	if err != nil || len(list) != 1 || list[0].Type != spdx || list[0].Problem != "" || string(list[0].Content()) != text {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := Attachments(f.s, index, f.other, nil); err != nil || len(list) != 0 {
		t.Errorf("of the other manifest: %+v, %v", list, err)
	}
}
