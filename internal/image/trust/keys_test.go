package trust

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestKeyFiles: what is no public key, or one too weak to mean anything, is refused and says what to do.
func TestKeyFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := newSigner(t, "p256")
	text, err := os.ReadFile(good.public)
	if err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(good.private)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, content ...[]byte) string {
		path := filepath.Join(dir, name)
		write(t, path, bytes.Join(content, nil))
		return path
	}
	certificate := filepath.Join(dir, "certificate")
	openssl(t, "req", "-x509", "-new", "-key", good.private, "-subj", "/CN=x", "-out", certificate)
	pkcs1 := filepath.Join(dir, "pkcs1")
	rsa := newSigner(t, "rsa2048")
	openssl(t, "rsa", "-in", rsa.private, "-RSAPublicKey_out", "-out", pkcs1)
	for path, want := range map[string]string{
		good.public: "",
		pkcs1:       "",
		file("words before", []byte("our key\n"), text): "",
		good.private:                                          "it is a private key",
		certificate:                                           "openssl x509 -pubkey",
		newSigner(t, "rsa1024").public:                        "RSA with 1024 bits",
		newSigner(t, "rsa-e3").public:                         "exponent 3",
		newSigner(t, "p521").public:                           "P-521",
		newSigner(t, "secp256k1").public:                      "curve",
		newSigner(t, "x25519").public:                         "kind",
		file("two", text, text):                               "more in it than one key",
		file("two kinds", text, private):                      "more in it than one key",
		file("private before", private, text):                 "more in it than one key",
		file("more", text, []byte("x")):                       "more in it than one key",
		file("none", []byte("ssh-ed25519 AAAA me@x\n")):       "no PEM",
		file("empty"):                                         "no PEM",
		file("large", bytes.Repeat(text, 1000)):               "more than 64 KiB",
		file("cut", bytes.Replace(text, text[40:60], nil, 1)): "key ",
		dir:                          "it is no file",
		filepath.Join(dir, "absent"): "no such file",
	} {
		keys, err := ReadKeys(path)
		switch {
		case want == "" && (err != nil || len(keys) != 1):
			t.Errorf("%s: %v", path, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path)):
			t.Errorf("%s: %v, want … %s", path, err, want)
		}
	}
	if out, err := exec.Command("mkfifo", filepath.Join(dir, "fifo")).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %s", out)
	}
	if _, err := ReadKeys(filepath.Join(dir, "fifo")); err == nil || !strings.Contains(err.Error(), "it is no file") {
		t.Errorf("a FIFO: %v", err)
	}
}
