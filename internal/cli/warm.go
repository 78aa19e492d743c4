package cli

import (
	"errors"
	"fmt"
	"slices"

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
		Use:   "warm [flags of run] IMAGE | warm --list | warm --stop [DOMAIN...]",
		Short: "keep gVisor sandboxes ready, from which run starts in a fraction of the time",
		Long: "Keep sandboxes ready that have everything but their program: every layer of the policy, and a started gVisor kernel. `brig run` takes\n" +
			"one where its own policy, image and user are the very same; words and environment of the program are what may\n" +
			"differ, and name, labels, --timeout and --output-limit. Where none fits it starts a cold one, as ever. Each serves one\n" +
			"program, and another is made in its place.\n" +
			"It keeps them until it is ended (Ctrl-C, or --stop with -d); what runs by then goes on.",
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
	s.BoolVar(&stop, "stop", false, "end what was started with -d: all, or the trust domains that are named")
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
		root := p.Root
		if p.Image != nil {
			root = p.Image.Ref
		}
		rows[i] = []string{p.Domain, none(root), none(p.Preset), ready, inspect.Bytes(memory), fmt.Sprint(p.PID), output.Ago(p.Created)}
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

func (a *app) stopWarm(store *sandbox.Store, domains []string) error {
	pools, list, err := store.Pools()
	if err != nil {
		return err
	}
	for _, w := range orphans(pools, list) {
		if err := w.Continue(); err != nil {
			return err
		}
	}
	wanted := map[string]bool{}
	for _, d := range domains {
		wanted[d] = true
	}
	ctx, cancel := interruptible()
	defer cancel()
	for _, p := range pools {
		if len(domains) > 0 && !wanted[p.Domain] {
			continue
		}
		if err := p.Stop(ctx); err != nil {
			return err
		}
		delete(wanted, p.Domain)
		fmt.Fprintln(a.out, p.Domain)
	}
	for d := range wanted {
		return fmt.Errorf("no sandboxes of the domain %s are kept warm; `brig warm --list` shows those that are", d)
	}
	return nil
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
	if name, program := f.imageAndProgram(c, args, file); len(program) == 0 && (name+file.Image+f.rootfs != "" || file.Root != nil) {
		args = append(args, "true")
	}
	return args, nil
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
