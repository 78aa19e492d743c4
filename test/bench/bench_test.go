package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func millis(n ...float64) (out []time.Duration) {
	for _, x := range n {
		out = append(out, time.Duration(x*1e6))
	}
	return out
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		samples []time.Duration
		q       float64
		want    time.Duration
	}{
		{nil, .5, 0},
		{millis(3), .95, 3e6},
		{millis(4, 1, 3, 2), .5, 2.5e6},
		{millis(5, 1, 4, 2, 3), .5, 3e6},
		{millis(1, 2, 3, 4, 5), .25, 2e6},
		{millis(1, 2), 1, 2e6},
	} {
		if got := quantile(tt.samples, tt.q); got != tt.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", tt.samples, tt.q, got, tt.want)
		}
	}
}

// A round that was slow for both leaves the ratio as it is; noise in one of them widens the range.
func TestRatio(t *testing.T) {
	t.Parallel()
	a, b := millis(2, 4, 20, 2, 4), millis(1, 2, 10, 1, 2)
	if got := ratio(a, b); got != (interval{2, 2, 2}) {
		t.Errorf("twice as slow in every round: %+v", got)
	}
	got := ratio(millis(1, 9, 2, 8, 5, 4), millis(1, 1, 1, 1, 1, 1))
	if got.Ratio != 4.5 || got.Low >= got.Ratio || got.High <= got.Ratio {
		t.Errorf("noise: %+v", got)
	}
}

func TestMark(t *testing.T) {
	t.Parallel()
	for want, found := range map[string]interval{
		"met": {1, .9, 1.1}, "missed": {1.5, 1.4, 1.6}, "perhaps met": {1.2, 1.1, 1.4}, "perhaps missed": {1.4, 1.2, 1.5},
	} {
		g := goal{Limit: 1.3, Found: found}
		if g.mark(); g.Mark != want {
			t.Errorf("%+v of at most 1.3 is %q, want %q", found, g.Mark, want)
		}
	}
}

// The text below is what the probe prints inside.
func TestReadLayers(t *testing.T) {
	t.Parallel()
	l := readLayers(`CapEff:	0000000000000000
NoNewPrivs:	1
Seccomp:	2
lrwxrwxrwx    1 0        0                0 Nov 24 03:40 net -> net:[1]
lrwxrwxrwx    1 0        0                0 Nov 24 03:40 pid_for_children -> pid:[1]
42 49 254:0 /x / ro,relatime,idmapped - ext4 /dev/vda rw
73 42 0:42 / /proc rw,nosuid,nodev,noexec,relatime - proc none rw
0::/
`)
	if l.Capabilities != "0000000000000000" || l.NoNewPrivs != "1" || l.Seccomp != "2" || l.Mounts != 2 || !l.RootReadOnly ||
		strings.Join(l.Namespaces, " ") != "net" {
		t.Errorf("%+v", l)
	}
}

func someReport() *report {
	return &report{Rounds: 3, Inits: []initTime{{"brig", []float64{.4, .5, .6}}}, MonitorPSS: 3 << 20, Results: []*result{
		{Key: "bare", Name: "bare helper", Kind: kindRun, Wall: millis(1, 2, 3), CPU: millis(1, 1, 1)},
		{Key: "brig", Name: "brig <run>", Kind: kindRun, Wall: millis(2, 4, 6), CPU: millis(2, 2, 2), Crowd: &crowd{2, 10, millis(100)}},
		{Key: "runc", Name: "runc run", Kind: kindRun, Wall: millis(20, 40, 60), CPU: millis(9, 9, 9), PeakRSS: []int64{10 << 20}},
		{Key: "brig-oci-containerd", Name: "brig-oci through containerd", Kind: kindEngine, Wall: millis(70, 80, 90), CPU: millis(9, 9, 9)},
		{Key: "runc-containerd", Name: "runc through containerd", Kind: kindEngine, Wall: millis(100, 100, 100), CPU: millis(9, 9, 9)},
	}}
}

func TestChartIsXML(t *testing.T) {
	t.Parallel()
	d := xml.NewDecoder(strings.NewReader(someReport().chart()))
	texts := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := token.(xml.StartElement); ok && s.Name.Local == "circle" {
			texts++
		}
	}
	if texts != 9 {
		t.Errorf("%d dots for 9 samples", texts)
	}
}

// The project's README keeps what is not the benchmark's, and has no table without rows.
func TestFrontPage(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(name, []byte("before\n"+readmeBegin+"old\n"+readmeEnd+"\nbehind\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := someReport()
	r.judge()
	if err := r.frontPage(name); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	if !strings.HasPrefix(text, "before\n"+readmeBegin) || !strings.HasSuffix(text, readmeEnd+"\nbehind\n") || strings.Contains(text, "old\n") {
		t.Errorf("around the tables: %s", text)
	}
	for title, want := range map[string]bool{kindTitles[kindRun]: true, kindTitles[kindEngine]: true, kindTitles[kindLife]: false} {
		if strings.Contains(text, title) != want {
			t.Errorf("the table %q is there: %v", title, !want)
		}
	}
}

func TestReadme(t *testing.T) {
	t.Parallel()
	r := someReport()
	r.judge()
	text := r.markdown()
	for _, want := range []string{
		"| ≤ 1.3 times | 2.00 | 2.00 to 2.00 | missed |", "| ≤ 0.2 times | 0.10 | 0.10 to 0.10 | met |", "| ≤ 2 MiB | 3.00 |",
		"| ≤ 0.5 ms | 0.50 |", "| 4.00 ms |", "| 100 |", "| 10.0 MiB |",
		"| brig-oci through containerd | 80.00 ms | 89.00 ms | 9.00 ms | 0.80 | 3 | 0.2 s |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("README.md has no %q:\n%s", want, text)
		}
	}
}
