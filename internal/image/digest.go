package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Digest names content: "sha256:" and 64 hexadecimal digits (image-spec, descriptor.md). The zero Digest is none.
type Digest string

const algorithm = "sha256:"

// ParseDigest checks a digest. Other algorithms than sha256 are refused: no registry in use has them.
func ParseDigest(text string) (Digest, error) {
	h, ok := strings.CutPrefix(text, algorithm)
	if !ok || len(h) != 2*sha256.Size || strings.Trim(h, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%.100q is no digest; one is sha256: and 64 hexadecimal digits", text)
	}
	return Digest(text), nil
}

// DigestOf is the digest of data.
func DigestOf(data []byte) Digest {
	sum := sha256.Sum256(data)
	return Digest(algorithm + hex.EncodeToString(sum[:]))
}

// DigestOfHash is the digest that a sha256 hash stands at.
func DigestOfHash(h hash.Hash) Digest { return Digest(algorithm + hex.EncodeToString(h.Sum(nil))) }

// Hex is the digest without its algorithm.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), algorithm) }

// Short is enough of it for people.
func (d Digest) Short() string {
	h := d.Hex()
	return h[:min(12, len(h))]
}

// UnmarshalText refuses what is no digest, so that no JSON brings a path in here.
func (d *Digest) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*d = ""
		return nil
	}
	*d, err = ParseDigest(string(text))
	return err
}
