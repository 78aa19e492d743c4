package fsverity

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

// sizes are those at which the tree changes its form: none and one block, a full block of hashes, one above it, a round.
var sizes = []int64{
	0, 1, blockSize - 1, blockSize, blockSize + 1, 2 * blockSize, segmentSize - 1, segmentSize, segmentSize + 1,
	7*segmentSize + 12345, perBlock*segmentSize - 1, perBlock * segmentSize, perBlock*segmentSize + 1, 2*perBlock*segmentSize + 4096,
}

// TestKnown: the digest of the empty file, which is only a descriptor, is printed in many places.
func TestKnown(t *testing.T) {
	t.Parallel()
	got, err := Digest(bytes.NewReader(nil), 0)
	if want := "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"; err != nil || hex.EncodeToString(got[:]) != want {
		t.Errorf("%x %v", got, err)
	}
}

// TestJudge: fsverity(1) gives the same digests, of noise and of files with holes.
func TestJudge(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Program("fsverity"))
	dir := t.TempDir()
	for i, size := range sizes {
		name := filepath.Join(dir, "file")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		noise := rand.NewChaCha8([32]byte{byte(i)})
		for at := int64(0); at < size; at += 3 * segmentSize {
			if _, err := io.Copy(io.NewOffsetWriter(f, at), io.LimitReader(noise, min(segmentSize+100, size-at))); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		got, err := Digest(f, size)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("fsverity", "digest", "--compact", name).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if want := strings.TrimSpace(string(out)); hex.EncodeToString(got[:]) != want {
			t.Errorf("%d bytes: %x, and fsverity says %s", size, got, want)
		}
	}
}

// TestShort: a file that is shorter than it was said to be has no digest.
func TestShort(t *testing.T) {
	t.Parallel()
	for _, size := range sizes[:10] {
		if _, err := Digest(bytes.NewReader(make([]byte, size)), size+1); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d: %v", size, err)
		}
	}
	if _, err := Digest(bytes.NewReader(nil), -1); err == nil {
		t.Error("a negative size is taken")
	}
}

// TestKernel: where the file system has fs-verity, the kernel measures the same; elsewhere it is said so.
func TestKernel(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "file")
	data := bytes.Repeat([]byte("brig"), 300000)
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Measure(f); !errors.Is(err, ErrUnsupported) && !errors.Is(err, unix.ENODATA) {
		t.Errorf("measure before: %v", err)
	}
	if err := Enable(f); errors.Is(err, ErrUnsupported) {
		t.Log(err)
		return
	} else if err != nil {
		t.Fatal(err)
	}
	want, err := Digest(f, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Measure(f); err != nil || got != want {
		t.Errorf("%x, want %x: %v", got, want, err)
	}
}

// pattern is a file of no zeros that needs no disk.
type pattern []byte

func (p pattern) ReadAt(b []byte, at int64) (int, error) { return copy(b, p[at%int64(len(p)/2):]), nil }

func BenchmarkDigest(b *testing.B) {
	const size = 256 << 20
	p := pattern(bytes.Repeat([]byte("brig"), segmentSize/2))
	b.SetBytes(size)
	for b.Loop() {
		if _, err := Digest(p, size); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDigestFile(b *testing.B) {
	const size = 256 << 20
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, io.LimitReader(rand.NewChaCha8([32]byte{}), size)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		if _, err := Digest(f, size); err != nil {
			b.Fatal(err)
		}
	}
}
