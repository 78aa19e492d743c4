package native

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCopySwapped: a file that became a pipe with a writer between the look and the copy ends the copy, and does not hold it up.
func TestCopySwapped(t *testing.T) {
	t.Parallel()
	dir, to := t.TempDir(), t.TempDir()
	pipe := filepath.Join(dir, "file")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	from, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	target, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := (&copying{left: 1 << 20}).file(int(from.Fd()), int(target.Fd()), "file", &unix.Stat_t{Mode: unix.S_IFREG | 0o644}); !errors.Is(err, errSwapped) {
		t.Errorf("%v, want %v", err, errSwapped)
	}
}
