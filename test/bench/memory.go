package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// memory measures the largest resident set of each whole process and, for Brig, what stays resident beside an idle
// sandbox.
//
// A process inherits the high-water mark of the one it was forked from (getrusage(2), ru_maxrss; execve does not reset
// it), so a small program, busybox's time, stands between this one and what is measured.
func (t *tools) memory(ctx context.Context, o options, list []*contender, r *report, bar *progress) error {
	repeats := min(20, o.rounds)
	bar.say("memory")
	scale, err := t.peakScale()
	if err != nil {
		return err
	}
	for i, c := range list {
		for range repeats {
			if c.argv == nil || c.ownTurns() || ctx.Err() != nil {
				break
			}
			rss, err := t.peak(c.lane, c.argv(c.calls.Add(1)))
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			r.Results[i].PeakRSS = append(r.Results[i].PeakRSS, rss/scale)
		}
		if c.key == "brig-exec" {
			pss, err := t.monitorPSS(c)
			if err != nil {
				return err
			}
			r.MonitorPSS = pss
		}
	}
	return ctx.Err()
}

// peak is the largest resident set of a command line's process and of its children.
func (t *tools) peak(l *lane, argv []string) (int64, error) {
	text, err := output(l, t.stage, append([]string{filepath.Join(t.root, "bin/busybox"), "time", "-f", "rss=%M"}, argv...))
	if err != nil {
		return 0, err
	}
	_, kib, _ := strings.Cut(lastLine(text), "rss=")
	n, err := strconv.ParseInt(kib, 10, 64)
	return n << 10, err
}

// peakScale is how many times too large busybox's time tells it: it takes what the kernel gives in KiB for pages.
func (t *tools) peakScale() (int64, error) {
	text, err := output(t.main, t.stage, []string{filepath.Join(t.root, "bin/busybox"), "cat", "/proc/self/status"})
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(text, "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64)
	if err != nil || kib == 0 {
		return 0, fmt.Errorf("no VmHWM in /proc/self/status: %w", err)
	}
	told, err := t.peak(t.main, []string{filepath.Join(t.root, "bin/busybox"), "cat", "/proc/self/status"})
	if told > kib<<10*int64(os.Getpagesize())/2048 {
		return int64(os.Getpagesize()) / 1024, err
	}
	return 1, err
}

// monitorPSS is the memory of the monitor of the idle sandbox, with its fair part of what it shares (proc(5), smaps_rollup).
func (t *tools) monitorPSS(c *contender) (int64, error) {
	text, err := output(c.lane, t.stage, []string{t.paths["brig"], "inspect", "--root", t.path("state-brig"), "--format", "json", "idle"})
	if err != nil {
		return 0, fmt.Errorf("find the monitor: %w", err)
	}
	var st struct {
		State struct {
			Monitor int `json:"monitor"`
		} `json:"state"`
	}
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		return 0, fmt.Errorf("find the monitor: %w", err)
	}
	m, err := memoryOf(st.State.Monitor)
	if err != nil {
		return 0, fmt.Errorf("the memory of the monitor: %w", err)
	}
	return m.pss, nil
}

// initLine is a line of GODEBUG=inittrace=1 (package runtime, "Environment Variables").
var initLine = regexp.MustCompile(`(?m)^init \S+ @[0-9.]+ ms, ([0-9.]+) ms clock`)

// inits measures what the packages of each of Brig's binaries do before main, over what those of an empty program do.
func (t *tools) inits(ctx context.Context, o options, _ []*contender, r *report, bar *progress) error {
	bar.say("package init")
	empty, err := t.initTimes(ctx, []string{t.empty}, o.rounds)
	if err != nil {
		return err
	}
	for _, name := range []string{"brig", "brig-oci"} {
		if t.paths[name] == "" {
			continue
		}
		times, err := t.initTimes(ctx, versionOf(t.paths[name]), o.rounds)
		if err != nil {
			return err
		}
		for i := range times {
			times[i] -= empty[i]
		}
		r.Inits = append(r.Inits, initTime{name, times})
	}
	return nil
}

// initTime is the time that the packages of a binary take before main, in milliseconds, one a call.
type initTime struct {
	Binary string    `json:"binary"`
	Millis []float64 `json:"ms"`
}

func (t *tools) initTimes(ctx context.Context, argv []string, n int) ([]float64, error) {
	var all []float64
	for range n {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		text, err := output(t.main, t.stage, append([]string{filepath.Join(t.root, "bin/busybox"), "env", "GODEBUG=inittrace=1"}, argv...))
		if err != nil {
			return nil, err
		}
		var sum float64
		for _, m := range initLine.FindAllStringSubmatch(text, -1) {
			ms, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				return nil, err
			}
			sum += ms
		}
		all = append(all, sum)
	}
	return all, nil
}
