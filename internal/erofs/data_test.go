package erofs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEmpty: an image is begun in an empty file only, and finished once.
func TestEmpty(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := NewWriter(f); err == nil || !strings.Contains(err.Error(), "not an empty file") {
		t.Error(err)
	}
}
