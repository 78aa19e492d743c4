package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// report is everything that was found: results.json, and what README.md, startup.svg and the terminal's tables are made
// from.
type report struct {
	Machine    machine    `json:"machine"`
	Rounds     int        `json:"rounds"`
	Seed       uint64     `json:"seed"`
	Discarded  int        `json:"discardedRounds"`   // that others disturbed
	Missing    []string   `json:"missing,omitempty"` // peers that are not installed
	Goals      []*goal    `json:"goals"`
	MonitorPSS int64      `json:"monitorPssBytes"`
	Inits      []initTime `json:"packageInit"`
	Results    []*result  `json:"results"`

	Images []*imageResult `json:"images,omitempty"`
	Idle   []*idleSandbox `json:"gvisorIdle,omitempty"`
}

// result is one contender's samples; those of the same index are of the same round.
type result struct {
	Key     string          `json:"key"`
	Name    string          `json:"name"`
	Kind    string          `json:"kind"`
	Note    string          `json:"note,omitempty"`
	Layers  *layers         `json:"layers,omitempty"`
	Wall    []time.Duration `json:"wallNs"`
	CPU     []time.Duration `json:"cpuNs"`
	PeakRSS []int64         `json:"peakRssBytes,omitempty"`
	Crowd   *crowd          `json:"crowd,omitempty"`
}

// goal is one of the numbers to hold of the design.
type goal struct {
	What  string   `json:"what"`
	Unit  string   `json:"unit"`
	Limit float64  `json:"limit"`
	Found interval `json:"found"`
	// Mark is met or missed; with "perhaps" where the range of what was found holds the limit.
	Mark string `json:"mark"`
}

func (g *goal) mark() {
	g.Mark = "missed"
	if g.Found.Ratio <= g.Limit {
		g.Mark = "met"
	}
	if g.Found.Low <= g.Limit && g.Limit < g.Found.High {
		g.Mark = "perhaps " + g.Mark
	}
}

func (r *report) find(key string) *result {
	for _, res := range r.Results {
		if res.Key == key && len(res.Wall) > 0 {
			return res
		}
	}
	return nil
}

// judge compares with the design's goals. They are about brig-oci where it is built.
func (r *report) judge() {
	for _, ours := range []string{"brig", "brig-oci"} {
		for _, g := range []struct {
			ours, theirs string
			limit        float64
		}{
			{ours, "bare", 1.3}, {ours, "bwrap", 1.1}, {ours, "crun", 0.4}, {ours, "runc", 0.2}, {ours + "-exec", "runc-exec", 0.15},
		} {
			a, b := r.find(g.ours), r.find(g.theirs)
			if a != nil && b != nil {
				r.addGoal(&goal{What: a.Name + " / " + b.Name, Unit: "times", Limit: g.limit, Found: ratio(a.Wall, b.Wall)})
			}
		}
	}
	if a, b := r.find("brig-inside"), r.find("bare-inside"); a != nil && b != nil {
		r.addGoal(&goal{What: a.Name + " / " + b.Name, Unit: "times", Limit: 1.3, Found: ratio(a.Wall, b.Wall)})
	}
	r.judgeImages()
	r.judgeGVisor()
	for _, i := range r.Inits {
		ns := make([]time.Duration, len(i.Millis))
		for k, ms := range i.Millis {
			ns[k] = time.Duration(ms * 1e6)
		}
		one := func(q float64) float64 { return quantile(ns, q).Seconds() * 1e3 }
		r.addGoal(&goal{What: "package init of " + i.Binary + " over an empty Go program", Unit: "ms", Limit: 0.5, Found: interval{one(.5), one(.25), one(.75)}})
	}
	if r.MonitorPSS > 0 {
		mib := float64(r.MonitorPSS) / (1 << 20)
		r.addGoal(&goal{What: "memory (PSS) of the monitor of an idle sandbox", Unit: "MiB", Limit: 2, Found: interval{mib, mib, mib}})
	}
}

func (r *report) addGoal(g *goal) {
	g.mark()
	r.Goals = append(r.Goals, g)
}

// write writes the three files.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // documentation
		return err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var errs []error
	for name, data := range map[string]string{
		"results.json": string(text) + "\n", "README.md": r.markdown(), "startup.svg": r.chart(),
	} {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644)) //nolint:gosec // documentation
	}
	return errors.Join(errs...)
}

// grid is a table before it is laid out.
type grid struct {
	title  string
	header []string
	rows   [][]string
}

// grids are the tables, the same on the terminal and in README.md.
func (r *report) grids() []grid {
	return []grid{r.goalsGrid(), r.timesGrid(kindRun), r.timesGrid(kindLife), r.timesGrid(kindExec), r.timesGrid(kindInside), r.timesGrid(kindEngine), r.timesGrid(kindGVisor), r.imagesGrid(), r.crowdGrid(), r.memoryGrid(), r.idleGrid(), r.layersGrid()}
}

