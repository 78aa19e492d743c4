package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"brig/internal/annotation"
	"brig/internal/cgroup"
	"brig/internal/cli/output"
	"brig/internal/host"
	"brig/internal/idmap"
	"brig/internal/inspect"
	"brig/internal/isolation/gvisor"
	"brig/internal/isolation/native"
	"brig/internal/mac"
	"brig/internal/plan"
	"brig/internal/policy"
	"brig/internal/sandbox"
	"brig/internal/version"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

func (a *app) inspect() *cobra.Command {
	var f output.Format
	var o inspect.Options
	c := &cobra.Command{
		Use: "inspect [flags] SANDBOX", Short: "what confines a sandbox: asked for, and in force as the kernel says", Args: output.Args(cobra.ExactArgs(1)), ValidArgsFunction: a.names,
		RunE: func(_ *cobra.Command, args []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			b, err := a.find(args[0])
			if err != nil {
				return err
			}
			r, err := inspect.Read(b, o)
			if err != nil {
				return err
			}
			if asJSON {
				return output.JSON(a.out, r)
			}
			a.inspectTable(r)
			return nil
		},
	}
	c.Flags().BoolVar(&o.Calls, "syscalls", false, "read the filter back from the kernel and list the calls; stops the process for an instant")
	c.Flags().BoolVar(&o.Spec, "spec", false, "add the OCI spec (with --format json)")
	f.Register(c.Flags())
	return c
}

func (a *app) inspectTable(r *inspect.Report) {
	st := r.State
	fmt.Fprintf(a.out, "sandbox %s %s  %s  pid %d  started %s\ncommand %s\n", st.ID, st.Name, ending(st), st.PID, output.Ago(st.Started), output.Printable(strings.Join(st.Command, " ")))
	if st.Image != nil {
		fmt.Fprintf(a.out, "image %s  %s\n", st.Image.Ref, st.Image.Digest)
	}
	if st.Warm {
		fmt.Fprintln(a.out, "kernel gVisor's, warm: it and every layer around it were there before the program was known")
	}
	if len(r.Layers) == 0 {
		fmt.Fprintln(a.out, "it does not run: nothing is in force")
		return
	}
	rows := make([][]string, len(r.Layers))
	for i, l := range r.Layers {
		mark := output.Colour(a.out, text.FgGreen, "ok")
		if !l.OK {
			mark = output.Colour(a.out, text.FgRed, "WEAKER")
			a.code = 1
		}
		rows[i] = []string{l.Layer, mark, l.Asked, l.Effective}
	}
	fmt.Fprintln(a.out)
	if len(r.Guest) > 0 {
		fmt.Fprintln(a.out, "isolation gvisor: what is in force holds its kernel's process")
	}
	output.Table(a.out, []string{"LAYER", "", "ASKED", "IN FORCE"}, rows, 3)
	if len(r.Guest) > 0 {
		kept := make([]string, len(r.Guest))
		for i, l := range r.Guest {
			kept[i] = l.Layer + ": " + l.Text
		}
		fmt.Fprintf(a.out, "\nThat kernel keeps for the program, which only it could tell: %s\n", strings.Join(kept, "; "))
	}
	if c := r.Calls; c != nil && c.Reason == "" {
		fmt.Fprintf(a.out, "\nallowed: %s\n\nby their arguments: %s\n", strings.Join(c.Allowed, " "), strings.Join(c.Depends, " "))
	}
}

