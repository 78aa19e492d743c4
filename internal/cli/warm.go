package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/cli/output"
	"brig/internal/inspect"
	"brig/internal/policy"
	"brig/internal/sandbox"

	"github.com/spf13/cobra"
)

func (a *app) warm() *cobra.Command {
	var f policyFlags
	var form output.Format
	var detach, list, stop bool
	var count int
	c := &cobra.Command{
		Use:   "warm [flags of run] IMAGE | warm [flags of run] -- | warm --list | warm --stop [DOMAIN|IMAGE...]",
		Short: "keep gVisor sandboxes ready, from which run starts in a fraction of the time",
		Long: "Keep sandboxes ready that have everything but their program: every layer of the policy, and a started gVisor kernel. `brig run` takes\n" +
			"one where its own policy, image and user are the very same; words and environment of the program are what may\n" +
			"differ, and name, labels, --timeout and --output-limit. Where none fits it starts a cold one, as ever. Each serves one\n" +
			"program, and another is made in its place.\n" +
			"It keeps them until it is ended (Ctrl-C, or --stop with -d); what runs by then goes on.\n" +
			"Behind -- it needs no program: that is for runs of the host's programs, as of `brig run -- PROGRAM`.",
		DisableFlagsInUseLine: true, ValidArgsFunction: f.images,
		RunE: func(c *cobra.Command, args []string) error {
			asJSON, err := form.JSON()
			if err != nil {
				return err
			}
			store, err := a.store()
			if err != nil {
				return err
			}
			switch {
			case list && stop:
				return errors.New("--list and --stop: one of them")
			case list && len(args) > 0:
				return fmt.Errorf("--list takes no words, and lists all; %q is one too many", args[0])
			case list:
				return a.listWarm(store, asJSON)
			case stop:
				return a.stopWarm(store, args)
			}
			if f.isolation == "" {
				f.isolation = "gvisor" // there is no other
			}
			return a.keepWarm(c, store, &f, args, count, detach)
		},
	}
	s := c.Flags()
	s.SetInterspersed(false)
	s.SortFlags = false
	s.IntVarP(&count, "count", "n", 1, "how many")
	s.BoolVarP(&detach, "detach", "d", false, "in the background; comes back when they are ready")
	s.BoolVar(&list, "list", false, "list what is kept warm")
	s.BoolVar(&stop, "stop", false, "end what was started with -d: all, or those of the trust domains and images that are named")
	form.Register(s)
	f.register(s)
	f.complete(c)
	return c
}

func (a *app) keepWarm(c *cobra.Command, store *sandbox.Store, f *policyFlags, args []string, count int, detach bool) error {
	args, err := f.anyProgram(c, args)
	if err != nil {
		return err
	}
	p, err := a.prepare(c, f, args, true)
	if err != nil {
		return err
	}
	defer p.close()
	req, err := p.request()
	if err != nil {
		return err
	}
	if detach {
		return store.DetachPool(req, count)
	}
	ctx, cancel := interruptible()
	defer cancel()
	return store.KeepWarm(ctx, req, count,
		func() { fmt.Fprintf(a.err, "brig: %d ready\n", count) },
		func(err error) { fmt.Fprintf(a.err, "brig: keep a sandbox warm: %s\n", output.Printable(err.Error())) })
}

// warmReport is --list as JSON.
type warmReport struct {
	Pools     []*sandbox.Pool   `json:"pools"`
	Sandboxes []*sandbox.Warmed `json:"sandboxes"`
}

func (a *app) listWarm(store *sandbox.Store, asJSON bool) error {
	pools, list, err := store.Pools()
	if err != nil {
		return err
	}
	if asJSON {
		return output.JSON(a.out, warmReport{append([]*sandbox.Pool{}, pools...), append([]*sandbox.Warmed{}, list...)})
	}
	rows := make([][]string, len(pools))
	for i, p := range pools {
		memory, ready := uint64(0), readiness(p, list)
		for _, w := range list {
			if w.Domain == p.Domain {
				memory += w.Memory
			}
		}
		rows[i] = []string{p.Domain, none(poolRoot(p)), none(p.Preset), ready, inspect.Bytes(memory), fmt.Sprint(p.PID), output.Ago(p.Created)}
	}
	for _, w := range orphans(pools, list) {
		fmt.Fprintf(a.err, "brig: the pool of the warm sandbox %s was killed while its supervisor, process %d, was stopped: brig warm --stop ends it\n", w.ID, w.Monitor)
	}
	for _, p := range pools {
		if p.Failed != "" {
			fmt.Fprintf(a.err, "brig: the pool %s cannot make a sandbox, and tries again: %s\n", p.Domain, output.Printable(p.Failed))
		}
	}
	output.Table(a.out, []string{"DOMAIN", "ROOT", "PRESET", "READY", "MEMORY", "PID", "CREATED"}, rows, 1)
	return nil
}

