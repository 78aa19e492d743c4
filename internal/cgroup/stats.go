package cgroup

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Stats is what a sandbox has used and may use. Numbers that this machine does not count are absent.
type Stats struct {
	Memory MemoryStats `json:"memory"`
	CPU    CPUStats    `json:"cpu"`
	Pids   PidsStats   `json:"pids"`
	// IO is one entry for each block device used.
	IO []IOStats `json:"io,omitempty"`
	// Pressure: the share of time some, or all, processes waited; nil without PSI in the kernel.
	Pressure *Pressures `json:"pressure,omitempty"`
}

// MemoryStats are in bytes, events in times.
type MemoryStats struct {
	Current uint64 `json:"current"`
	Peak    uint64 `json:"peak,omitempty"`
	// Limit is absent when there is none.
	Limit *uint64 `json:"limit,omitempty"`
	Swap  uint64  `json:"swap"`
	// SwapLimit is of swap alone; absent when there is none.
	SwapLimit *uint64 `json:"swap_limit,omitempty"`
	Anon      uint64  `json:"anon"`
	File      uint64  `json:"file"`
	Kernel    uint64  `json:"kernel,omitempty"`
	// LimitHits is how often the limit was met and memory had to be reclaimed.
	LimitHits uint64 `json:"limit_hits"`
	OOMKills  uint64 `json:"oom_kills"`
	// Events are the lines of version 2's memory.events: low, high, max, oom, oom_kill, oom_group_kill (Linux 5.17).
	Events map[string]uint64 `json:"events,omitempty"`
}

// CPUStats are in microseconds, periods in number.
type CPUStats struct {
	UsageUsec        uint64 `json:"usage_usec"`
	UserUsec         uint64 `json:"user_usec"`
	SystemUsec       uint64 `json:"system_usec"`
	Periods          uint64 `json:"periods"`
	ThrottledPeriods uint64 `json:"throttled_periods"`
	ThrottledUsec    uint64 `json:"throttled_usec"`
}

// PidsStats count tasks: processes and threads.
type PidsStats struct {
	Current uint64  `json:"current"`
	Peak    uint64  `json:"peak,omitempty"`
	Limit   *uint64 `json:"limit,omitempty"`
	// LimitHits is how often a fork was refused.
	LimitHits uint64 `json:"limit_hits"`
}

// IOStats are in bytes and operations since the start.
type IOStats struct {
	Device     string `json:"device"` // "major:minor"
	ReadBytes  uint64 `json:"read_bytes"`
	WriteBytes uint64 `json:"write_bytes"`
	Reads      uint64 `json:"reads"`
	Writes     uint64 `json:"writes"`
}

// Pressures is Linux's pressure stall information, Documentation/accounting/psi.rst.
type Pressures struct {
	CPU, Memory, IO Pressure
}

// Pressure averages are percent of time, totals microseconds.
type Pressure struct {
	SomeAvg10  float64 `json:"some_avg10"`
	SomeAvg60  float64 `json:"some_avg60"`
	SomeAvg300 float64 `json:"some_avg300"`
	SomeTotal  uint64  `json:"some_total_usec"`
	FullAvg10  float64 `json:"full_avg10"`
	FullAvg60  float64 `json:"full_avg60"`
	FullAvg300 float64 `json:"full_avg300"`
	FullTotal  uint64  `json:"full_total_usec"`
}

// Stats reads the counters. A group that is gone gives an error for which errors.Is(err, fs.ErrNotExist) holds.
func (c *Cgroup) Stats() (*Stats, error) {
	if dirs := c.folders(); len(dirs) > 0 {
		if _, err := os.Stat(dirs[0]); err != nil {
			return nil, err
		}
	}
	s := &Stats{}
	if len(c.legacy) > 0 {
		c.memoryStatsV1(&s.Memory)
		c.cpuStatsV1(&s.CPU)
		s.IO = c.ioStatsV1()
	} else {
		c.memoryStatsV2(&s.Memory)
		s.IO = c.ioStatsV2()
	}
	if c.unified != "" {
		c.cpuStatsV2(&s.CPU)
		s.Pressure = c.pressures()
	}
	if dir := c.dir("pids"); dir != "" {
		s.Pids.Current = readNumber(dir, "pids.current")
		s.Pids.Peak = readNumber(dir, "pids.peak") // Linux 6.6
		s.Pids.Limit = readLimit(dir, "pids.max")
		events, _ := readKeys(filepath.Join(dir, "pids.events"))
		s.Pids.LimitHits = events["max"]
	}
	return s, nil
}

