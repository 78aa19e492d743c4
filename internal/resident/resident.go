// Package resident gives memory back that a process needed to start and does not need to wait.
//
// Most processes of a sandbox wait for its whole life: the monitor for the end of its program, gVisor's kernel and its file server
// for the next call of an idle guest. What they have mapped by then is for the greater part text and tables of their own program
// that only the start has read. It is used by internal/sandbox and by brig-gvisor.
package resident

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Settled is how long after its start a process is taken to wait. A program that ends sooner does not pay for Trim.
const Settled = time.Second

// Trim drops the pages of this program's file that are mapped read-only. They are the page cache's from here on, of which the kernel
// takes first what nobody maps; what is needed again is mapped again, at the price of a minor fault. It makes one system call for
// each of the segments and opens nothing, so that it works behind a filter that lets madvise(2) through, as any for a Go program does.
func Trim() {
	for _, s := range readOnly() {
		// Of a private mapping that cannot be written it loses nothing (madvise(2)). Where it fails, more stays mapped.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, s.start, s.end-s.start, unix.MADV_DONTNEED)
	}
}

// The kernel's words of the program that it has executed: keys of getauxval(3), and types and flags of elf(5).
const (
	atPHDR  = 3 // the address of the program headers
	atPHNUM = 5 // and how many there are

	ptLoad = 1
	ptPHDR = 6
	pfW    = 2
)

// segment is a range of addresses, of whole pages.
type segment struct{ start, end uintptr }

// readOnly are the program's segments that it cannot write.
func readOnly() []segment {
	headers := programHeaders()
	if len(headers) == 0 {
		return nil
	}
	var bias uintptr // of a program that can be anywhere
	for _, h := range headers {
		if h.Type == ptPHDR {
			bias = uintptr(unsafe.Pointer(&headers[0])) - uintptr(h.Vaddr)
		}
	}
	page := uintptr(os.Getpagesize()) //nolint:gosec // a size
	var found []segment
	for _, h := range headers {
		if h.Type != ptLoad || h.Flags&pfW != 0 {
			continue
		}
		start := bias + uintptr(h.Vaddr)
		found = append(found, segment{start &^ (page - 1), (start + uintptr(h.Memsz)) &^ (page - 1)})
	}
	return found
}

// programHeaders are those of this program, where the kernel has mapped them with its first segment.
func programHeaders() []programHeader {
	vector, err := unix.Auxv()
	if err != nil {
		return nil
	}
	var first unsafe.Pointer
	var n uintptr
	for _, v := range vector {
		switch v[0] {
		case atPHDR:
			first = *(*unsafe.Pointer)(unsafe.Pointer(&v[1])) // an address of no memory of Go's
		case atPHNUM:
			n = v[1]
		}
	}
	if first == nil {
		return nil
	}
	return unsafe.Slice((*programHeader)(first), n)
}
