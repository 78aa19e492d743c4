package oci

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"brig/internal/cgroup"
)

// event is one line of `events`, in runc's form.
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

func (a *app) events(f *flag.FlagSet) func([]string) error {
	var once bool
	var interval time.Duration
	f.BoolVar(&once, "stats", false, "print what is used once, and end")
	f.DurationVar(&interval, "interval", 5*time.Second, "how often to print what is used")
	return func(args []string) error {
		id := args[0]
		if interval <= 0 {
			return errors.New("duration interval must be greater than 0") // runc's words
		}
		c, err := a.open(id)
		if err != nil {
			return err
		}
		if c.status() == stopped {
			return fmt.Errorf("container with id %s is not running", id)
		}
		g := c.group()
		if g == nil {
			return fmt.Errorf("container %s has no cgroup, which is what counts", id)
		}
		w := &eventWriter{out: json.NewEncoder(a.out), id: id}
		if once {
			return w.stats(g)
		}
		return w.follow(c, g, interval)
	}
}

// eventWriter prints whole lines: two goroutines have something to say.
type eventWriter struct {
	mu  sync.Mutex
	out *json.Encoder
	id  string
}

func (w *eventWriter) write(kind string, data any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Encode(event{kind, w.id, data})
}

func (w *eventWriter) stats(g *cgroup.Cgroup) error {
	s, err := g.Counters()
	if err != nil {
		return err
	}
	return w.write("stats", statsOf(s))
}

// follow prints what is used again and again, and each OOM, until the container is gone.
func (w *eventWriter) follow(c *container, g *cgroup.Cgroup, interval time.Duration) error {
	// The process ends first, then the files of its group go, one after the other: what is read meanwhile may be refused by any
	// word (ENOENT, ENODEV), or be half a file that nobody can parse.
	unlessOver := func(err error) error {
		if errors.Is(err, fs.ErrNotExist) || c.status() == stopped {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, watched, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(watched)
		over <- g.WatchOOM(ctx, func() { close(ready) }, func() { _ = w.write("oom", nil) })
	}()
	defer func() { // whose last word may be of an OOM
		cancel()
		<-watched
	}()
	select { // before the first line, which says that it watches
	case <-ready:
	case <-watched:
	}
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		if err := w.stats(g); err != nil {
			return unlessOver(err)
		}
		select {
		case err := <-over:
			var missing *cgroup.MissingError
			if !errors.As(err, &missing) {
				return unlessOver(err)
			}
			over = nil // nothing counts memory here
		case <-ticks.C:
			if !g.Exists() {
				return nil
			}
		}
	}
}
