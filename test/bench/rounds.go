package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// inTurns runs every contender once a round, in an order drawn anew each round: what the kernel still clears up after
// one of them (the end of a network namespace takes it a while) falls on all the others alike.
func (t *tools) inTurns(ctx context.Context, o options, list []*contender, r *report, bar *progress) error {
	random := rand.New(rand.NewPCG(o.seed, 0)) //nolint:gosec // an order, not a secret
	quiet := time.Now().Add(o.quiet)
	list = slices.DeleteFunc(slices.Clone(list), func(c *contender) bool { return c.ownTurns() }) // the last ones
	samples := make([]sample, len(list))
	for round := -warmUp; round < o.rounds; {
		bar.round(round)
		before := readBusy()
		for _, i := range random.Perm(len(list)) {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("stopped: %w", err)
			}
			var err error
			if samples[i], err = list[i].once(t.stage); err != nil {
				return err
			}
		}
		if readBusy().others(before) > disturbed && time.Now().Before(quiet) {
			r.Discarded++
			if err := waitQuiet(ctx, time.Until(quiet)); err != nil {
				return err
			}
			continue
		}
		if round++; round > 0 {
			r.add(samples)
		}
	}
	return nil
}

// turnsOf is inTurns for the contenders of one kind that has turns of its own. say is told of each round.
func (t *tools) turnsOf(ctx context.Context, o options, kind string, rounds int, list []*contender, r *report, say func(round, rounds int)) error {
	var mine []int
	for i, c := range list {
		if c.kind == kind {
			mine = append(mine, i)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	random := rand.New(rand.NewPCG(o.seed, 1)) //nolint:gosec // an order, not a secret
	for round := -warmUp; round < rounds; round++ {
		say(max(round+1, 0), rounds)
		order := slices.Clone(mine)
		random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, i := range order {
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

// disturbed is the share of the processors' time in the hands of others from which on a round does not count, for as
// long as -quiet lasts. The kernel's own threads are among the others, and have 5 to 10 of 100 in any round.
const disturbed = 0.2

// add keeps the samples of a round.
func (r *report) add(samples []sample) {
	for i, s := range samples {
		r.Results[i].Wall = append(r.Results[i].Wall, s.wall)
		r.Results[i].CPU = append(r.Results[i].CPU, s.cpu)
	}
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
	quiet := time.Now().Add(o.quiet)
	for n := range repeats {
		for i, c := range list {
			if c.kind != kindRun {
				continue
			}
			bar.say(fmt.Sprintf("%d clients, %d sandboxes: %s, %d of %d", clients, total, c.name, n+1, repeats))
			if err := waitQuiet(ctx, time.Until(quiet)); err != nil {
				return err
			}
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
