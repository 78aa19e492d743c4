package vmm

import (
	"bufio"
	"fmt"
	"io"
	"os"
)

// archive writes an initramfs: cpio's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst), uncompressed,
// because the guest would have to unpack it.
type archive struct {
	w     *bufio.Writer
	inode int
}

func newArchive(w io.Writer) *archive { return &archive{w: bufio.NewWriterSize(w, 1<<20)} }

func (a *archive) folder(name string) error { return a.header(name, 0o40755, 0) }

func (a *archive) bytes(name string, mode uint32, data []byte) error {
	if err := a.header(name, 0o100000|mode, int64(len(data))); err != nil {
		return err
	}
	if _, err := a.w.Write(data); err != nil {
		return err
	}
	return a.pad(int64(len(data)))
}

// device is a character device.
func (a *archive) device(name string, major, minor int) error {
	return a.entry(name, 0o20600, 0, major, minor)
}

// file copies a file of the host.
func (a *archive) file(name string, mode uint32, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := a.header(name, 0o100000|mode, st.Size()); err != nil {
		return err
	}
	if _, err := io.CopyN(a.w, f, st.Size()); err != nil {
		return fmt.Errorf("copy %s into the initramfs: %w", from, err)
	}
	return a.pad(st.Size())
}

func (a *archive) close() error {
	if err := a.header("TRAILER!!!", 0, 0); err != nil {
		return err
	}
	return a.w.Flush()
}

// header writes the thirteen numbers of eight hexadecimal digits, the name and its zero.
func (a *archive) header(name string, mode uint32, size int64) error {
	if size >= 1<<32 {
		return fmt.Errorf("%s has %d bytes; a file of an initramfs has at most 4 GiB", name, size)
	}
	return a.entry(name, mode, size, 0, 0)
}

func (a *archive) entry(name string, mode uint32, size int64, major, minor int) error {
	a.inode++
	n, err := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0, name)
	if err != nil {
		return err
	}
	return a.pad(int64(n))
}

// pad ends a name or a file at a multiple of four.
func (a *archive) pad(n int64) error {
	_, err := a.w.Write(make([]byte, -n&3))
	return err
}
