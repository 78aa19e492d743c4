// Package caps turns capability names into numbers, sets of them into the 64-bit masks the kernel takes, and back.
//
// Its place on the road: package policy and the front ends check names with Parse, package plan turns the spec's five
// sets into masks for capset(2) and prctl(2), and inspect turns the masks of /proc/PID/status back into names.
// All of it is pure but Last, which asks the running kernel.
package caps

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Cap is a capability's number, as in linux/capability.h.
type Cap uint8

// Max is the newest capability known here: CAP_CHECKPOINT_RESTORE, of Linux 5.9.
const Max Cap = 40

// Names of the numbers that other packages decide by.
const (
	NetAdmin    Cap = 12
	SysAdmin    Cap = 21
	SysResource Cap = 24
	SetFCap     Cap = 31
)

// names are in the order of linux/capability.h, without CAP_.
var names = [Max + 1]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// String is the name with its prefix: "CAP_NET_ADMIN". A number that has no name yet reads as capsh(1) writes it, "41".
func (c Cap) String() string {
	if c > Max {
		return strconv.Itoa(int(c))
	}
	return "CAP_" + names[c]
}

// Mask is the set that has c alone. Preconditions: c < 64.
func (c Cap) Mask() Set { return 1 << c }

// UnknownError says that a name is no capability.
type UnknownError struct {
	Name       string
	Suggestion string // the nearest name, with its prefix; empty when none is near
}

func (e *UnknownError) Error() string {
	if e.Suggestion == "" {
		return fmt.Sprintf("unknown capability %q: capabilities(7) lists the names", e.Name)
	}
	return fmt.Sprintf("unknown capability %q: did you mean %s?", e.Name, e.Suggestion)
}

// Parse takes a name with or without CAP_, in upper or lower case. An unknown one is an *UnknownError.
func Parse(name string) (Cap, error) {
	bare := strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	for i, n := range names {
		if n == bare {
			return Cap(i), nil
		}
	}
	return 0, &UnknownError{Name: name, Suggestion: nearest(bare)}
}

// Set is a set of capabilities as the kernel keeps it: bit n is capability n.
type Set uint64

// All is every capability known here. The kernel refuses bits above its own last one, see Last.
const All Set = 1<<(Max+1) - 1

// ParseSet is the union of the named capabilities. The first unknown name is an *UnknownError.
func ParseSet(names []string) (Set, error) {
	var s Set
	for _, n := range names {
		c, err := Parse(n)
		if err != nil {
			return 0, err
		}
		s |= c.Mask()
	}
	return s, nil
}

// ParseMask reads the hexadecimal form of /proc/PID/status: "000001ffffffffff".
func ParseMask(hex string) (Set, error) {
	n, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("capability mask %q is not a hexadecimal number of at most 64 bits", hex)
	}
	return Set(n), nil
}

// Has says whether c is in the set.
func (s Set) Has(c Cap) bool { return c < 64 && s&c.Mask() != 0 }

// Len is the number of capabilities in the set.
func (s Set) Len() int { return bits.OnesCount64(uint64(s)) }

// Upto is the part of the set that a kernel whose newest capability is last knows. What is cut away is refused by
// such a kernel with EPERM or EINVAL, so callers report it first.
func (s Set) Upto(last Cap) Set {
	if last >= 63 {
		return s
	}
	return s & (1<<(last+1) - 1)
}

// Names are the members in the kernel's order, with their prefix. An empty set gives an empty slice, which JSON shows
// as [] and not as null.
func (s Set) Names() []string {
	out := make([]string, 0, s.Len())
	for v := uint64(s); v != 0; v &= v - 1 {
		out = append(out, Cap(bits.TrailingZeros64(v)).String())
	}
	return out
}

// Hex is the form of /proc/PID/status.
func (s Set) Hex() string { return fmt.Sprintf("%016x", uint64(s)) }

// String is for people: "none", "all", "all but CAP_SYS_RESOURCE", or the names.
func (s Set) String() string {
	switch {
	case s == 0:
		return "none"
	case s == All:
		return "all"
	case s&^All == 0 && (All&^s).Len() <= 4:
		return "all but " + strings.Join((All&^s).Names(), " ")
	}
	return strings.Join(s.Names(), " ")
}

// Words are the set's low and high 32 bits, as the two halves of struct __user_cap_data_struct take them.
func (s Set) Words() (low, high uint32) { return uint32(s), uint32(s >> 32) }
