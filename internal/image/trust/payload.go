package trust

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"brig/internal/image"
)

// The types of what cosign attaches.
const (
	mediaSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	mediaEnvelope      = "application/vnd.dsse.envelope.v1+json"
	mediaStatement     = "application/vnd.in-toto+json"
	// mediaBundle is how all versions of sigstore's bundle begin: "….v0.3+json", and "…+json;version=0.2" before.
	mediaBundle = "application/vnd.dev.sigstore.bundle"

	annotationSignature   = "dev.cosignproject.cosign/signature"
	annotationCertificate = "dev.sigstore.cosign/certificate"

	// payloadType is what a simple-signing payload says it is.
	payloadType = "cosign container image signature"
	// predicateSign is what the statement of an image's signature says it is; every other predicate says something about an image that
	// whoever wrote it need not have wanted to be run.
	predicateSign = "https://sigstore.dev/cosign/sign/v1"
)

// payload is what a simple signature is made over (SIGNATURE_SPEC.md, "Simple Signing").
type payload struct {
	digest image.Digest
	// reference is the name that was signed: a repository, sometimes with a tag.
	reference string
}

func parsePayload(data []byte) (payload, error) {
	o, err := parseObject(data)
	if err != nil {
		return payload{}, err
	}
	critical := o.object("critical")
	if t := critical.text("type"); t != payloadType {
		return payload{}, fmt.Errorf("it is a %.60q, and no %q", t, payloadType)
	}
	d, err := image.ParseDigest(critical.object("image").text("docker-manifest-digest"))
	if err != nil {
		return payload{}, err
	}
	return payload{d, critical.object("identity").text("docker-reference")}, nil
}

// envelope is a DSSE envelope: a payload and signatures of it.
type envelope struct {
	kind    string
	payload []byte
	sigs    [][]byte
}

// maxEnvelopeSigs is how many signatures of one envelope are tried.
const maxEnvelopeSigs = 10

func parseEnvelope(o object) (*envelope, error) {
	e := &envelope{kind: o.text("payloadType")}
	var err error
	if e.payload, err = decodeBase64(o.text("payload")); err != nil {
		return nil, fmt.Errorf("its payload: %w", err)
	}
	list := o.list("signatures")
	if len(list) > maxEnvelopeSigs {
		return nil, fmt.Errorf("it has %d signatures; more than %d are refused", len(list), maxEnvelopeSigs)
	}
	for _, v := range list {
		s, _ := v.(object)
		sig, err := decodeBase64(s.text("sig"))
		if err != nil {
			return nil, fmt.Errorf("a signature of it: %w", err)
		}
		e.sigs = append(e.sigs, sig)
	}
	return e, nil
}

// signed is what the signatures are made over: DSSE's PAE, which no payload of another kind can begin like.
func (e *envelope) signed() []byte {
	var b strings.Builder
	b.Grow(len(e.payload) + len(e.kind) + 32)
	b.WriteString("DSSEv1 " + strconv.Itoa(len(e.kind)) + " " + e.kind + " " + strconv.Itoa(len(e.payload)) + " ")
	b.Write(e.payload)
	return []byte(b.String())
}

// parseBundle reads sigstore's bundle: an envelope, and how to get at the key. certificate: it is signed by one that was made for the
// purpose, and not by a key that anybody has.
func parseBundle(data []byte) (e *envelope, certificate bool, err error) {
	o, err := parseObject(data)
	if err != nil {
		return nil, false, err
	}
	if !strings.HasPrefix(o.text("mediaType"), mediaBundle) {
		return nil, false, fmt.Errorf("it is of the type %.60q, and no bundle", o.text("mediaType"))
	}
	material := o.object("verificationMaterial")
	certificate = material["certificate"] != nil || material["x509CertificateChain"] != nil
	dsse := o.object("dsseEnvelope")
	if dsse == nil {
		return nil, certificate, errors.New("the bundle has no DSSE envelope; a signature of an image has one")
	}
	e, err = parseEnvelope(dsse)
	return e, certificate, err
}

// statement is an in-toto statement: something that is said of things by their digests.
type statement struct {
	predicate string
	digests   []image.Digest
}

// has tells whether the statement is about a digest.
func (s statement) has(d image.Digest) bool { return slices.Contains(s.digests, d) }

func parseStatement(data []byte) (statement, error) {
	o, err := parseObject(data, "predicate")
	if err != nil {
		return statement{}, err
	}
	if t := o.text("_type"); t != "https://in-toto.io/Statement/v1" && t != "https://in-toto.io/Statement/v0.1" {
		return statement{}, fmt.Errorf("it is of the type %.60q, and no in-toto statement", t)
	}
	s := statement{predicate: o.text("predicateType")}
	if s.predicate == "" { // or it is written in letters that another reader would take for it
		return s, errors.New("the statement does not say of what type it is (predicateType)")
	}
	for _, v := range o.list("subject") {
		subject, _ := v.(object)
		if d, err := image.ParseDigest("sha256:" + subject.object("digest").text("sha256")); err == nil {
			s.digests = append(s.digests, d)
		}
	}
	return s, nil
}

// parseSigned reads the statement of an envelope, after the signature was found good.
func (e *envelope) parseSigned() (statement, error) {
	if e.kind != mediaStatement {
		return statement{}, fmt.Errorf("what is signed is of the type %.60q, and no in-toto statement", e.kind)
	}
	return parseStatement(e.payload)
}

// decodeBase64 takes the standard alphabet and that of URLs: an envelope may have either (DSSE, envelope.md). What is not
// exactly one of them is refused.
func decodeBase64(text string) ([]byte, error) {
	if text == "" || strings.ContainsAny(text, "\r\n") { // which the library passes over
		return nil, errors.New("it is no base64")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		b, err = base64.URLEncoding.Strict().DecodeString(text)
	}
	return b, err
}
