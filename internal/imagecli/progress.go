package imagecli

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"brig/internal/cli/output"

	"github.com/vbauerster/cupwriter"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// bars are lines that move while somebody waits: one for each kind of work, however many layers an image has. Where
// standard error is no terminal there are none.
type bars struct {
	progress *mpb.Progress
	live     []*bar
}

// bar is one of them. Its methods may be called by several goroutines.
type bar struct {
	b     *mpb.Bar // nil without a terminal
	total atomic.Int64
}

func (a *app) bars() *bars {
	if output.Width(a.err) == 0 {
		return &bars{}
	}
	w := cupwriter.New(lineStart{a.err}, false)
	w.SetTermFd(int(a.err.Fd())) //nolint:gosec // a file descriptor
	return &bars{progress: mpb.New(mpb.WithConsoleWriter(w), mpb.WithAutoRefresh(), mpb.WithRefreshRate(100*time.Millisecond), mpb.WithWidth(40))}
}

// lineStart begins every frame at the start of its line: the terminal has echoed ^C, or what else somebody typed.
type lineStart struct{ w io.Writer }

func (l lineStart) Write(p []byte) (int, error) {
	n, err := l.w.Write(append([]byte{'\r'}, p...))
	return max(n-1, 0), err
}

// one adds a line. Its total grows by want.
func (l *bars) one(label string) *bar {
	b := &bar{}
	if l.progress != nil {
		style := mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]")
		if os.Getenv("NO_COLOR") == "" {
			style = mpb.BarStyle().Lbound("").Filler("━").Tip("━").Padding("─").Rbound("")
		}
		b.b = l.progress.New(0, style,
			mpb.PrependDecorators(decor.Name(label, decor.WC{W: 10, C: decor.DindentRight})),
			mpb.AppendDecorators(decor.Counters(decor.SizeB1000(0), " % .1f / % .1f"), decor.AverageSpeed(decor.SizeB1000(0), "  % .1f")))
		l.live = append(l.live, b)
	}
	return b
}

// want says that so many bytes more are to come.
func (b *bar) want(bytes int64) {
	if b.b != nil {
		b.b.SetTotal(b.total.Add(bytes), false)
	}
}

// add says that so many bytes were done.
func (b *bar) add(bytes int64) {
	if b.b != nil {
		b.b.IncrInt64(bytes)
	}
}

// end says that no more is to come: the line stays as it is, with the speed that it had.
func (b *bar) end() {
	if b.b != nil && !b.b.Completed() {
		b.b.SetTotal(-1, true)
	}
}

// end takes the lines to their end and waits until they are drawn; nothing else is written to the terminal before. After an error they
// are taken away: how far it came is nobody's concern then.
func (l *bars) end(err error) {
	if l.progress == nil {
		return
	}
	for _, b := range l.live {
		if err != nil {
			b.b.Abort(true)
			continue
		}
		b.end()
	}
	l.progress.Wait()
}

// notice gives what prints a line above the lines that move, or to w where there are none.
func (l *bars) notice(w io.Writer) func(string) {
	if l.progress != nil {
		w = l.progress
	}
	return func(text string) { fmt.Fprintln(w, "brig: notice:", output.Printable(text)) }
}
