package erofs

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"brig/internal/image/features"
)

// TestProbe: an image tells what not every reader knows.
func TestProbe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fill func(testing.TB, *Writer, *sample)
		want features.Features
	}{
		"plain": {func(t testing.TB, w *Writer, s *sample) { s.add(t, w, s.root, "f", noise(10000)) }, features.Features{}},
		"chunks": {func(t testing.TB, w *Writer, s *sample) {
			s.add(t, w, s.root, "f", append(make([]byte, 2*minHole), 1))
		}, features.Features{Chunks: true}},
		"xattrs of one": {func(t testing.TB, w *Writer, s *sample) {
			s.add(t, w, s.root, "f", nil).Xattrs = map[string]string{"user.a": "1"}
		}, features.Features{Xattrs: true}},
		"xattrs of the root": {func(_ testing.TB, _ *Writer, s *sample) {
			s.root.Xattrs = map[string]string{"security.selinux": strings.Repeat("x", 40)}
		}, features.Features{Xattrs: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := os.Open(write(t, func(w *Writer, s *sample) { c.fill(t, w, s) }).image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if got, err := features.Probe(f); err != nil || got != c.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	for name, image := range map[string][]byte{"short": make([]byte, 1100), "no image": make([]byte, 4096)} {
		if _, err := features.Probe(bytes.NewReader(image)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
