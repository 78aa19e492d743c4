package main

import (
	"encoding/binary"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// int80 is the 32-bit system-call gate, which a 64-bit program can use, too: with other numbers.
func int80(nr, a, b, c uint32) uint32

var archAttacks = []attack{
	{"int80-getpid", func([]string) verdict {
		if r := int32(int80(20, 0, 0, 0)); int(r) != unix.Getpid() { //nolint:gosec // an errno or a pid
			return judge("int $0x80", unix.Errno(-r)) //nolint:gosec // see above
		}
		return escaped("int $0x80 serves system calls")
	}},
	{"int80-socketcall", func(args []string) verdict {
		family, err := strconv.ParseUint(argument(args, 0, "40"), 10, 32)
		if err != nil {
			return broken("%v", err)
		}
		return judge("socketcall of a 32-bit gate", int80Socket(uint32(family)))
	}},
	{"int80-keyctl", func([]string) verdict {
		r := int32(int80(288, 0, 0xfffffffd, 0)) //nolint:gosec // KEYCTL_GET_KEYRING_ID of the session keyring
		if r < 0 {
			return judge("keyctl of a 32-bit gate", unix.Errno(-r)) //nolint:gosec // an errno
		}
		return escaped("keyctl of a 32-bit gate")
	}},
	{"int80-mount", func([]string) verdict {
		r := int32(int80(21, 0, 0, 0))                           //nolint:gosec // mount
		return reached("mount of a 32-bit gate", unix.Errno(-r)) //nolint:gosec // an errno
	}},
	{"modify-ldt", func([]string) verdict {
		return try("modify_ldt", unix.SYS_MODIFY_LDT, 0, address(make([]byte, 64)), 64)
	}},
	{"x32-getpid", func([]string) verdict { return x32("getpid", 39) }},
	{"x32-ptrace", func([]string) verdict { return x32("ptrace", 521, ^uintptr(0)) }},
	{"x32-keyctl", func([]string) verdict { return x32("keyctl", 250, 0, ^uintptr(2), 0) }},
}

// int80Socket makes a socket through socketcall, whose arguments are out of a filter's sight.
func int80Socket(family uint32) error {
	low, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_32BIT)
	if err != nil {
		return err
	}
	for i, v := range []uint32{family, 1, 0} {
		binary.NativeEndian.PutUint32(low[4*i:], v)
	}
	r := int32(int80(102, 1, uint32(uintptr(unsafe.Pointer(&low[0]))), 0)) //nolint:gosec // SYS_SOCKET
	if r < 0 {
		return unix.Errno(-r) //nolint:gosec // an errno
	}
	return nil
}

// x32 makes a call by its number in the x32 table, which has bit 30 set.
func x32(name string, nr uintptr, a ...uintptr) verdict { return try("x32 "+name, nr|1<<30, a...) }
