package trust

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"brig/internal/image"
)

// signer is a key of openssl's making: openssl makes the keys and the signatures of these tests, and what is tested checks them.
type signer struct {
	private, public string // files
	raw             bool   // Ed25519 signs the message, the others its hash
	prehash         bool   // or, as cosign has it, its hash by Ed25519ph, which Debian's openssl does not know
	hash            string
}

func newSigner(t testing.TB, kind string) *signer {
	t.Helper()
	dir := t.TempDir()
	s := &signer{private: filepath.Join(dir, "key"), public: filepath.Join(dir, "key.pub"), raw: kind == "ed25519", hash: "-sha256"}
	args := map[string][]string{
		"p256": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"}, "p384": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
		"p521": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"}, "secp256k1": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"},
		"rsa2048": {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"}, "rsa1024": {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"},
		"rsa-e3":  {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_pubexp:3"},
		"ed25519": {"-algorithm", "ED25519"}, "x25519": {"-algorithm", "X25519"},
	}[kind]
	openssl(t, append([]string{"genpkey", "-out", s.private}, args...)...)
	openssl(t, "pkey", "-in", s.private, "-pubout", "-out", s.public)
	return s
}

func openssl(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
}

func (s *signer) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "message"), filepath.Join(dir, "sig")
	write(t, in, message)
	if s.prehash {
		return s.signPrehashed(t, message)
	}
	if s.raw {
		openssl(t, "pkeyutl", "-sign", "-rawin", "-inkey", s.private, "-in", in, "-out", out)
	} else {
		openssl(t, "dgst", s.hash, "-sign", s.private, "-out", out, in)
	}
	sig, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func (s *signer) signPrehashed(t testing.TB, message []byte) []byte {
	t.Helper()
	text, err := os.ReadFile(s.private)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(message)
	sig, err := key.(ed25519.PrivateKey).Sign(nil, sum[:], &ed25519.Options{Hash: crypto.SHA512})
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// agrees asks openssl whether a signature is good.
func (s *signer) agrees(t testing.TB, message, sig []byte) bool {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "message"), filepath.Join(dir, "sig")
	write(t, in, message)
	write(t, out, sig)
	if s.raw {
		return exec.Command("openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", s.public, "-in", in, "-sigfile", out).Run() == nil
	}
	return exec.Command("openssl", "dgst", s.hash, "-verify", s.public, "-signature", out, in).Run() == nil
}

func write(t testing.TB, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// fixture is a store with an index of two images.
type fixture struct {
	t               testing.TB
	s               *image.Store
	manifest, other image.Digest
	index           image.Digest
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	s, err := image.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, s: s}
	f.manifest, f.other = f.image("one"), f.image("two")
	f.index = f.put(image.Index{SchemaVersion: 2, MediaType: image.MediaIndex, Manifests: []image.Descriptor{
		{MediaType: image.MediaManifest, Digest: f.manifest, Platform: &image.Platform{OS: "linux", Architecture: "amd64"}},
		{MediaType: image.MediaManifest, Digest: f.other, Platform: &image.Platform{OS: "linux", Architecture: "arm64"}},
	}})
	return f
}

func (f *fixture) image(text string) image.Digest {
	return f.put(image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Config: image.Descriptor{Digest: f.bytes([]byte(text)), Size: int64(len(text))}, Layers: []image.Descriptor{}})
}

func (f *fixture) bytes(data []byte) image.Digest {
	f.t.Helper()
	d, err := f.s.Put(data)
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

func (f *fixture) put(v any) image.Digest {
	f.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.bytes(data)
}

// attach attaches an artifact of the given layers.
func (f *fixture) attach(subject image.Digest, layers ...image.Descriptor) {
	f.t.Helper()
	m := f.put(image.Manifest{SchemaVersion: 2, MediaType: image.MediaManifest, Config: image.Descriptor{Digest: f.bytes([]byte("{}")), Size: 2}, Layers: layers})
	if err := f.s.Attach(subject, []image.Descriptor{{MediaType: image.MediaManifest, Digest: m}}); err != nil {
		f.t.Fatal(err)
	}
}

// simple is a layer as cosign's classic signatures are.
func (f *fixture) simple(s *signer, text string) image.Descriptor {
	f.t.Helper()
	return image.Descriptor{
		MediaType: mediaSimpleSigning, Digest: f.bytes([]byte(text)), Size: int64(len(text)),
		Annotations: map[string]string{annotationSignature: base64.StdEncoding.EncodeToString(s.sign(f.t, []byte(text)))},
	}
}

// claimOf is the payload that cosign makes for a digest.
func claimOf(reference string, d image.Digest) string {
	return fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, reference, d)
}

// statementOf is the statement that cosign makes since version 3.
func statementOf(predicate string, d image.Digest) string {
	return fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q},"annotations":{}}],"predicateType":%q,"predicate":{"a":[1,{"b":null}]}}`, d.Hex(), predicate)
}

func envelopeOf(t testing.TB, s *signer, kind, body string) string {
	pae := fmt.Sprintf("DSSEv1 %d %s %d %s", len(kind), kind, len(body), body)
	return fmt.Sprintf(`{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q,"keyid":""}]}`,
		base64.StdEncoding.EncodeToString([]byte(body)), kind, base64.StdEncoding.EncodeToString(s.sign(t, []byte(pae))))
}

// bundleOf is sigstore's bundle around an envelope.
func bundleOf(envelope, material string) string {
	return `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":` + material + `,"dsseEnvelope":` + envelope + `}`
}

const withKey = `{"publicKey":{"hint":"aGludA=="},"tlogEntries":[]}`

func (f *fixture) layer(kind, text string) image.Descriptor {
	return image.Descriptor{MediaType: kind, Digest: f.bytes([]byte(text)), Size: int64(len(text))}
}

func (f *fixture) bundle(s *signer, predicate string, d image.Digest) image.Descriptor {
	return f.layer("application/vnd.dev.sigstore.bundle.v0.3+json", bundleOf(envelopeOf(f.t, s, mediaStatement, statementOf(predicate, d)), withKey))
}
