package trust

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brig/internal/image"
	"brig/internal/operator"
)

const name = "registry.example/team/app"

// demand wants a signature of any of the keys, under the name.
func demand(t testing.TB, signers ...*signer) Demand {
	t.Helper()
	ref, err := image.ParseRef(name + ":1")
	if err != nil {
		t.Fatal(err)
	}
	d := Demand{By: "--verify", Ref: ref}
	for _, s := range signers {
		keys, err := ReadKeys(s.public)
		if err != nil {
			t.Fatal(err)
		}
		d.Keys = append(d.Keys, keys...)
	}
	return d
}

func TestKinds(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"p256", "p384", "p384-sha384", "rsa2048", "ed25519", "ed25519-ph"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			curve, hash, _ := strings.Cut(kind, "-")
			s, other := newSigner(t, curve), newSigner(t, curve)
			switch hash {
			case "ph":
				s.prehash = true
			case "sha384":
				s.hash = "-sha384"
			}
			f := newFixture(t)
			f.attach(f.manifest, f.simple(s, claimOf(name, f.manifest)))
			g := newFixture(t)
			g.attach(g.index, g.bundle(s, predicateSign, g.index))
			for _, f := range []*fixture{f, g} {
				if err := Check(f.s, f.index, f.manifest, []Demand{demand(t, s)}); err != nil {
					t.Error(err)
				}
				if err := Check(f.s, f.index, f.manifest, []Demand{demand(t, other, s)}); err != nil {
					t.Errorf("one of two keys: %v", err)
				}
				both := demand(t, other, s)
				both.All = true
				for _, d := range []Demand{demand(t, other), both} {
					var unsigned *UnsignedError
					if err := Check(f.s, f.index, f.manifest, []Demand{d}); !errors.As(err, &unsigned) {
						t.Errorf("another key: %v", err)
					}
				}
			}
		})
	}
}

// TestOpensslAgrees: a signature is good here when it is for openssl, and only then.
func TestOpensslAgrees(t *testing.T) {
	t.Parallel()
	message := []byte(claimOf(name, image.DigestOf(nil)))
	for _, kind := range []string{"p256", "p384", "rsa2048", "ed25519"} {
		s, other := newSigner(t, kind), newSigner(t, kind)
		k := demand(t, s).Keys[0]
		sig := s.sign(t, message)
		flipped := append([]byte{}, sig...)
		flipped[len(flipped)-1] ^= 1
		for what, c := range map[string]struct {
			message, sig []byte
			good         bool
		}{
			"good":            {message, sig, true},
			"another message": {append(message[:len(message):len(message)], ' '), sig, false},
			"a flipped bit":   {message, flipped, false},
			"another's":       {message, other.sign(t, message), false},
			"cut":             {message, sig[:len(sig)-1], false},
			"longer":          {message, append(sig[:len(sig):len(sig)], 0), false},
			"empty":           {message, nil, false},
		} {
			judge := s.agrees(t, c.message, c.sig)
			if what == "longer" {
				judge = false // openssl dgst reads no more of the file than an RSA signature has
			}
			if got := k.verify(c.message, c.sig); got != c.good || judge != c.good {
				t.Errorf("%s, %s: good is %v, openssl says %v, want %v", kind, what, got, judge, c.good)
			}
		}
	}
}

