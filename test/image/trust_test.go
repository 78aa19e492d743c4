package image

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/image"
	"brig/test/image/fixture"
)

// signer signs as people without cosign do: with openssl.
type signer struct{ private, public string }

func (m *machine) signer(name string) *signer {
	m.t.Helper()
	s := &signer{filepath.Join(m.dir, name+".key"), filepath.Join(m.dir, name+".pub")}
	output(m.t, "openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", s.private)
	output(m.t, "openssl", "pkey", "-in", s.private, "-pubout", "-out", s.public)
	return s
}

func (s *signer) sign(t *testing.T, message string) string {
	t.Helper()
	cmd := exec.Command("openssl", "dgst", "-sha256", "-sign", s.private)
	cmd.Stdin = strings.NewReader(message)
	sig, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(sig)
}

// artifact gives the registry one that is attached, and how to find it.
func (f *forge) artifact(tag string, layer map[string]any, subject image.Digest) map[string]any {
	f.t.Helper()
	config := described(f.blob([]byte("{}")), "application/vnd.oci.empty.v1+json")
	m := map[string]any{"schemaVersion": 2, "mediaType": image.MediaManifest, "config": config, "layers": []any{layer}}
	if subject != "" {
		m["subject"] = map[string]any{"mediaType": image.MediaManifest, "digest": subject, "size": 1}
		m["artifactType"] = layer["mediaType"]
	}
	text := marshal(f.t, m)
	if tag == "" {
		tag = string(image.DigestOf(text))
	}
	f.put("PUT", "/v2/forged/manifests/"+tag, image.MediaManifest, text)
	return described(image.Descriptor{Digest: image.DigestOf(text), Size: int64(len(text))}, image.MediaManifest)
}

// sign attaches a signature the way cosign does by default up to version 2: under a tag.
func (f *forge) sign(s *signer, repository string, d image.Digest) {
	f.t.Helper()
	text := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, repository, d)
	layer := described(f.blob([]byte(text)), "application/vnd.dev.cosign.simplesigning.v1+json")
	layer["annotations"] = map[string]string{"dev.cosignproject.cosign/signature": s.sign(f.t, text)}
	f.artifact("sha256-"+d.Hex()+".sig", layer, "")
}

// attest attaches bundles, as cosign does since version 3: artifacts that refer to the image, here in the list of a registry that has
// no other.
func (f *forge) attest(s *signer, d image.Digest, predicates ...string) {
	f.t.Helper()
	var list []any
	for _, predicate := range predicates {
		text := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{"packages":["busybox"]}}`, d.Hex(), predicate)
		kind := "application/vnd.in-toto+json"
		pae := fmt.Sprintf("DSSEv1 %d %s %d %s", len(kind), kind, len(text), text)
		bundle := fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"aGludA=="}},"dsseEnvelope":{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q}]}}`,
			base64.StdEncoding.EncodeToString([]byte(text)), kind, s.sign(f.t, pae))
		a := f.artifact("", described(f.blob([]byte(bundle)), "application/vnd.dev.sigstore.bundle.v0.3+json"), d)
		a["artifactType"] = "application/vnd.dev.sigstore.bundle.v0.3+json"
		list = append(list, a)
	}
	f.put("PUT", "/v2/forged/manifests/sha256-"+d.Hex(), image.MediaIndex, marshal(f.t, map[string]any{"schemaVersion": 2, "mediaType": image.MediaIndex, "manifests": list}))
}

// saying is an image that says a word.
func saying(t *testing.T, word string) *forged {
	o := newForged(t)
	o.config["config"] = map[string]any{"Cmd": []string{"/bin/echo", word}}
	return o
}

