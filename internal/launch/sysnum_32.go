//go:build linux && (arm || 386)

package launch

import "golang.org/x/sys/unix"

// The calls with 32-bit ids: on these machines the plain names take 16-bit ones (setresuid(2), "C library/kernel
// differences").
const (
	sysSetgroups = unix.SYS_SETGROUPS32
	sysSetresuid = unix.SYS_SETRESUID32
	sysSetresgid = unix.SYS_SETRESGID32
	sysFchownat  = unix.SYS_FCHOWNAT
)