// TestAttacks: what looks like a signature of the image, and is none. Each is taken when the one thing that is wrong with it is right.
func TestAttacks(t *testing.T) {
	t.Parallel()
	s, thief := newSigner(t, "p256"), newSigner(t, "p256")
	long := strings.Repeat(" ", maxPayload)
	for what, c := range map[string]struct {
		attach func(f *fixture)
		words  string
	}{
		"nothing attached": {func(*fixture) {}, "nothing is attached"},
		"stripped": {func(f *fixture) {
			l := f.simple(s, claimOf(name, f.manifest))
			l.Annotations = nil
			f.attach(f.manifest, l)
		}, "1 cannot be read"},
		"by another key": {func(f *fixture) { f.attach(f.manifest, f.simple(thief, claimOf(name, f.manifest))) }, "none is by these keys"},
		"copied from another image": {func(f *fixture) {
			f.attach(f.manifest, f.simple(s, claimOf(name, image.DigestOf([]byte("another")))))
		}, "it is of another image"},
		"of the manifest for another platform": {func(f *fixture) { f.attach(f.manifest, f.simple(s, claimOf(name, f.other))) }, "it is of another image"},
		"payload changed after signing": {func(f *fixture) {
			l := f.simple(s, claimOf(name, image.DigestOf(nil)))
			l.Digest = f.bytes([]byte(claimOf(name, f.manifest)))
			f.attach(f.manifest, l)
		}, "none is by these keys"},
		"for another repository": {func(f *fixture) { f.attach(f.manifest, f.simple(s, claimOf("registry.example/team/old", f.manifest))) }, "it was made for registry.example/team/old"},
		"for a repository below": {func(f *fixture) { f.attach(f.manifest, f.simple(s, claimOf(name+"/debug", f.manifest))) }, "it was made for"},
		"for no repository":      {func(f *fixture) { f.attach(f.manifest, f.simple(s, claimOf("", f.manifest))) }, "it names no image"},
		"of another type": {func(f *fixture) {
			f.attach(f.manifest, f.simple(s, strings.Replace(claimOf(name, f.manifest), "cosign container", "atomic container", 1)))
		}, "atomic container"},
		"two digests in one payload":   {func(f *fixture) { f.attach(f.manifest, f.simple(s, twice(f, "docker-manifest-digest"))) }, "twice"},
		"two digests in other letters": {func(f *fixture) { f.attach(f.manifest, f.simple(s, twice(f, "Docker-manifest-digest"))) }, "twice"},
		"a digest in other letters": {func(f *fixture) {
			f.attach(f.manifest, f.simple(s, strings.Replace(claimOf(name, f.manifest), "docker-m", "Docker-m", 1)))
		}, "is no digest"},
		"more behind the payload": {func(f *fixture) { f.attach(f.manifest, f.simple(s, claimOf(name, f.manifest)+"{}")) }, "not valid JSON"},
		"a huge payload":          {func(f *fixture) { f.attach(f.manifest, f.simple(s, claimOf(name, f.manifest)+long)) }, "cannot be read"},
		"a payload nested deep": {func(f *fixture) {
			deep := strings.Repeat("[", 1000) + strings.Repeat("]", 1000)
			f.attach(f.manifest, f.simple(s, strings.Replace(claimOf(name, f.manifest), "null", deep, 1)))
		}, "nested more than"},
		"an attestation":             {func(f *fixture) { f.attach(f.manifest, f.bundle(s, "https://slsa.dev/provenance/v1", f.manifest)) }, "does not say that the image may be run"},
		"a bundle for another image": {func(f *fixture) { f.attach(f.manifest, f.bundle(s, predicateSign, f.other)) }, "it is of another image"},
		"a bundle by another key":    {func(f *fixture) { f.attach(f.manifest, f.bundle(thief, predicateSign, f.manifest)) }, "none is by these keys"},
		"a bundle without an envelope": {func(f *fixture) {
			f.attach(f.manifest, f.layer(mediaBundle+".v0.3+json", `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","messageSignature":{}}`))
		}, "no DSSE envelope"},
		"an envelope of another type": {func(f *fixture) {
			f.attach(f.manifest, f.layer(mediaEnvelope, envelopeOf(t, s, "text/plain", statementOf(predicateSign, f.manifest))))
		}, "no in-toto statement"},
		"a type changed after signing": {func(f *fixture) {
			e := envelopeOf(t, s, "text/plain", statementOf(predicateSign, f.manifest))
			f.attach(f.manifest, f.layer(mediaEnvelope, strings.Replace(e, "text/plain", mediaStatement, 1)))
		}, "none is by these keys"},
		"a payload signed as it is, in an envelope": {func(f *fixture) {
			body := statementOf(predicateSign, f.manifest)
			e := fmt.Sprintf(`{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q}]}`, base64.StdEncoding.EncodeToString([]byte(body)), mediaStatement,
				base64.StdEncoding.EncodeToString(s.sign(t, []byte(body))))
			f.attach(f.manifest, f.layer(mediaEnvelope, e))
		}, "none is by these keys"},
		"a statement as a payload": {func(f *fixture) { f.attach(f.manifest, f.simple(s, statementOf(predicateSign, f.manifest))) }, "cosign container image signature"},
		"signed without a key": {func(f *fixture) {
			e := envelopeOf(t, thief, mediaStatement, statementOf(predicateSign, f.manifest))
			f.attach(f.manifest, f.layer(mediaBundle+".v0.3+json", bundleOf(e, `{"certificate":{"rawBytes":"AAAA"}}`)))
		}, "by a certificate of Fulcio, which is not supported"},
		"attached to the other image only": {func(f *fixture) { f.attach(f.other, f.simple(s, claimOf(name, f.other))) }, "nothing is attached"},
		"a good one behind too many": {func(f *fixture) {
			good, bad := f.simple(s, claimOf(name, f.manifest)), f.simple(thief, claimOf(name, f.manifest))
			var layers []image.Descriptor
			for range maxLayers {
				layers = append(layers, bad)
			}
			f.attach(f.manifest, append(layers, good)...)
		}, "none is by these keys"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			c.attach(f)
			err := Check(f.s, f.index, f.manifest, []Demand{demand(t, s)})
			var unsigned *UnsignedError
			if !errors.As(err, &unsigned) || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), string(f.manifest)) {
				t.Fatalf("%v\nwant … %s", err, c.words)
			}
			// A good signature beside it makes it good: nothing that others attach takes it away.
			f.attach(f.manifest, f.simple(s, claimOf(name, f.manifest)))
			if err := Check(f.s, f.index, f.manifest, []Demand{demand(t, s)}); err != nil {
				t.Error(err)
			}
		})
	}
}