func (a *app) stats() *cobra.Command {
	var f output.Format
	c := &cobra.Command{
		Use: "stats [flags] [SANDBOX...]", Short: "what sandboxes use of their limits", ValidArgsFunction: a.names,
		RunE: func(_ *cobra.Command, args []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			list, err := a.statsOf(args)
			if err != nil {
				return err
			}
			if asJSON {
				return output.JSON(a.out, list)
			}
			rows := make([][]string, len(list))
			for i, s := range list {
				name := none(s.Name)
				if s.Waiting {
					name = "(kept warm)"
				}
				rows[i] = []string{s.ID, name, of(inspect.Bytes(s.Memory.Current), s.Memory.Limit, inspect.Bytes),
					fmt.Sprintf("%.2fs", float64(s.CPU.UsageUsec)/1e6),
					of(fmt.Sprint(s.Pids.Current), s.Pids.Limit, func(n uint64) string { return fmt.Sprint(n) }),
					fmt.Sprint(s.Memory.OOMKills), fmt.Sprint(s.CPU.ThrottledPeriods), stalled(s.Pressure)}
			}
			output.Table(a.out, []string{"ID", "NAME", "MEMORY", "CPU TIME", "PIDS", "OOM KILLS", "THROTTLED", "STALLED"}, rows, 1)
			return nil
		},
	}
	f.Register(c.Flags())
	return c
}

// usage is one sandbox's row of stats.
type usage struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// Waiting: it is kept warm, and has no program yet.
	Waiting bool `json:"waiting,omitempty"`
	*cgroup.Stats
}

func (a *app) statsOf(refs []string) ([]usage, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	all := len(refs) == 0
	if all {
		states, err := store.List()
		if err != nil {
			return nil, err
		}
		for _, st := range states {
			if st.Status != sandbox.Stopped {
				refs = append(refs, st.ID)
			}
		}
		waiting, err := store.Waiting()
		if err != nil {
			return nil, err
		}
		for _, st := range waiting {
			refs = append(refs, st.ID)
		}
	}
	list := []usage{}
	for _, ref := range refs {
		b, err := store.Find(ref)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		st, err := b.State()
		if err != nil {
			return nil, err
		}
		s, err := b.Stats()
		if err != nil {
			if !all {
				return nil, err
			}
			if now, gone := b.State(); gone == nil && now.Status != sandbox.Stopped { // otherwise it ended meanwhile
				fmt.Fprintf(a.err, "brig: %s\n", output.Printable(err.Error()))
			}
			continue
		}
		list = append(list, usage{b.ID, st.Name, st.Status == sandbox.Ready, s})
	}
	return list, nil
}

// stalled is the share of the last ten seconds in which some process waited for a processor, for memory or for a disk.
func stalled(p *cgroup.Pressures) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprintf("cpu %.0f%% memory %.0f%% io %.0f%%", p.CPU.SomeAvg10, p.Memory.SomeAvg10, p.IO.SomeAvg10)
}

func of(used string, limit *uint64, show func(uint64) string) string {
	if limit == nil {
		return used + " / -"
	}
	return used + " / " + show(*limit)
}

