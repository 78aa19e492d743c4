package operator

import (
	"maps"
	"math/bits"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// tightenUnified lowers the same limits where a bundle or an update has them as raw files of version 2, which are written last.
// What the kernel might read otherwise than this does counts as no limit.
func (p *Policy) tightenUnified(r *specs.LinuxResources) {
	r.Unified = maps.Clone(r.Unified)
	for file, most := range map[string]int64{"memory.max": p.memory, "pids.max": p.Limits.Pids} {
		if value, ok := r.Unified[file]; ok && most != 0 && !within(value, most) {
			r.Unified[file] = strconv.FormatInt(most, 10)
		}
	}
	value, ok := r.Unified["cpu.max"]
	if !ok || p.Limits.CPUs == 0 {
		return
	}
	quota, period, _ := strings.Cut(strings.TrimSpace(value), " ")
	length, err := strconv.ParseUint(strings.TrimSpace(period), 10, 32)
	if err != nil {
		length = defaultPeriod
	}
	if most := p.quota(length); !within(quota, most) {
		quota = strconv.FormatInt(most, 10)
	}
	r.Unified["cpu.max"] = quota + " " + strconv.FormatUint(length, 10)
}

// within tells whether a value of a control file, a number with or without a unit (memparse of the kernel's lib/cmdline.c), is
// at most a limit.
func within(value string, most int64) bool {
	value = strings.TrimSpace(value)
	shift := 0
	if n := len(value); n > 0 {
		if i := strings.IndexByte("kmgtpe", value[n-1]|0x20); i >= 0 {
			value, shift = value[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(value, 10, 64)
	return err == nil && bits.Len64(n)+shift < 64 && int64(n<<shift) <= most //nolint:gosec // it fits
}