// twice is a payload with two digests, the good one last, where the standard library takes it.
func twice(f *fixture, member string) string {
	return strings.Replace(claimOf(name, f.manifest), `"docker-manifest-digest"`, fmt.Sprintf(`%q:%q,"docker-manifest-digest"`, member, f.other), 1)
}

// TestIndex: a signature of the index is one of the manifests that are in it, and of no other.
func TestIndex(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "ed25519")
	f := newFixture(t)
	f.attach(f.index, f.simple(s, claimOf(name, f.index)))
	for _, m := range []image.Digest{f.manifest, f.other} {
		if err := Check(f.s, f.index, m, []Demand{demand(t, s)}); err != nil {
			t.Error(err)
		}
	}
	outer := f.put(image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: []image.Descriptor{{MediaType: image.MediaIndex, Digest: f.index}}})
	f.attach(outer, f.simple(s, claimOf(name, outer)))
	if err := Check(f.s, outer, f.manifest, []Demand{demand(t, s)}); err != nil {
		t.Errorf("an index in an index: %v", err)
	}
	// Each of four indexes has the next one a thousand times, and the last has not what is looked for.
	bomb := f.put(image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: []image.Descriptor{}})
	for range 4 {
		bomb = f.put(image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: slices.Repeat([]image.Descriptor{{MediaType: image.MediaIndex, Digest: bomb}}, 1000)})
	}
	if err := Check(f.s, bomb, f.manifest, []Demand{demand(t, s)}); err == nil || !strings.Contains(err.Error(), "has no manifest") {
		t.Errorf("a bomb of indexes: %v", err)
	}
	swapped := f.image("swapped")
	if err := Check(f.s, f.index, swapped, []Demand{demand(t, s)}); err == nil || !strings.Contains(err.Error(), "has no manifest") {
		t.Errorf("a manifest that is not in the signed index: %v", err)
	}
	if err := Check(f.s, f.manifest, f.manifest, []Demand{demand(t, s)}); err == nil {
		t.Error("the manifest alone was taken with a signature of an index that it was not chosen from")
	}
	// The tag moved: the same name points to another index, whose signature is not here.
	moved := f.put(image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: []image.Descriptor{{MediaType: image.MediaManifest, Digest: swapped}}})
	if err := Check(f.s, moved, swapped, []Demand{demand(t, s)}); err == nil {
		t.Error("an unsigned image was taken under the name of a signed one")
	}
}