// frontGrids are those that the project's README has.
func (r *report) frontGrids() []grid {
	return []grid{r.goalsGrid(), r.timesGrid(kindRun), r.timesGrid(kindLife), r.timesGrid(kindExec), r.timesGrid(kindEngine), r.timesGrid(kindGVisor), r.imagesGrid(), r.idleGrid()}
}

func (r *report) goalsGrid() grid {
	g := grid{title: "The design's goals", header: []string{"what", "goal", "found", "range", ""}}
	for _, x := range r.Goals {
		g.rows = append(g.rows, []string{
			x.What, fmt.Sprintf("≤ %g %s", x.Limit, x.Unit), fmt.Sprintf("%.2f", x.Found.Ratio), fmt.Sprintf("%.2f to %.2f", x.Found.Low, x.Found.High), x.Mark,
		})
	}
	return g
}

var kindTitles = map[string]string{
	kindRun:    "One sandbox that runs `true`, from the start of the tool to its end",
	kindLife:   "One container made, started and deleted by three calls of the runtime, as an engine does it",
	kindExec:   "One more program in a running sandbox",
	kindEngine: "Containers in a row through containerd",
	kindGVisor: "One sandbox on gVisor's kernel that runs `true`",
	kindInside: "One sandbox by a call in a running process",
}

// bases are the contenders that the others of a kind are compared with.
var bases = map[string][]string{
	kindRun: {"bare", "bwrap", "crun", "runc"}, kindExec: {"crun-exec", "runc-exec"}, kindInside: {"bare-inside"},
	kindLife: {"crun-life", "runc-life"}, kindEngine: {"crun-containerd", "runc-containerd"},
	kindGVisor: {"runsc"},
}

func (r *report) timesGrid(kind string) grid {
	g := grid{title: kindTitles[kind], header: []string{"", "median", "95 of 100 below", "processor time"}}
	var compared []*result
	for _, key := range bases[kind] {
		if b := r.find(key); b != nil {
			compared = append(compared, b)
			g.header = append(g.header, "/ "+b.Name)
		}
	}
	if kind == kindEngine {
		g.header = append(g.header, "containers", "together")
	}
	for _, res := range r.Results {
		if res.Kind != kind || len(res.Wall) == 0 {
			continue
		}
		row := []string{res.Name, ms(median(res.Wall)), ms(quantile(res.Wall, .95)), ms(median(res.CPU))}
		for _, b := range compared {
			row = append(row, fmt.Sprintf("%.2f", float64(median(res.Wall))/float64(median(b.Wall))))
		}
		if kind == kindEngine {
			row = append(row, fmt.Sprint(len(res.Wall)), fmt.Sprintf("%.1f s", sum(res.Wall).Seconds()))
		}
		g.rows = append(g.rows, row)
	}
	return g
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1e3) }

func (r *report) crowdGrid() grid {
	g := grid{title: "Many at once", header: []string{"", "clients", "sandboxes", "a second"}}
	for _, res := range r.Results {
		if c := res.Crowd; c != nil && len(c.Took) > 0 {
			g.rows = append(g.rows, []string{res.Name, fmt.Sprint(c.Clients), fmt.Sprint(c.Sandboxes), fmt.Sprintf("%.0f", c.perSecond())})
		}
	}
	return g
}

func (r *report) memoryGrid() grid {
	g := grid{title: "Memory at most", header: []string{"", "median"}}
	for _, res := range r.Results {
		if len(res.PeakRSS) == 0 {
			continue
		}
		sizes := make([]time.Duration, len(res.PeakRSS))
		for i, n := range res.PeakRSS {
			sizes[i] = time.Duration(n)
		}
		g.rows = append(g.rows, []string{res.Name, fmt.Sprintf("%.1f MiB", float64(median(sizes))/(1<<20))})
	}
	return g
}

func (r *report) layersGrid() grid {
	g := grid{title: "What confined the program", header: []string{"", "new namespaces", "capabilities", "no new privileges", "seccomp", "root", "mounts"}}
	modes := map[string]string{"0": "off", "2": "filter"}
	for _, res := range r.Results {
		l := res.Layers
		if l == nil {
			continue
		}
		caps, root := "some", "writable"
		if strings.Trim(l.Capabilities, "0") == "" {
			caps = "none"
		}
		if l.RootReadOnly {
			root = "read-only"
		}
		nnp := map[string]string{"0": "off", "1": "on"}[l.NoNewPrivs]
		g.rows = append(g.rows, []string{res.Name, strings.Join(l.Namespaces, " "), caps, nnp, modes[l.Seccomp], root, fmt.Sprint(l.Mounts)})
	}
	return g
}
