package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// timeClocks are the clocks that have an offset (time_namespaces(7)).
var timeClocks = []string{"boottime", "monotonic"}

// checkTimeOffsets refuses offsets that have no new time namespace to be set in: those of one with processes are fixed.
func (b *builder) checkTimeOffsets() error {
	if len(b.linux.TimeOffsets) == 0 {
		return nil
	}
	const field = "linux.timeOffsets"
	path, ok := Namespace(b.spec, specs.TimeNamespace)
	if !ok { // runc's words
		return &UnsupportedError{field, "time namespace offsets specified, but time namespace isn't enabled in the config"}
	}
	if path != "" {
		return &UnsupportedError{field, "the offsets of a time namespace that is joined by path are fixed; set them where it is made"}
	}
	for clock, offset := range b.linux.TimeOffsets {
		if !slices.Contains(timeClocks, clock) {
			return &UnsupportedError{field, fmt.Sprintf("%q is no clock with an offset; these are boottime and monotonic", clock)}
		}
		if offset.Nanosecs >= 1e9 {
			return &UnsupportedError{field, fmt.Sprintf("%s: nanosecs %d is a second or more", clock, offset.Nanosecs)}
		}
	}
	return nil
}

// openTimeOffsets opens the file of the offsets before the child cannot be dumped any more: its files in /proc belong to the
// host's root then.
func (b *builder) openTimeOffsets() {
	if b.isExec() || len(b.linux.TimeOffsets) == 0 {
		return
	}
	b.p.Step(launch.Namespaces, "hold the offsets of the clocks")
	b.timeOffsets = b.p.Openat2("timens_offsets", 0, "/proc/self/timens_offsets", unix.O_WRONLY, 0, 0)
}

// timeNamespace makes a time namespace with offsets and enters it. A clone with CLONE_NEWTIME would be in it at once, and the
// offsets are fixed as soon as a process is (time_namespaces(7)), so it is unshared, given its offsets, and joined.
func (b *builder) timeNamespace() {
	if b.timeOffsets == 0 {
		return
	}
	b.p.Step(launch.Namespaces, "a new time namespace, with its offsets")
	b.p.Unshare(unix.CLONE_NEWTIME)
	var lines strings.Builder
	for _, clock := range slices.Sorted(maps.Keys(b.linux.TimeOffsets)) {
		o := b.linux.TimeOffsets[clock]
		fmt.Fprintf(&lines, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	b.p.Write(b.timeOffsets, lines.String())
	b.p.Close(b.timeOffsets)
	// The host's /proc, for the root is not entered yet; a link of its own, for which no right is needed but being itself.
	fd := b.p.Openat2("new time namespace", 0, "/proc/self/ns/time_for_children", unix.O_RDONLY, 0, 0)
	b.p.Setns(fd, unix.CLONE_NEWTIME)
	b.p.Close(fd)
}
