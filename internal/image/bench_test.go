package image

import (
	"os"
	"testing"

	"brig/internal/testenv"
)

// BenchmarkUse is what the start of a sandbox pays for its image: find it, lock it, see that it is what was checked, and that it is mounted.
func BenchmarkUse(b *testing.B) {
	testenv.Check(b, testenv.Root)
	dir, err := os.MkdirTemp("", "brig-store-") // b.TempDir is made anew for every b.N
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a benchmark
	s, err := Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	if err := pullApp(s); err != nil {
		b.Fatal(err)
	}
	defer s.Prune(true) //nolint:errcheck // a benchmark
	b.ReportAllocs()
	for b.Loop() {
		s, err := Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		i, err := s.Use(app, ThisPlatform())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := i.Mount(); err != nil {
			b.Fatal(err)
		}
		if err := i.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