// TestSigned: what is demanded of an image is asked before its layers are fetched, and at every run with no network.
func TestSigned(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	mine, other := m.signer("mine"), m.signer("other")
	o := saying(t, "signed")
	d := f.push(o, "1")
	name := f.ref("forged:1")
	m.fails([]string{"nothing is attached to it", string(d)}, "run", "--verify", mine.public, name)
	f.sign(mine, f.ref("forged"), d)
	m.fails([]string{"none is by these keys", other.public}, "image", "pull", "--verify", other.public, name)
	if got := f.asked("/blobs/", string(image.DigestOf(o.layers[0]))); len(got) > 0 {
		t.Errorf("layers were fetched of an image that is not signed: %v", got)
	}
	m.fails([]string{name}, "run", "--pull", "never", name)
	if out := m.ok("run", "--verify", mine.public, name); out != "signed\n" {
		t.Errorf("it printed %q", out)
	}
	f.Close()
	m.ok("image", "prune")
	m.ok("run", "--verify", other.public, "--verify", mine.public, name)
	m.ok("run", "--verify", mine.public, f.ref("forged@"+string(d)))
	m.fails([]string{"is not signed by", other.public}, "run", "--verify", other.public, name)
	m.fails([]string{"it is a private key"}, "run", "--verify", mine.private, name)
	if out := m.ok("image", "verify", "--key", mine.public, name); !strings.Contains(out, "signed by "+mine.public) {
		t.Errorf("verify says %q", out)
	}
	m.fails([]string{"is not signed by"}, "image", "verify", "--key", other.public, name)
}

// TestSignedLater: an image that was here before it was signed, and a tag that moves to what is not.
func TestSignedLater(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	mine := m.signer("mine")
	d := f.push(saying(t, "first"), "1")
	name := f.ref("forged:1")
	m.ok("run", name)
	f.attest(mine, d, "https://sigstore.dev/cosign/sign/v1")
	m.fails([]string{"nothing is attached to it", "brig image pull"}, "run", "--verify", mine.public, name)
	m.ok("image", "pull", "--verify", mine.public, name)
	m.ok("run", "--verify", mine.public, name)
	f.push(saying(t, "second"), "1")
	m.fails([]string{"nothing is attached to it"}, "run", "--pull", "always", "--verify", mine.public, name)
	if out := m.ok("run", "--verify", mine.public, name); out != "first\n" {
		t.Errorf("after a tag moved to what is not signed, it printed %q", out)
	}
	// Whoever serves the registry copies the signature of the first to the second.
	second := f.push(saying(t, "second"), "1")
	f.sign(mine, f.ref("forged"), d)
	text := f.read("/v2/forged/manifests/sha256-" + d.Hex() + ".sig")
	f.put("PUT", "/v2/forged/manifests/sha256-"+second.Hex()+".sig", image.MediaManifest, text)
	m.fails([]string{"it is of another image"}, "image", "pull", "--verify", mine.public, name)
	// A registry that does not answer for signatures is not one without.
	f.mu.Lock()
	f.before = func(w http.ResponseWriter, r *http.Request, back http.Handler) {
		if strings.Contains(r.URL.Path, "sha256-") || strings.Contains(r.URL.Path, "/referrers/") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		back.ServeHTTP(w, r)
	}
	f.mu.Unlock()
	m.fails([]string{"is not signed by", "fetch what is attached"}, "image", "pull", "--verify", mine.public, name)
	m.ok("run", "--pull", "always", name)
}

// read is what the registry itself has.
func (f *forge) read(path string) []byte {
	f.t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	f.back.ServeHTTP(w, r)
	return w.Body.Bytes()
}

// TestSignedAmongMany: neither many artifacts nor a broken one keep a signature from being found.
func TestSignedAmongMany(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	mine, other := m.signer("mine"), m.signer("other")
	d := f.push(saying(t, "signed"), "1")
	var list []any
	for n := range 80 {
		list = append(list, f.artifact("", described(f.blob(fmt.Append(nil, "junk ", n)), "application/vnd.junk"), d))
	}
	broken := f.artifact("", described(f.blob([]byte("broken")), "application/vnd.junk"), d)
	broken["size"] = 1 // which is another than it has
	list = append([]any{broken}, list...)
	f.put("PUT", "/v2/forged/manifests/sha256-"+d.Hex(), image.MediaIndex, marshal(t, map[string]any{"schemaVersion": 2, "mediaType": image.MediaIndex, "manifests": list}))
	name := f.ref("forged:1")
	m.fails([]string{"is not signed by", "the rest is left out"}, "image", "pull", "--verify", mine.public, name)
	f.sign(mine, f.ref("forged"), d)
	m.ok("run", "--verify", mine.public, name)
	m.fails([]string{"none is by these keys"}, "run", "--verify", other.public, name)
}