func (c *Cgroup) memoryStatsV1(m *MemoryStats) {
	dir := c.dir("memory")
	if dir == "" {
		return
	}
	m.Current = readNumber(dir, "memory.usage_in_bytes")
	m.Peak = readNumber(dir, "memory.max_usage_in_bytes")
	m.Limit = readLimit(dir, "memory.limit_in_bytes")
	m.LimitHits = readNumber(dir, "memory.failcnt")
	m.Kernel = readNumber(dir, "memory.kmem.usage_in_bytes")
	stat, _ := readKeys(filepath.Join(dir, "memory.stat"))
	m.Anon, m.File, m.Swap = stat["total_rss"], stat["total_cache"], stat["total_swap"]
	if both := readLimit(dir, "memory.memsw.limit_in_bytes"); both != nil && m.Limit != nil && *both >= *m.Limit {
		swap := *both - *m.Limit
		m.SwapLimit = &swap
	}
	m.OOMKills, _ = c.OOMKills()
}

func (c *Cgroup) memoryStatsV2(m *MemoryStats) {
	dir := c.unified
	m.Current = readNumber(dir, "memory.current")
	m.Peak = readNumber(dir, "memory.peak") // Linux 5.19
	m.Limit = readLimit(dir, "memory.max")
	m.Swap = readNumber(dir, "memory.swap.current")
	m.SwapLimit = readLimit(dir, "memory.swap.max")
	stat, _ := readKeys(filepath.Join(dir, "memory.stat"))
	m.Anon, m.File, m.Kernel = stat["anon"], stat["file"], stat["kernel"]
	m.Events, _ = readKeys(filepath.Join(dir, "memory.events"))
	m.LimitHits, m.OOMKills = m.Events["max"], m.Events["oom_kill"]
}

// cpuStatsV2 works on hybrid machines, too: every version 2 group counts its time, without any controller.
func (c *Cgroup) cpuStatsV2(s *CPUStats) {
	stat, _ := readKeys(filepath.Join(c.unified, "cpu.stat"))
	s.UsageUsec, s.UserUsec, s.SystemUsec = stat["usage_usec"], stat["user_usec"], stat["system_usec"]
	if _, ok := stat["nr_periods"]; ok {
		s.Periods, s.ThrottledPeriods, s.ThrottledUsec = stat["nr_periods"], stat["nr_throttled"], stat["throttled_usec"]
	}
}

func (c *Cgroup) cpuStatsV1(s *CPUStats) {
	if dir := c.dir("cpuacct"); dir != "" {
		s.UsageUsec = readNumber(dir, "cpuacct.usage") / 1000
		s.UserUsec = readNumber(dir, "cpuacct.usage_user") / 1000
		s.SystemUsec = readNumber(dir, "cpuacct.usage_sys") / 1000
	}
	if dir := c.dir("cpu"); dir != "" {
		stat, _ := readKeys(filepath.Join(dir, "cpu.stat"))
		s.Periods, s.ThrottledPeriods, s.ThrottledUsec = stat["nr_periods"], stat["nr_throttled"], stat["throttled_time"]/1000
	}
}

// ioStatsV2 reads "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
func (c *Cgroup) ioStatsV2() []IOStats {
	text, _ := os.ReadFile(filepath.Join(c.unified, "io.stat"))
	var out []IOStats
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		s := IOStats{Device: fields[0]}
		for _, f := range fields[1:] {
			key, value, _ := strings.Cut(f, "=")
			switch key {
			case "rbytes":
				s.ReadBytes = parseNumber(value)
			case "wbytes":
				s.WriteBytes = parseNumber(value)
			case "rios":
				s.Reads = parseNumber(value)
			case "wios":
				s.Writes = parseNumber(value)
			}
		}
		out = append(out, s)
	}
	return out
}

