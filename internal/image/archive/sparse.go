package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Files with large holes are written as GNU tar does since 1.15.92 in PAX archives ("Storing Sparse Files", version 1.0): archive/tar reads
// that, and so does every engine, but it does not write it. What is a hole is decided by the content alone, so that the same file is the same
// archive wherever it lies: a run of zeros from and to a multiple of holeBlock.
const (
	holeBlock = 4096
	// A hole is a run of at least leastRun blocks; a file has holes when they are leastHoles bytes together. A map of maxSegments is well
	// below the MiB that archive/tar reads of one.
	leastRun    = 16
	leastHoles  = 1 << 20
	maxSegments = 16 << 10
)

// segment is a piece of a file between holes.
type segment struct{ offset, size int64 }

// segments gives what of a file is to be written when it is worth it to leave holes out; nil when it is not.
func (w *tree) segments(f *os.File, size int64) ([]segment, error) {
	if size < leastHoles {
		return nil, nil
	}
	var list []segment
	var data int64
	add := func(from, to int64) {
		last := len(list) - 1
		if last >= 0 && (from-list[last].offset-list[last].size < leastRun*holeBlock || last+1 == maxSegments) {
			data += to - list[last].offset - list[last].size
			list[last].size = to - list[last].offset
			return
		}
		if from < leastRun*holeBlock {
			from = 0
		}
		list = append(list, segment{from, to - from})
		data += to - from
	}
	buf := make([]byte, 256<<10)
	for at := int64(0); at < size; {
		if w.ctx.Err() != nil {
			return nil, context.Cause(w.ctx)
		}
		// Where the file system knows holes, they need not be read.
		next, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA) //nolint:gosec // a file descriptor
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err == nil {
			at = next - next%holeBlock
		}
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if n == 0 {
			break
		}
		for from := 0; from < n; from += holeBlock {
			if block := buf[from:min(from+holeBlock, n)]; !zero(block) {
				add(at+int64(from), at+int64(from+len(block)))
			}
		}
		at += int64(n)
	}
	if size-data < leastHoles {
		return nil, nil
	}
	if end := len(list); end == 0 || list[end-1].offset+list[end-1].size < size {
		list = append(list, segment{size, 0}) // as GNU tar tells of a hole at the end
	}
	return list, nil
}

var zeros [holeBlock]byte

func zero(block []byte) bool { return bytes.Equal(block, zeros[:len(block)]) }

// sparse writes a file without its holes.
func (w *tree) sparse(f *os.File, hdr *tar.Header, list []segment) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%d\n", len(list))
	size := int64(0)
	for _, s := range list {
		fmt.Fprintf(&text, "%d\n%d\n", s.offset, s.size)
		size += s.size
	}
	text.WriteString(strings.Repeat("\x00", -text.Len()&511))
	size += int64(text.Len())
	if err := w.room(size); err != nil {
		return err
	}
	if err := w.t.Flush(); err != nil {
		return err
	}
	head, err := sparseHead(hdr, size)
	if err != nil {
		return err
	}
	if _, err := w.b.Write(append(head, text.String()...)); err != nil {
		return err
	}
	for _, s := range list {
		n, err := io.Copy(w.b, &coming{reader{w.ctx, io.NewSectionReader(f, s.offset, s.size)}, w.progress})
		if err == nil && n != s.size {
			err = errors.New("it became shorter while it was read")
		}
		if err != nil {
			return err
		}
	}
	_, err = w.b.Write(zeros[:-size&511])
	return err
}

// sparseHead gives a PAX header and the header after it, of a file of which size bytes follow.
func sparseHead(hdr *tar.Header, size int64) ([]byte, error) {
	records := map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": hdr.Name, "GNU.sparse.realsize": strconv.FormatInt(hdr.Size, 10),
		"uid": strconv.Itoa(hdr.Uid), "gid": strconv.Itoa(hdr.Gid), "size": strconv.FormatInt(size, 10), "mtime": paxTime(hdr),
	}
	maps.Copy(records, hdr.PAXRecords)
	var text []byte
	for _, k := range slices.Sorted(maps.Keys(records)) {
		text = append(text, paxRecord(k, records[k])...)
	}
	first, err := ustar(tar.Header{Typeflag: tar.TypeReg, Name: "PaxHeaders.0/file", Size: int64(len(text)), Mode: 0o644}, tar.TypeXHeader)
	if err != nil {
		return nil, err
	}
	text = append(text, make([]byte, -len(text)&511)...)
	// What does not fit into the old header stands in the new one.
	second, err := ustar(tar.Header{Typeflag: tar.TypeReg, Name: "GNUSparseFile.0/file", Size: size % (8 << 30), Mode: hdr.Mode}, tar.TypeReg)
	return slices.Concat(first, text, second), err
}

// paxTime is a time as PAX writes it: below zero, too, the fraction counts away from zero.
func paxTime(hdr *tar.Header) string {
	sec, nsec, sign := hdr.ModTime.Unix(), hdr.ModTime.Nanosecond(), ""
	if sec < 0 {
		sign, sec = "-", -sec
		if nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%s%d.%09d", sign, sec, nsec), "0"), ".")
}

// paxRecord is "LENGTH KEY=VALUE\n", where the length counts itself.
func paxRecord(key, value string) string {
	const around = len(" =\n")
	size := len(key) + len(value) + around
	size += len(strconv.Itoa(size))
	record := fmt.Sprintf("%d %s=%s\n", size, key, value)
	if len(record) != size {
		record = fmt.Sprintf("%d %s=%s\n", len(record), key, value)
	}
	return record
}

// ustar gives the block of a header, of a kind that archive/tar writes for itself only.
func ustar(hdr tar.Header, kind byte) ([]byte, error) {
	const kindAt, sumAt, sumLen = 156, 148, 8
	hdr.Format = tar.FormatUSTAR
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(&hdr); err != nil {
		return nil, err
	}
	b := buf.Bytes()
	b[kindAt] = kind
	copy(b[sumAt:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[sumAt:sumAt+sumLen], fmt.Sprintf("%06o\x00 ", sum))
	return b, nil
}