// TestTrustPolicy: the operator's file holds for pulls, runs and archives, by the name that an image is used under.
func TestTrustPolicy(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	mine, other := m.signer("mine"), m.signer("other")
	d := f.push(saying(t, "signed"), "1")
	unsigned := f.push(saying(t, "unsigned"), "2")
	f.sign(mine, f.ref("forged"), d)
	m.ok("image", "pull", f.ref("forged:2"))
	archive := filepath.Join(m.dir, "archive.tar")
	m.ok("image", "pull", f.ref("forged:1"))
	m.ok("image", "save", "-o", archive, f.ref("forged:2"))
	policy := fmt.Sprintf("[trust]\ndefault = \"reject\"\n[[trust.registry]]\nprefix = %q\nrequire = \"signed\"\nkeys = [%q]\n[[trust.registry]]\nprefix = \"localhost/lab\"\nrequire = \"accept\"\n",
		f.ref(""), mine.public)
	m.etc(policy)
	m.ok("image", "pull", f.ref("forged:1"))
	m.ok("run", f.ref("forged:1"))
	m.fails([]string{"is not signed by", mine.public, "trust.registry"}, "run", f.ref("forged:2"))
	m.fails([]string{"is not signed by"}, "image", "pull", f.ref("forged:2"))
	m.fails([]string{"is not signed by", other.public, "--verify"}, "run", "--verify", other.public, f.ref("forged:1"))
	m.fails([]string{"is not signed by", mine.public, "trust.registry"}, "run", "--verify", other.public, f.ref("forged:2"))
	m.fails([]string{"is rejected by trust.default"}, "image", "pull", "registry.example/forged:1")
	m.fails([]string{"is not signed by"}, "image", "load", "-i", archive)
	m.fails([]string{"is rejected by trust.default"}, "image", "load", "-i", archive, "--name", "elsewhere.example/x:1")
	m.ok("image", "load", "-i", archive, "--name", "localhost/lab/x:1")
	if out := m.ok("run", "localhost/lab/x:1"); out != "unsigned\n" {
		t.Errorf("it printed %q", out)
	}
	// The same bytes under a name that is rejected, found by their digest.
	far := newMachine(t)
	far.etc(policy)
	far.ok("image", "load", "-i", archive, "--name", "localhost/lab/x:1")
	far.ok("run", "--pull", "never", string(unsigned))
	far.fails([]string{"is rejected by trust.default"}, "run", "--pull", "never", "elsewhere.example/x@"+string(unsigned))
	if err := os.Chmod(mine.public, 0o666); err != nil { //nolint:gosec // that is what is refused
		t.Fatal(err)
	}
	m.fails([]string{"it must be root's"}, "run", f.ref("forged:1"))
}

// TestAttested: what is attested of an image comes with it, is listed, and is printed as it was signed.
func TestAttested(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	mine, other := m.signer("mine"), m.signer("other")
	d := f.push(saying(t, "attested"), "1")
	f.attest(mine, d, "https://spdx.dev/Document", "https://slsa.dev/provenance/v1")
	name := f.ref("forged:1")
	m.fails([]string{"does not say that the image may be run"}, "image", "pull", "--verify", mine.public, name)
	m.ok("image", "pull", name)
	f.Close()
	out := m.ok("image", "inspect", "--key", mine.public, name)
	for _, w := range []string{"https://spdx.dev/Document", "https://slsa.dev/provenance/v1", "signed by " + mine.public} {
		if !strings.Contains(out, w) {
			t.Errorf("inspect does not say %q:\n%s", w, out)
		}
	}
	if out := m.ok("image", "inspect", "--key", mine.public, "--attestation", "spdx", name); !strings.HasPrefix(out, `{"_type":"https://in-toto.io/Statement/v1"`) {
		t.Errorf("the attestation is %q", out)
	}
	m.fails([]string{"signed by none of the keys"}, "image", "inspect", "--key", other.public, "--attestation", "spdx", name)
	m.fails([]string{"there are [", "https://spdx.dev/Document"}, "image", "inspect", "--attestation", "vuln", name)
}

