package layers

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"brig/internal/erofs"
)

// FuzzApply puts two layers made of the fuzzer's bytes on top of each other. Whatever they are, they are merged into a tree that can be
// written, or refused, within the limits.
func FuzzApply(f *testing.F) {
	for _, c := range merged {
		layers := encode(f, c.layers)
		f.Add(layers[0], layers[len(layers)-1])
	}
	limits := Limits{Size: 1 << 20, Entries: 1000, Metadata: 100 << 10, Ratio: 10, Window: 1 << 20}
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		fd, err := unix.MemfdCreate("layers", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		image := os.NewFile(uintptr(fd), "layers") //nolint:gosec // a descriptor
		defer image.Close()                        //nolint:errcheck // thrown away
		w, err := erofs.NewWriter(image)
		if err != nil {
			t.Fatal(err)
		}
		m := NewMerger(w, limits, KeepDevices)
		for _, layer := range [][]byte{lower, upper} {
			if err := m.Apply(bytes.NewReader(checksummed(layer))); err != nil {
				return
			}
		}
		if _, err := w.Close(m.Root()); err != nil {
			t.Errorf("what was merged cannot be written: %v\n%s", err, tree(m.Root()))
		}
		if m.used.size > limits.Size || m.used.entries > limits.Entries || m.used.metadata > limits.Metadata {
			t.Errorf("beyond the limits: %+v", m.used)
		}
	})
}

// checksummed gives headers the checksums that the fuzzer would need years for (pax(1), "ustar Interchange Format").
func checksummed(archive []byte) []byte {
	archive = bytes.Clone(archive)
	for at := 0; at+512 <= len(archive); at += 512 {
		header := archive[at : at+512]
		if string(header[257:262]) != "ustar" {
			continue
		}
		copy(header[148:156], "        ")
		sum := 0
		for _, b := range header {
			sum += int(b)
		}
		copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
	return archive
}

// FuzzDecompress: whatever the bytes, an end within the limits.
func FuzzDecompress(f *testing.F) {
	f.Add([]byte("plain"))
	f.Add(gzipped([]byte("some bytes")))
	f.Add(append(gzipped([]byte("some bytes")), gzipped(nil)...))
	f.Add(zstded(f, []byte("some bytes")))
	limits := Limits{Size: 1 << 20, Ratio: 10, Window: 1 << 20}
	f.Fuzz(func(t *testing.T, data []byte) {
		out, _, _ := decompress(t, limits, bytes.NewReader(data))
		if int64(len(out)) > limits.Size {
			t.Errorf("%d bytes came out", len(out))
		}
	})
}
