package cgroup

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// setting is one write into a control file.
type setting struct {
	controller string
	// files are names to try in order: kernels call some limits differently.
	files []string
	value string
	limit string // the spec's field, for errors
	// other is the value for all names but the first, where it is not the same; empty when it is.
	other string
	// optional: a kernel without the file has nothing to limit there.
	optional bool
}

// valueFor is what goes into the name at index i.
func (s setting) valueFor(i int) string {
	if i > 0 && s.other != "" {
		return s.other
	}
	return s.value
}

// settings is a list under construction; the first error stays.
type settings struct {
	list []setting
	err  error
}

func (s *settings) add(limit, controller, value string, files ...string) {
	s.list = append(s.list, setting{controller: controller, files: files, value: value, limit: limit})
}

// hugepages adds a limit on huge pages in use, and on those reserved where the kernel counts them (Linux 5.7): "default to
// reservation limits if supported, otherwise fallback to page fault limits" (runtime-spec). Both are set, as runc does: a
// page can be taken without a reservation.
func (s *settings) hugepages(limits []specs.LinuxHugepageLimit, file string) {
	for _, h := range limits {
		if !s.pageSize(h.Pagesize) {
			continue
		}
		value := strconv.FormatUint(h.Limit, 10)
		s.add(prefix+"hugepageLimits", "hugetlb", value, "hugetlb."+h.Pagesize+"."+file)
		s.add(prefix+"hugepageLimits", "hugetlb", value, "hugetlb."+h.Pagesize+".rsvd."+file)
		s.list[len(s.list)-1].optional = true
	}
}

func (s *settings) fail(limit string, value any, why string) {
	if s.err == nil {
		s.err = &ValueError{Limit: limit, Value: text(value), Why: why}
	}
}

func text(v any) string {
	switch v := v.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case uint64:
		return strconv.FormatUint(v, 10)
	case string:
		return strconv.Quote(v)
	}
	return ""
}

const prefix = "linux.resources."

// cpuShares turns version 1 shares (2 to 262144, usually 1024) into a version 2 weight (1 to 10000, usually 100) by
// the curve that crun, runc and systemd agreed on: it meets both ends and the usual value.
func cpuWeight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// pidsMax is pids.max for the spec's limit: below zero is none, and zero, which systemd cannot express, is one, as runc
// has it.
func pidsMax(limit int64) string {
	if limit < 0 {
		return "max"
	}
	return strconv.FormatInt(max(limit, 1), 10)
}

// checkList refuses what is no list of numbers and ranges ("0-3,7"); the kernel would take a newline as an end.
func (s *settings) checkList(limit, value string) {
	if strings.Trim(value, "0123456789,-") != "" || strings.Trim(value, ",-") == "" {
		s.fail(limit, value, "must be a list of numbers and ranges such as 0-3,7")
	}
}

func (s *settings) checkMemory(m *specs.LinuxMemory) {
	for name, v := range map[string]*int64{"limit": m.Limit, "reservation": m.Reservation, "swap": m.Swap} {
		if v != nil && *v < -1 {
			s.fail(prefix+"memory."+name, *v, "must be a number of bytes, or -1 for no limit")
		}
	}
	if m.Limit != nil && m.Swap != nil && *m.Limit > 0 && *m.Swap > 0 && *m.Swap < *m.Limit {
		s.fail(prefix+"memory.swap", *m.Swap, "is memory and swap together, so it cannot be less than memory.limit "+text(*m.Limit))
	}
}

func device(major, minor int64) string {
	return strconv.FormatInt(major, 10) + ":" + strconv.FormatInt(minor, 10)
}

// throttles are the spec's four lists with their names in version 1 files and in version 2's io.max.
func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"throttleReadBpsDevice", "read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

type throttle struct {
	field, v1, v2 string
	devices       []specs.LinuxThrottleDevice
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// pageSize checks a huge page size's name: it becomes part of a file name.
func (s *settings) pageSize(size string) bool {
	number := strings.TrimRight(size, "KMGB")
	if _, err := strconv.ParseUint(number, 10, 32); err != nil || number == size {
		s.fail(prefix+"hugepageLimits.pageSize", size, "must be a size such as 2MB")
		return false
	}
	return true
}
