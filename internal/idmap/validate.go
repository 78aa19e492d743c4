package idmap

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxLines is UID_GID_MAP_MAX_EXTENTS of linux/user_namespace.h, since Linux 4.15.
const maxLines = 340

// maxText: the kernel takes a map in one write of less than a page (map_write in kernel/user_namespace.c).
const maxText = 4096 - 1

// MapError says what is wrong with a map.
type MapError struct {
	Kind string // "uid" or "gid"
	Why  string
}

func (e *MapError) Error() string { return e.Kind + " map: " + e.Why }

// Validate finds what the kernel would refuse with a bare EINVAL. kind is "uid" or "gid". The error is a *MapError.
func Validate(kind string, m []specs.LinuxIDMapping) error {
	fail := func(format string, a ...any) error { return &MapError{Kind: kind, Why: fmt.Sprintf(format, a...)} }
	if len(m) == 0 {
		return fail("is empty: map at least one id")
	}
	if len(m) > maxLines {
		return fail("has %d lines, the kernel takes %d: join neighbouring ranges", len(m), maxLines)
	}
	for _, l := range m {
		if l.Size == 0 {
			return fail("%s maps no id: its size must be at least 1", line(l))
		}
		// 4294967295 is (uid_t)-1, which means "no id" to system calls.
		if uint64(l.ContainerID)+uint64(l.Size) > 1<<32-1 || uint64(l.HostID)+uint64(l.Size) > 1<<32-1 {
			return fail("%s goes beyond the last id, 4294967294", line(l))
		}
	}
	inside := func(l specs.LinuxIDMapping) uint32 { return l.ContainerID }
	outside := func(l specs.LinuxIDMapping) uint32 { return l.HostID }
	if a, b, ok := overlap(m, inside); ok {
		return fail("%s and %s map the same id inside", line(a), line(b))
	}
	if a, b, ok := overlap(m, outside); ok {
		return fail("%s and %s map to the same host id", line(a), line(b))
	}
	if n := len(format(m)); n > maxText {
		return fail("takes %d bytes as text, the kernel takes %d: join neighbouring ranges", n, maxText)
	}
	return nil
}

func overlap(m []specs.LinuxIDMapping, start func(specs.LinuxIDMapping) uint32) (a, b specs.LinuxIDMapping, found bool) {
	s := slices.Clone(m)
	slices.SortFunc(s, func(a, b specs.LinuxIDMapping) int {
		return int(int64(start(a)) - int64(start(b)))
	})
	for i := 1; i < len(s); i++ {
		if uint64(start(s[i-1]))+uint64(s[i-1].Size) > uint64(start(s[i])) {
			return s[i-1], s[i], true
		}
	}
	return a, b, false
}

// line reads as a person writes it: "0:524288:65536".
func line(l specs.LinuxIDMapping) string {
	return fmt.Sprintf("%d:%d:%d", l.ContainerID, l.HostID, l.Size)
}

// format is the kernel's form, one line a range.
func format(m []specs.LinuxIDMapping) []byte {
	b := make([]byte, 0, 32*len(m))
	for _, l := range m {
		b = strconv.AppendUint(b, uint64(l.ContainerID), 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(l.HostID), 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(l.Size), 10)
		b = append(b, '\n')
	}
	return b
}

// HostID is the host's id for one inside. ok is false when the map does not have it.
func HostID(m []specs.LinuxIDMapping, inside uint32) (host uint32, ok bool) {
	for _, l := range m {
		if inside >= l.ContainerID && uint64(inside) < uint64(l.ContainerID)+uint64(l.Size) {
			return l.HostID + (inside - l.ContainerID), true
		}
	}
	return 0, false
}