// ioStatsV1 reads "8:0 Read 4096" of two files; without blkio there are none.
func (c *Cgroup) ioStatsV1() []IOStats {
	dir := c.dir("blkio")
	if dir == "" {
		return nil
	}
	byDevice := map[string]*IOStats{}
	read := func(file string, add func(s *IOStats, op string, n uint64)) {
		text, _ := os.ReadFile(filepath.Join(dir, file))
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) != 3 {
				continue
			}
			if byDevice[f[0]] == nil {
				byDevice[f[0]] = &IOStats{Device: f[0]}
			}
			add(byDevice[f[0]], f[1], parseNumber(f[2]))
		}
	}
	read("blkio.throttle.io_service_bytes_recursive", func(s *IOStats, op string, n uint64) {
		switch op {
		case "Read":
			s.ReadBytes = n
		case "Write":
			s.WriteBytes = n
		}
	})
	read("blkio.throttle.io_serviced_recursive", func(s *IOStats, op string, n uint64) {
		switch op {
		case "Read":
			s.Reads = n
		case "Write":
			s.Writes = n
		}
	})
	var out []IOStats
	for _, k := range sortedKeys(byDevice) {
		out = append(out, *byDevice[k])
	}
	return out
}

func (c *Cgroup) pressures() *Pressures {
	read := func(file string) (p Pressure, ok bool) {
		text, err := os.ReadFile(filepath.Join(c.unified, file))
		return parsePressure(string(text)), err == nil
	}
	var p Pressures
	var cpu, memory, io bool
	p.CPU, cpu = read("cpu.pressure")
	p.Memory, memory = read("memory.pressure")
	p.IO, io = read("io.pressure")
	if !cpu && !memory && !io {
		return nil
	}
	return &p
}

// parsePressure reads "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" and the same with "full".
func parsePressure(text string) (p Pressure) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 5 {
			continue
		}
		value := func(i int) string { _, v, _ := strings.Cut(fields[i], "="); return v }
		avg := func(i int) float64 { f, _ := strconv.ParseFloat(value(i), 64); return f }
		switch fields[0] {
		case "some":
			p.SomeAvg10, p.SomeAvg60, p.SomeAvg300, p.SomeTotal = avg(1), avg(2), avg(3), parseNumber(value(4))
		case "full":
			p.FullAvg10, p.FullAvg60, p.FullAvg300, p.FullTotal = avg(1), avg(2), avg(3), parseNumber(value(4))
		}
	}
	return p
}

// OOMKills is how many processes of the group the kernel has ended for want of memory.
func (c *Cgroup) OOMKills() (uint64, error) {
	dir, file := c.dir("memory"), "memory.events"
	if len(c.legacy) > 0 {
		file = "memory.oom_control"
	}
	if dir == "" {
		return 0, nil
	}
	events, err := readKeys(filepath.Join(dir, file))
	return events["oom_kill"], err
}

// readKeys reads lines of "key number".
func readKeys(path string) (map[string]uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	keys := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			keys[key] = parseNumber(value)
		}
	}
	return keys, nil
}

// readNumber is a file's number; zero when it is absent.
func readNumber(dir, file string) uint64 {
	text, _ := os.ReadFile(filepath.Join(dir, file))
	return parseNumber(string(text))
}

// readLimit is a file's number; nil for "max", for version 1's "no limit" (the largest page count), or no file.
func readLimit(dir, file string) *uint64 {
	text, err := os.ReadFile(filepath.Join(dir, file))
	n := parseNumber(string(text))
	if err != nil || strings.TrimSpace(string(text)) == "max" || n > math.MaxInt64-1<<20 {
		return nil
	}
	return &n
}

func parseNumber(text string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	return n
}
