package seccomp

import (
	"crypto/sha256"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func BenchmarkProfileDefault(b *testing.B) {
	for b.Loop() {
		if _, err := Profile(Default, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCacheInstead is the least a cache on disk would cost where BenchmarkCompileDefault is paid today: the digest
// of the profile, and reading the program from a file that is in memory already.
func BenchmarkCacheInstead(b *testing.B) {
	p, err := Profile(Default, nil)
	if err != nil {
		b.Fatal(err)
	}
	f, err := Compile(p, Options{})
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "filter")
	if err := os.WriteFile(path, f.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		text, err := json.Marshal(p)
		if err != nil {
			b.Fatal(err)
		}
		_ = sha256.Sum256(text)
		file, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := file.Stat(); err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, 8*len(f.Program))
		if _, err := file.Read(buf); err != nil {
			b.Fatal(err)
		}
		file.Close()
	}
}