// TestSignedTravels: a signature of an index goes along with the image of one platform, to a machine that has never seen a registry and
// demands it.
func TestSignedTravels(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	mine := m.signer("mine")
	d := f.push(saying(t, "travelled"), "one")
	arm := saying(t, "arm")
	arm.config["architecture"] = "arm64"
	other := f.push(arm, "two")
	platform := func(d image.Digest, arch string) map[string]any {
		e := described(image.Descriptor{Digest: d, Size: int64(len(f.read("/v2/forged/manifests/" + string(d))))}, image.MediaManifest)
		e["platform"] = map[string]string{"os": "linux", "architecture": arch}
		return e
	}
	index := marshal(t, map[string]any{"schemaVersion": 2, "mediaType": image.MediaIndex, "manifests": []any{platform(d, "amd64"), platform(other, "arm64")}})
	f.put("PUT", "/v2/forged/manifests/1", image.MediaIndex, index)
	f.sign(mine, f.ref("forged"), image.DigestOf(index))
	name := f.ref("forged:1")
	m.ok("image", "pull", "--verify", mine.public, name)
	f.Close()
	archive := filepath.Join(m.dir, "archive.tar")
	m.ok("image", "save", "-o", archive, name)
	far := newMachine(t)
	far.etc(fmt.Sprintf("[trust]\ndefault = \"signed\"\nkeys = [%q]\n", mine.public))
	far.ok("image", "load", "-i", archive)
	if out := far.ok("run", name); out != "travelled\n" {
		t.Errorf("it printed %q", out)
	}
	far.fails([]string{"it was made for"}, "image", "load", "-i", archive, "--name", "registry.example/another:1")
}

// TestSignByHand: what docs/trust.md has people type to sign with openssl and skopeo makes a signature.
func TestSignByHand(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r, err := fixture.Start(t.TempDir(), fixture.Options{}) // that others share is not written to
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() })
	output(t, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+ref("busybox:1"), "docker://"+r.Host+"/busybox:1")
	doc, err := os.ReadFile("../../docs/trust.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```sh\nimage=registry.example/team/app tag=1\n")
	script, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("docs/trust.md has no such script")
	}
	// The registry of the test speaks plain HTTP, and Debian's skopeo wants a policy.
	head := `set -eu
skopeo() {
  verb=$1; shift
  case $verb in copy) set -- --dest-tls-verify=false "$@" ;; *) set -- --tls-verify=false "$@" ;; esac
  command skopeo --insecure-policy "$verb" "$@"
}
image=` + r.Host + `/busybox tag=1
`
	cmd := exec.Command("sh", "-c", head+script)
	cmd.Dir = m.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	other := m.signer("other")
	name := r.Host + "/busybox:1"
	if out := m.ok("run", "--verify", filepath.Join(m.dir, "team.pub"), name); out != "hello from image\n" {
		t.Errorf("it printed %q", out)
	}
	m.fails([]string{"is not signed by"}, "run", "--verify", other.public, name)
}

// TestSignedMirror: a mirror that serves the image and no signature does not make it unsigned, and alone it does not make it trusted.
func TestSignedMirror(t *testing.T) {
	t.Parallel()
	m, origin, mirror := newMachine(t), newForge(t), newForge(t)
	mine := m.signer("mine")
	o := saying(t, "mirrored")
	d := origin.push(o, "1")
	if mirror.push(saying(t, "mirrored"), "1") != d {
		t.Fatal("the two have different images")
	}
	origin.sign(mine, origin.ref("forged"), d)
	name := origin.ref("forged:1")
	config := fmt.Sprintf("[[registry]]\nhost = %q\nmirrors = [%q]\n[trust]\ndefault = \"signed\"\nkeys = [%q]\n", strings.TrimSuffix(origin.ref(""), "/"), mirror.URL, mine.public)
	m.etc(config)
	m.ok("run", name)
	if got := origin.asked("/blobs/" + string(image.DigestOf(o.layers[0]))); len(got) > 0 {
		t.Errorf("the layer came from the registry: %v", got)
	}
	origin.Close()
	m.ok("run", name)
	far := newMachine(t)
	far.etc(config)
	far.fails([]string{"is not signed by"}, "run", name)
}
