package main

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// The chart's measures, in pixels.
const (
	chartWidth  = 860
	chartLabels = 250 // room for the names
	chartRow    = 34
	chartTop    = 46
	chartRight  = 70 // room for the last median
)

// chartDots is how many samples of a row are drawn at most.
const chartDots = 150

// chartStyle has colours that can be read on white and on black; where the reader's choice is known, better ones.
const chartStyle = `<style>
text{font:13px system-ui,sans-serif;fill:#768390}
.title{font-size:15px;font-weight:600}
.name{fill:currentColor}
.small{font-size:11px}
.grid{stroke:#8888;stroke-width:.5}
.box{fill:none;stroke-width:1.5}
.ours{color:#d1690b}
.theirs{color:#3f87cf}
.dot{fill:currentColor;fill-opacity:.18}
.box,.median{stroke:currentColor}
.median{stroke-width:3}
@media (prefers-color-scheme:light){text{fill:#57606a}}
@media (prefers-color-scheme:dark){text{fill:#9198a1}.ours{color:#f0883e}.theirs{color:#6cb6ff}}
</style>
`

// axis is a logarithmic scale of time.
type axis struct{ low, high float64 }

func (a axis) x(d time.Duration) float64 {
	at := (math.Log(d.Seconds()) - math.Log(a.low)) / (math.Log(a.high) - math.Log(a.low))
	return chartLabels + at*(chartWidth-chartLabels-chartRight)
}

// chart draws samples as dots, with a box from the first to the third quarter and a bar at the median.
func (r *report) chart() string {
	var rows []*result
	a := axis{math.Inf(1), 0}
	for _, kind := range []string{kindRun, kindInside, kindExec} {
		for _, res := range r.Results {
			if res.Kind != kind || len(res.Wall) == 0 {
				continue
			}
			rows = append(rows, res)
			a.low = min(a.low, quantile(res.Wall, 0).Seconds()*.9)
			a.high = max(a.high, quantile(res.Wall, .99).Seconds()*1.1)
		}
	}
	height := chartTop + len(rows)*chartRow + 40
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n", chartWidth, height, chartWidth, height)
	b.WriteString("<title>How long one sandbox takes</title>\n" + chartStyle)
	fmt.Fprintf(&b, `<text class="title" x="10" y="20">One sandbox that runs true, %d times each, in turns</text>`+"\n", r.Rounds)
	b.WriteString(`<text class="small" x="10" y="37">a dot is one sample, the bar the median, the box the middle half; logarithmic axis, left is better</text>` + "\n")
	a.draw(&b, height)
	for i, res := range rows {
		drawRow(&b, a, res, chartTop+i*chartRow+chartRow/2)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (a axis) draw(b *strings.Builder, height int) {
	for _, n := range []float64{.5, 1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000} {
		if n/1e3 < a.low || n/1e3 > a.high {
			continue
		}
		x := a.x(time.Duration(n * 1e6))
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/><text class="small" x="%.1f" y="%d" text-anchor="middle">%g ms</text>`+"\n",
			x, chartTop, x, height-34, x, height-18, n)
	}
}

func drawRow(b *strings.Builder, a axis, res *result, y int) {
	class := "theirs"
	if strings.HasPrefix(res.Key, "brig") {
		class = "ours"
	}
	fmt.Fprintf(b, `<g class="%s"><text class="name" x="10" y="%d">%s</text>`+"\n", class, y+4, html.EscapeString(res.Name))
	step := (len(res.Wall) + chartDots - 1) / chartDots
	for i, d := range res.Wall {
		if i%step != 0 {
			continue
		}
		// A fixed scatter: the golden angle spreads neighbours, and the same samples give the same file.
		off := math.Mod(float64(i)*.618, 1)*14 - 7
		if s := d.Seconds(); s <= a.high {
			fmt.Fprintf(b, `<circle class="dot" cx="%.1f" cy="%.1f" r="2"/>`, a.x(d), float64(y)+off)
		}
	}
	low, mid, high := a.x(quantile(res.Wall, .25)), a.x(median(res.Wall)), a.x(quantile(res.Wall, .75))
	fmt.Fprintf(b, "\n"+`<rect class="box" x="%.1f" y="%d" width="%.1f" height="18"/><line class="median" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`,
		low, y-9, high-low, mid, y-11, mid, y+11)
	fmt.Fprintf(b, `<text class="small" x="%.1f" y="%d">%s</text></g>`+"\n", a.x(min(quantile(res.Wall, .99), time.Duration(a.high*1e9)))+8, y+4, ms(median(res.Wall)))
}
