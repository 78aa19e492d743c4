//go:build linux && !arm && !386

package launch

import "golang.org/x/sys/unix"

// The calls whose number differs in name between 32-bit and 64-bit machines.
const (
	sysSetgroups = unix.SYS_SETGROUPS
	sysSetresuid = unix.SYS_SETRESUID
	sysSetresgid = unix.SYS_SETRESGID
	sysFchownat  = unix.SYS_FCHOWNAT
)
