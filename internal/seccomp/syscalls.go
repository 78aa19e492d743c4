package seccomp

import (
	"slices"

	"brig/internal/spelling"

	"github.com/opencontainers/runtime-spec/specs-go"
)

//go:generate go run ./gentable

// Known reports whether any architecture Brig has a table for has a system call of this name.
func Known(name string) bool { return callIndex(name) >= 0 }

// Number gives the number of a system call on an architecture (x32's have bit 30 set, as the kernel reports them).
func Number(a specs.Arch, name string) (nr uint32, ok bool) {
	d, i := findArch(a), callIndex(name)
	if d == nil || i < 0 || callNumbers[d.column][i] < 0 {
		return 0, false
	}
	return uint32(callNumbers[d.column][i]), true
}

// Name gives the name of a system call number, "" for one the tables do not have.
func Name(a specs.Arch, nr uint32) string {
	if d := findArch(a); d != nil {
		return d.callName(nr)
	}
	return ""
}

// callName looks nr up; tables are sorted by name, so this walks one. It serves people, not the road to a sandbox.
func (a *arch) callName(nr uint32) string {
	if i := slices.Index(callNumbers[a.column][:], int32(nr)); i >= 0 && nr <= 1<<31-1 {
		return callNames[i]
	}
	return ""
}

// slots is the size of callSlots, a power of two about four times the number of names.
const slots = 2048

// callIndex gives the place of name in callNames, -1 when no architecture has it. A profile names hundreds of calls, and
// looking them up is most of compiling it: hence a hash table, made by go generate so that it costs nothing at start.
func callIndex(name string) int {
	h := uint32(2166136261) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	for at := h % slots; callSlots[at] != 0; at = (at + 1) % slots {
		if i := int(callSlots[at]) - 1; callNames[i] == name {
			return i
		}
	}
	return -1
}

// nearest gives the known call whose name takes the fewest single-letter changes from name, "" when none is near.
func nearest(name string) string {
	if len(name) > 64 {
		return "" // no call has such a name, and the comparison below takes its length squared
	}
	best, least := "", len(name)/3+2
	for _, known := range callNames {
		if d := spelling.Distance(name, known); d < least {
			best, least = known, d
		}
	}
	return best
}
