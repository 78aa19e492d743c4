package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Key is a public key that signatures are checked with.
type Key struct {
	// Name is the file that it was read from.
	Name string
	pub  crypto.PublicKey
}

const (
	maxKeyFile = 64 << 10
	// maxKeys is how many keys one demand may have: each is tried with each signature.
	maxKeys = 32
	// NIST SP 800-57 part 1 wants 112 bits of strength, which 2048 bits of RSA have. More than 8192 take milliseconds to check.
	minRSA, maxRSA = 2048, 8192
)

// ReadKeys reads the public keys of files, each of which has one: PEM, as `cosign generate-key-pair` and `openssl pkey -pubout`
// write it.
func ReadKeys(files ...string) ([]Key, error) {
	return readKeys(files, func(*os.File) error { return nil })
}

// readRootKeys reads keys that the operator's file names: only root may have written them, as with the file itself.
func readRootKeys(files []string) ([]Key, error) {
	return readKeys(files, func(f *os.File) error {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil { //nolint:gosec // a file descriptor
			return err
		}
		if st.Uid != 0 || st.Mode&0o022 != 0 {
			return fmt.Errorf("the file belongs to user %d with mode %#o: it must be root's, and nobody else may write it", st.Uid, st.Mode&0o7777)
		}
		return nil
	})
}

func readKeys(files []string, check func(*os.File) error) ([]Key, error) {
	if len(files) > maxKeys {
		return nil, fmt.Errorf("there are %d keys; more than %d are refused", len(files), maxKeys)
	}
	var keys []Key
	for _, file := range files {
		k, err := readKey(file, check)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", file, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func readKey(file string, check func(*os.File) error) (Key, error) {
	// A FIFO would be waited for.
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		var p *os.PathError
		if errors.As(err, &p) {
			err = p.Err // the file is named already
		}
		return Key{}, err
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return Key{}, err
	}
	if !st.Mode().IsRegular() {
		return Key{}, errors.New("it is no file")
	}
	if err := check(f); err != nil {
		return Key{}, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return Key{}, err
	}
	k, err := parseKey(text)
	k.Name = file
	return k, err
}

// notPublic is what people give by mistake, and what to do instead.
var notPublic = map[string]string{
	"CERTIFICATE":          "it is a certificate; `openssl x509 -pubkey -noout -in FILE` gives its public key",
	"PGP PUBLIC KEY BLOCK": "it is a key of PGP, which signs no images here",
}

// parseKey reads one public key and refuses those that are too weak to mean anything.
func parseKey(text []byte) (Key, error) {
	if len(text) > maxKeyFile {
		return Key{}, fmt.Errorf("it has more than %d KiB", maxKeyFile>>10)
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return Key{}, errors.New("there is no PEM in it; a public key begins with -----BEGIN PUBLIC KEY-----")
	}
	// What stands before the key is passed over by pem.Decode: a second key there would be believed in and never used.
	if n := bytes.Count(text, []byte("-----BEGIN ")); n != 1 || len(bytes.TrimSpace(rest)) > 0 {
		return Key{}, errors.New("there is more in it than one key; give each its own file")
	}
	if strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return Key{}, errors.New("it is a private key, which nobody who verifies should have; `cosign public-key` or `openssl pkey -pubout` gives the public one")
	}
	var pub crypto.PublicKey
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		pub, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		pub, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		why := notPublic[block.Type]
		if why == "" {
			why = fmt.Sprintf("it is PEM of the type %.40q", block.Type)
		}
		return Key{}, errors.New(why)
	}
	if err != nil {
		return Key{}, err
	}
	return Key{pub: pub}, strongEnough(pub)
}

func strongEnough(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return fmt.Errorf("it is of the curve %s; P-256 and P-384 are supported", k.Params().Name)
		}
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return fmt.Errorf("it is of RSA with %d bits; %d to %d are supported", n, minRSA, maxRSA)
		}
		// e = 1 signs everything; FIPS 186-5, 5.1, wants at least 2^16+1, odd.
		if k.E < 65537 || k.E%2 == 0 {
			return fmt.Errorf("it is of RSA with the exponent %d, which is too small", k.E)
		}
		return nil
	case ed25519.PublicKey:
		return nil
	}
	return fmt.Errorf("it is a key of the kind %T; ECDSA, RSA and Ed25519 are supported", pub)
}

// verify tells whether sig is the key's signature of message. How it has to have been made is decided by the key alone: nothing in
// what is checked chooses an algorithm. The hash is SHA-256; with P-384 it may be SHA-384, which cosign takes since version 3
// (sigstore's algorithm registry) in the place of SHA-256 before. With Ed25519 the message is signed, or, as cosign has it, its SHA-512 by
// Ed25519ph, which no signature of the first kind can be taken for (RFC 8032, 5.1).
func (k Key) verify(message, sig []byte) bool {
	sum := sha256.Sum256(message)
	switch pub := k.pub.(type) {
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(pub, sum[:], sig) {
			return true
		}
		if pub.Curve == elliptic.P384() {
			longer := sha512.Sum384(message)
			return ecdsa.VerifyASN1(pub, longer[:], sig)
		}
		return false
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], sig) == nil
	case ed25519.PublicKey:
		if ed25519.Verify(pub, message, sig) {
			return true
		}
		longer := sha512.Sum512(message)
		return ed25519.VerifyWithOptions(pub, longer[:], sig, &ed25519.Options{Hash: crypto.SHA512}) == nil
	}
	return false
}