func (a *app) explain() *cobra.Command {
	var f policyFlags
	var form output.Format
	c := &cobra.Command{
		Use:   "explain [flags of run] IMAGE [ARG...] | explain [flags of run] -- PROGRAM [ARG...]",
		Short: "print what run would do: one line a system call, grouped by layer; runs nothing",
		Long: "Print the launch program that `brig run` with the same flags would run in the new process: every system call in\n" +
			"order, one line each, under the layer it belongs to. Nothing is run, and no privileges are needed.",
		DisableFlagsInUseLine: true, ValidArgsFunction: f.images,
		RunE: func(c *cobra.Command, args []string) error {
			asJSON, err := form.JSON()
			if err != nil {
				return err
			}
			made, err := a.prepare(c, &f, args, false)
			if err != nil {
				return err
			}
			defer made.close()
			kernel, err := a.kernelFor(made)
			if err != nil {
				return err
			}
			p, err := explained(made.spec, f.passFDs)
			if err != nil {
				return err
			}
			if asJSON {
				return output.JSON(a.out, explainJSON(p))
			}
			fmt.Fprintf(a.out, "clone3 with %s; the parent writes the id maps and hands over %d opened files\n",
				plan.CloneText(p.CloneFlags), len(p.Program.Inputs))
			fmt.Fprint(a.out, kernel)
			return p.Program.WriteText(a.out)
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().SortFlags = false
	f.register(c.Flags())
	form.Register(c.Flags())
	f.complete(c)
	return c
}

// explained compiles a spec as a start would, with a range of ids that stands for the one it would get.
func explained(spec *specs.Spec, passFDs int) (*plan.Plan, error) {
	if spec.Annotations[annotation.IDs] == "auto" {
		maps := idmap.Range{First: 524288, Size: idmap.Size}.Mappings()
		spec.Linux.UIDMappings, spec.Linux.GIDMappings = maps, maps
	}
	if wanted, _ := sandbox.ProfileWanted(spec); wanted {
		name, err := sandbox.ProfileName(spec)
		if err != nil {
			return nil, err
		}
		spec.Process.ApparmorProfile = name
	}
	sandbox.TakeRelabels(spec)
	wanted, _, err := sandbox.LabelWanted(spec)
	if err != nil {
		return nil, err
	}
	if wanted {
		labels, err := sandbox.Labels(spec, idmap.Range{First: 524288, Size: idmap.Size})
		if err != nil {
			return nil, err
		}
		spec.Process.SelinuxLabel, spec.Linux.MountLabel = labels.Process, labels.File
	}
	root, err := native.OpenRoot(spec.Annotations, spec.Root.Path)
	if err != nil {
		return nil, err
	}
	if root != nil {
		defer root.Close() //nolint:errcheck // read only
	}
	facts, err := native.Facts(root)
	if err != nil {
		return nil, err
	}
	if spec.Process.ApparmorProfile+spec.Process.SelinuxLabel != "" {
		facts.MAC = mac.ReadHost()
	}
	facts.Privileged, facts.Supervised, facts.Locked, facts.PassFDs = true, true, true, passFDs
	if spec.Annotations[annotation.Isolation] == "gvisor" {
		return gvisor.Plan(spec, facts)
	}
	return plan.Compile(spec, facts)
}

// step is one line of explain's JSON.
type step struct {
	Index int    `json:"index"`
	Layer string `json:"layer"`
	Why   string `json:"why"`
	Call  string `json:"call"`
}

func explainJSON(p *plan.Plan) []step {
	steps := make([]step, len(p.Program.Instructions))
	for i := range p.Program.Instructions {
		in := &p.Program.Instructions[i]
		steps[i] = step{i, string(in.Layer), in.Why, p.Program.Text(in)}
	}
	return steps
}

func (a *app) doctor() *cobra.Command {
	var f output.Format
	var long bool
	c := &cobra.Command{
		Use: "doctor [flags]", Short: "what this host can enforce, layer by layer, and what that means", Args: output.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			r := host.Doctor()
			r.Layers = append(r.Layers, gvisorRow())
			if asJSON {
				return output.JSON(a.out, r)
			}
			a.doctorTable(r, long)
			return nil
		},
	}
	c.Flags().BoolVarP(&long, "long", "l", false, "also the kernel features that were probed")
	f.Register(c.Flags())
	return c
}

// gvisorRow says whether --isolation gvisor can be had. Its program is executed for that: it does not start where it lacks something.
func gvisorRow() host.Layer {
	release, err := gvisor.Installed()
	if err != nil {
		return host.Layer{
			Layer: "isolation gvisor", Status: host.Absent, Detail: strings.TrimPrefix(err.Error(), "isolation gvisor: "),
			Meaning: "--isolation gvisor is refused; nothing else depends on it",
		}
	}
	return host.Layer{Layer: "isolation gvisor", Status: host.Full, Detail: release + ", platform systrap"}
}

func (a *app) doctorTable(r host.Report, long bool) {
	fmt.Fprintf(a.out, "kernel %s (%s), as %s\n", r.Kernel, r.Arch, r.User)
	if len(r.MissingCaps) > 0 {
		fmt.Fprintf(a.out, "capabilities this root lacks: %s\n", strings.Join(r.MissingCaps, " "))
	}
	marks := map[host.Status]text.Color{host.Full: text.FgGreen, host.Partial: text.FgYellow, host.Absent: text.FgRed}
	rows := make([][]string, len(r.Layers))
	for i, l := range r.Layers {
		what := l.Detail
		for _, more := range []string{l.Meaning, l.Remedy} {
			if more != "" {
				what += "\n" + more
			}
		}
		rows[i] = []string{l.Layer, output.Colour(a.out, marks[l.Status], string(l.Status)), what}
	}
	fmt.Fprintln(a.out)
	output.Table(a.out, []string{"LAYER", "STATUS", "FOUND, WHAT IT MEANS, WHAT TO DO"}, rows, 2)
	if long {
		rows = nil
		for _, x := range r.Features {
			rows = append(rows, []string{x.Name, x.Outcome.String(), none(x.Since), x.Detail})
		}
		fmt.Fprintln(a.out)
		output.Table(a.out, []string{"FEATURE", "FOUND", "SINCE LINUX", "DETAIL"}, rows, 3)
	}
	if len(r.Notes) > 0 {
		fmt.Fprintln(a.out)
		rows = nil
		for _, n := range r.Notes {
			what := n.Meaning
			if n.Remedy != "" {
				what += "\n" + n.Remedy
			}
			rows = append(rows, []string{n.Setting, n.Value, what})
		}
		output.Table(a.out, []string{"SETTING", "VALUE", "WHAT IT MEANS"}, rows, 2)
	}
}

func (a *app) policy() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "show the merged policy, check a file, print the schema or the AppArmor profile"}
	var f policyFlags
	var form output.Format
	show := &cobra.Command{
		Use: "show [flags of run] [IMAGE [ARG...] | -- PROGRAM [ARG...]]", Short: "print the policy that preset, file and flags make together",
		DisableFlagsInUseLine: true, ValidArgsFunction: f.images,
		RunE: func(c *cobra.Command, args []string) error {
			asJSON, err := form.JSON()
			if err != nil {
				return err
			}
			p, err := f.merged(c, args)
			if err != nil {
				return err
			}
			if asJSON {
				return output.JSON(a.out, p)
			}
			data, err := policy.Marshal(p)
			if err == nil {
				_, err = a.out.Write(data)
			}
			return err
		},
	}
	show.Flags().SetInterspersed(false)
	show.Flags().SortFlags = false
	f.register(show.Flags())
	form.Register(show.Flags())
	f.complete(show)
	check := &cobra.Command{
		Use: "check FILE...", Short: "check policy files, each against its preset", Args: output.Args(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			for _, name := range args {
				if err := checkPolicy(name); err != nil {
					return err
				}
				fmt.Fprintf(a.out, "%s: ok\n", name)
			}
			return nil
		},
	}
	schema := &cobra.Command{
		Use: "schema", Short: "print the JSON schema of a policy file", Args: output.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(policy.Schema())
			return err
		},
	}
	c.AddCommand(show, check, schema, a.policyAppArmor())
	return c
}

func checkPolicy(name string) error {
	p, err := policy.Load(name)
	if err != nil {
		return err
	}
	base, err := policy.Preset(p.Preset)
	if err != nil {
		return err
	}
	return policy.Merge(base, p).Validate()
}

func (a *app) version() *cobra.Command {
	var f output.Format
	c := &cobra.Command{
		Use: "version", Short: "print version, commit and kernel interface", Args: output.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			v := map[string]string{"version": version.Version, "go": runtime.Version(), "arch": runtime.GOARCH, "spec": specs.Version}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v["commit"] = s.Value
					}
				}
			}
			if asJSON {
				return output.JSON(a.out, v)
			}
			fmt.Fprintf(a.out, "brig %s (%s %s, OCI runtime spec %s)\n", v["version"], v["go"], v["arch"], v["spec"])
			return nil
		},
	}
	f.Register(c.Flags())
	return c
}
