package launch

import (
	"os"
	"unsafe"
)

// argv is the memory that the kernel shows as /proc/PID/cmdline: the Go runtime makes os.Args of it without a copy. It is
// found before anything can have given os.Args another value.
var argv = argumentMemory(os.Args)

// argumentMemory gives the bytes that the arguments lie in, one after the other, or nil when they do not: then they are
// copies and nothing is known of the memory around them.
func argumentMemory(args []string) []byte {
	for len(args) > 0 && args[0] == "" {
		args = args[1:]
	}
	if len(args) == 0 {
		return nil
	}
	first, size := unsafe.StringData(args[0]), 0
	for _, a := range args {
		if a != "" && unsafe.StringData(a) != (*byte)(unsafe.Add(unsafe.Pointer(first), size)) {
			return nil
		}
		size += len(a) + 1
	}
	return unsafe.Slice(first, size)
}

// hideArguments takes the caller's command line out of the child's /proc/PID/cmdline, which every process of the sandbox
// may read, whether the child can be dumped or not: it has host paths and, with an exec, what other programs are not to
// know. The memory is the child's copy; the parent keeps its own.
//
//go:nosplit
//go:norace
//go:nocheckptr
func hideArguments(im *image) {
	const name = "brig\x00"
	for i := uintptr(0); i < im.argvSize; i++ {
		var c byte
		if i < uintptr(len(name)) {
			c = name[i]
		}
		*(*byte)(unsafe.Add(im.argv, i)) = c
	}
}
