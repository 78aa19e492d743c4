package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// inTurns runs every contender once a round, in an order drawn anew each round: what the kernel still clears up after
// one of them (the end of a network namespace takes it a while) falls on all the others alike.
func (t *tools) inTurns(ctx context.Context, o options, list []*contender, r *report, bar *progress) error {
	random := rand.New(rand.NewPCG(o.seed, 0)) //nolint:gosec // an order, not a secret
	for round := -warmUp; round < o.rounds; round++ {
		bar.round(round)
		for _, i := range random.Perm(len(list)) {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("stopped: %w", err)
			}
			s, err := list[i].once(t.stage)
			if err != nil {
				return err
			}
			if round >= 0 {
				r.Results[i].Wall = append(r.Results[i].Wall, s.wall)
				r.Results[i].CPU = append(r.Results[i].CPU, s.cpu)
			}
		}
	}
	return nil
}

// crowd is many clients that start sandboxes at once.
type crowd struct {
	Clients   int             `json:"clients"`
	Sandboxes int             `json:"sandboxes"`
	Took      []time.Duration `json:"tookNs"` // one a repetition
}

// perSecond is the throughput of the median repetition.
func (c *crowd) perSecond() float64 {
	if len(c.Took) == 0 {
		return 0
	}
	return float64(c.Sandboxes) / median(c.Took).Seconds()
}

// crowds measures throughput, in turns too.
func (t *tools) crowds(ctx context.Context, o options, list []*contender, r *report, bar *progress) error {
	clients, total, repeats := 16, 500, 3
	if o.quick {
		total, repeats = 64, 1
	}
	for i, c := range list {
		if c.kind == kindRun {
			r.Results[i].Crowd = &crowd{Clients: clients, Sandboxes: total}
		}
	}
	for n := range repeats {
		for i, c := range list {
			if c.kind != kindRun {
				continue
			}
			bar.say(fmt.Sprintf("%d clients, %d sandboxes: %s, %d of %d", clients, total, c.name, n+1, repeats))
			took, err := t.crowd(ctx, c, clients, total)
			if err != nil {
				return err
			}
			r.Results[i].Crowd.Took = append(r.Results[i].Crowd.Took, took)
		}
	}
	return nil
}

func (t *tools) crowd(ctx context.Context, c *contender, clients, total int) (time.Duration, error) {
	lanes := make([]*lane, clients)
	for i := range lanes {
		var err error
		if lanes[i], err = joinLane(c.lane); err != nil {
			return 0, err
		}
		defer lanes[i].close()
	}
	var left atomic.Int64
	left.Store(int64(total))
	errs := make(chan error, clients)
	var all sync.WaitGroup
	begin := time.Now()
	for _, l := range lanes {
		all.Go(func() {
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				if _, err := c.onceOn(l, t.stage); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(begin)
	select {
	case err := <-errs:
		return 0, err
	default:
		return took, ctx.Err()
	}
}
