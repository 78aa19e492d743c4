// Command bench compares Brig with bare namespaces, bubblewrap, crun and runc, alone and behind containerd, on the same root file system and the same
// bundle, and writes what it found to docs/bench. Run it with `make bench`, or `go run ./test/bench -quick`.
//
// Everything is measured in turns: each round runs every contender once, in an order drawn anew, so that whatever else
// the machine does hits all alike. Nothing is pinned to a processor.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// options are the flags.
type options struct {
	rounds int           // -n
	out    string        // -out
	bin    string        // -bin
	quiet  time.Duration // -quiet
	seed   uint64        // -seed
	quick  bool          // -quick
	gvisor bool          // -gvisor
}

// warmUp is how many rounds are run and not counted.
const warmUp = 5

func main() {
	o := options{}
	flag.IntVar(&o.rounds, "n", 300, "`ROUNDS` that are counted")
	flag.StringVar(&o.out, "out", "docs/bench", "`FOLDER` for results.json, README.md and startup.svg; empty for none")
	flag.StringVar(&o.bin, "bin", "", "`FOLDER` of the brig and brig-oci to measure; empty to build them from the source at hand")
	flag.DurationVar(&o.quiet, "quiet", 0, "measure only while others leave the machine alone, and wait up to this long for that")
	flag.Uint64Var(&o.seed, "seed", 1, "seed of the order within rounds")
	flag.BoolVar(&o.quick, "quick", false, "a few rounds, to see that it works; writes nothing unless -out is given")
	flag.BoolVar(&o.gvisor, "gvisor", false, "measure sandboxes on gVisor's kernel only; writes nothing unless -out is given")
	flag.Parse()
	quicken(&o)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGPIPE) // all must clear up
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// quicken makes the run short, and keeps a part of the run from being written over the whole, where no flag says otherwise.
func quicken(o *options) {
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if o.quick && !given["n"] {
		o.rounds = 10
	}
	if (o.quick || o.gvisor) && !given["out"] {
		o.out = ""
	}
}

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root: the peers' containers and the bare namespaces are made by it; run it as root")
	}
	if o.bin != "" {
		if o.bin, err = filepath.Abs(o.bin); err != nil {
			return err
		}
	}
	t, err := newTools(o.bin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	if len(t.missing) > 0 {
		fmt.Fprintf(os.Stderr, "bench: not installed and so not measured: %s; scripts/setup.sh installs them\n", joined(t.missing))
	}
	if err := waitQuiet(ctx, o.quiet); err != nil {
		return err
	}
	r, err := t.measure(ctx, o)
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	if o.out == "" {
		return nil
	}
	if err := r.write(o.out); err != nil || filepath.Clean(o.out) != "docs/bench" {
		return err
	}
	return r.frontPage("README.md")
}

func newTools(bin string) (*tools, error) {
	s, err := newStage()
	if err != nil {
		return nil, err
	}
	t := &tools{stage: s}
	if t.main, err = ordinaryLane(); err == nil {
		err = t.find(bin)
	}
	if err == nil && t.paths["crun"] != "" && hybridCgroups() {
		t.unified, err = unifiedLane()
	}
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// measure does all the work and gives the whole report.
func (t *tools) measure(ctx context.Context, o options) (_ *report, err error) {
	list, err := t.contenders()
	if err != nil {
		return nil, err
	}
	if o.gvisor {
		list = slices.DeleteFunc(list, func(c *contender) bool { return c.kind != kindGVisor })
	}
	r := &report{Machine: t.describe(), Rounds: o.rounds, Seed: o.seed, Missing: t.missing}
	bar := newProgress(o.rounds)
	defer bar.done()
	if err := t.gvisorIdle(ctx, r, bar); err != nil {
		return nil, err
	}
	for _, c := range list {
		res := &result{Key: c.key, Name: c.name, Kind: c.kind, Note: c.note}
		if c.probe != nil {
			bar.say("looking at " + c.name)
			text, err := output(c.lane, t.stage, c.probe)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			res.Layers = readLayers(text)
		}
		if c.start != nil {
			if err := c.start(); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
		}
		if c.stop != nil {
			defer func() { err = errors.Join(err, c.stop()) }()
		}
		r.Results = append(r.Results, res)
	}
	before := readBusy()
	steps := []func(context.Context, options, []*contender, *report, *progress) error{
		t.inTurns, t.crowds, t.rows, t.images, t.memory, t.inits, t.gvisorTurns,
	}
	if o.gvisor {
		steps = steps[len(steps)-1:]
	}
	for _, step := range steps {
		if err := step(ctx, o, list, r, bar); err != nil {
			return nil, err
		}
	}
	r.Machine.finish(before)
	r.judge()
	return r, nil
}