// readiness says how many of a pool's sandboxes a run can have.
func readiness(p *sandbox.Pool, list []*sandbox.Warmed) string {
	ready, stopped := 0, 0
	for _, w := range list {
		switch {
		case w.Domain != p.Domain:
		case w.Stopped:
			stopped++
		default:
			ready++
		}
	}
	text := fmt.Sprintf("%d of %d", ready, p.Count)
	if stopped > 0 {
		text += fmt.Sprintf(", %d stopped", stopped)
	}
	if p.Stopped {
		text += ", pool stopped"
	}
	return text
}

// orphans are sandboxes that wait in no pool, as their supervisor was stopped and did not see it end.
func orphans(pools []*sandbox.Pool, list []*sandbox.Warmed) []*sandbox.Warmed {
	return slices.DeleteFunc(slices.Clone(list), func(w *sandbox.Warmed) bool {
		return !w.Stopped || slices.ContainsFunc(pools, func(p *sandbox.Pool) bool { return p.Domain == w.Domain })
	})
}

func (a *app) stopWarm(store *sandbox.Store, names []string) error {
	pools, list, err := store.Pools()
	if err != nil {
		return err
	}
	for _, w := range orphans(pools, list) {
		if err := w.Continue(); err != nil {
			return err
		}
	}
	ctx, cancel := interruptible()
	defer cancel()
	chosen, err := choosePools(pools, names)
	if err != nil {
		return err
	}
	for _, p := range chosen {
		if err := p.Stop(ctx); err != nil {
			return err
		}
		fmt.Fprintln(a.out, p.Domain)
	}
	return nil
}

// choosePools gives the pools that are named by their trust domain, by its beginning as far as no other has it, or by their image or folder as --list
// shows it: all of that one. Without a name it gives them all.
func choosePools(pools []*sandbox.Pool, names []string) ([]*sandbox.Pool, error) {
	if len(names) == 0 {
		return pools, nil
	}
	var chosen []*sandbox.Pool
	for _, name := range names {
		var found, begins []*sandbox.Pool
		for _, p := range pools {
			switch {
			case name == p.Domain, name != "" && name == poolRoot(p):
				found = append(found, p)
			case name != "" && strings.HasPrefix(p.Domain, name):
				begins = append(begins, p)
			}
		}
		if len(found) == 0 {
			found = begins
		}
		switch {
		case len(found) == 0:
			return nil, fmt.Errorf("nothing is kept warm for %q; `brig warm --list` shows what is", name)
		case len(found) > 1 && len(begins) == len(found):
			return nil, fmt.Errorf("the trust domains of %d pools begin with %q; write more of it", len(found), name)
		}
		for _, p := range found {
			if !slices.Contains(chosen, p) {
				chosen = append(chosen, p)
			}
		}
	}
	return chosen, nil
}

// poolRoot is what the sandboxes of a pool have as their root: an image or a folder, nothing for the host's programs.
func poolRoot(p *sandbox.Pool) string {
	if p.Image != nil {
		return p.Image.Ref
	}
	return p.Root
}

// anyProgram gives the words with one for the program where there is none: it comes with the run, and every policy has one.
func (f *policyFlags) anyProgram(c *cobra.Command, args []string) ([]string, error) {
	file := &policy.Policy{}
	if f.file != "" {
		var err error
		if file, err = policy.Load(f.file); err != nil {
			return nil, err
		}
	}
	name, program := f.imageAndProgram(c, args, file)
	nowhere := name+file.Image+f.rootfs == "" && file.Root == nil && c.ArgsLenAtDash() < 0
	switch {
	case len(program) > 0, nowhere && len(file.Args) > 0:
		return args, nil
	case nowhere:
		return nil, errors.New("warm: what for is not said; name an image, a folder with --rootfs, or write -- for the host's programs")
	}
	return append(args, "true"), nil
}

// kernelFor says on which gVisor kernel a run would start; nothing for another isolation.
func (a *app) kernelFor(p *prepared) (string, error) {
	if p.spec.Annotations[annotation.Isolation] != "gvisor" {
		return "", nil
	}
	req, err := p.request()
	if err != nil {
		return "", err
	}
	store, err := a.store()
	if err != nil {
		return "", nil //nolint:nilerr // to explain nobody needs a place for sandboxes
	}
	if n := store.WarmFor(req); n > 0 {
		return fmt.Sprintf("gVisor's kernel is warm, one of %d that wait for this policy: these calls have been made\n", n), nil
	}
	return "gVisor's kernel is started cold: none is kept warm for this policy (brig warm)\n", nil
}
