package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

// quantile is the q-quantile of samples, between the two that are next to it.
func quantile(samples []time.Duration, q float64) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(samples))
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 == len(s) {
		return s[i]
	}
	return s[i] + time.Duration((at-float64(i))*float64(s[i+1]-s[i]))
}

func sum(samples []time.Duration) (all time.Duration) {
	for _, s := range samples {
		all += s
	}
	return all
}

func median(samples []time.Duration) time.Duration { return quantile(samples, 0.5) }

// interval is a ratio with the range that holds 95 of 100 repetitions of it.
type interval struct {
	Ratio float64 `json:"ratio"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// resamples is how often the rounds are drawn anew for an interval.
const resamples = 1000

// ratio compares the medians of two contenders of the same rounds. The range comes from drawing rounds anew with
// repetition (the bootstrap): a round that was disturbed counts for both or for neither.
func ratio(a, b []time.Duration) interval {
	n := min(len(a), len(b))
	if n == 0 {
		return interval{}
	}
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same numbers give the same report
	var drawn []float64
	x, y := make([]time.Duration, n), make([]time.Duration, n)
	for range resamples {
		for i := range n {
			k := r.IntN(n)
			x[i], y[i] = a[k], b[k]
		}
		drawn = append(drawn, float64(median(x))/float64(median(y)))
	}
	slices.Sort(drawn)
	return interval{float64(median(a)) / float64(median(b)), drawn[resamples*25/1000], drawn[resamples*975/1000]}
}