// TestDamage: a signature that is not what came in is none, and the file is named.
func TestDamage(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "p256")
	f := newFixture(t)
	l := f.simple(s, claimOf(name, f.manifest))
	f.attach(f.manifest, l)
	if err := os.WriteFile(filepath.Join(f.s.Dir(), "blobs/sha256", l.Digest.Hex()), []byte(claimOf(name, f.manifest)+" "), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Check(f.s, f.index, f.manifest, []Demand{demand(t, s)}); err == nil || !strings.Contains(err.Error(), l.Digest.Hex()+" is damaged") {
		t.Error(err)
	}
}

// TestNames: a signature under another name counts where the operator says so, and docker's names are one.
func TestNames(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "p256")
	f := newFixture(t)
	f.attach(f.manifest, f.simple(s, claimOf("docker.io/library/app", f.manifest)))
	d := demand(t, s)
	for _, c := range []struct {
		name     string
		signedAs []string
		good     bool
	}{
		{"app:1", nil, true},
		{"index.docker.io/library/app:2", nil, true},
		{"registry.example/app", nil, false},
		{"registry.example/app", []string{"docker.io/library"}, true},
		{"registry.example/app", []string{"docker.io/lib"}, false},
	} {
		ref, err := image.ParseRef(c.name)
		if err != nil {
			t.Fatal(err)
		}
		d.Ref, d.SignedAs = ref, c.signedAs
		if err := Check(f.s, f.index, f.manifest, []Demand{d}); (err == nil) != c.good {
			t.Errorf("%s, signed as %v: %v", c.name, c.signedAs, err)
		}
	}
}

// TestDemands: keys of the command line add to what the operator wants, and take nothing from it.
func TestDemands(t *testing.T) {
	t.Parallel()
	s := newSigner(t, "p256")
	ref, _ := image.ParseRef(name)
	policy := func(text string) *operator.Policy {
		p, err := operator.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	signed := "[trust]\ndefault = \"signed\"\nkeys = [\"" + s.public + "\"]\n"
	var rejected *RejectedError
	if _, err := Demands(policy("[trust]\ndefault = \"reject\""), ref, []string{s.public}); !errors.As(err, &rejected) {
		t.Errorf("a rejected image: %v", err)
	}
	for _, c := range []struct {
		policy *operator.Policy
		keys   []string
		want   int
	}{{nil, nil, 0}, {nil, []string{s.public}, 1}, {policy(signed), nil, 1}, {policy(signed), []string{s.public}, 2}} {
		if list, err := Demands(c.policy, ref, c.keys); err != nil || len(list) != c.want {
			t.Errorf("%d demands, want %d, %v", len(list), c.want, err)
		}
	}
	if err := os.Chmod(s.public, 0o622); err != nil {
		t.Fatal(err)
	}
	if _, err := Demands(policy(signed), ref, nil); err == nil || !strings.Contains(err.Error(), "it must be root's") {
		t.Errorf("a key that anybody may write: %v", err)
	}
	if _, err := Demands(policy("[trust]\ndefault = \"signed\"\nkeys = [\"/no/such\"]"), ref, nil); err == nil || !strings.Contains(err.Error(), "key /no/such: no such file") {
		t.Errorf("a key that is not there: %v", err)
	}
}

// BenchmarkCheck is what a run that demands a signature pays.
func BenchmarkCheck(b *testing.B) {
	for _, kind := range []string{"p256", "rsa2048", "ed25519"} {
		b.Run(kind, func(b *testing.B) {
			s := newSigner(b, kind)
			f := newFixture(b)
			f.attach(f.index, f.simple(s, claimOf(name, f.index)))
			for b.Loop() {
				keys, err := ReadKeys(s.public)
				if err != nil {
					b.Fatal(err)
				}
				d := demand(b)
				d.Keys = keys
				if err := Check(f.s, f.index, f.manifest, []Demand{d}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
