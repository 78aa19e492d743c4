package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"time"

	"brig/internal/cli/output"
	"brig/internal/policy"
	"brig/internal/sandbox"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// interruptible ends with the first Ctrl-C or SIGTERM.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
}

// find opens the store and finds one sandbox.
func (a *app) find(ref string) (*sandbox.Sandbox, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	return store.Find(ref)
}

func (a *app) exec() *cobra.Command {
	var env []string
	var cwd, user string
	var interactive, tty bool
	c := &cobra.Command{
		Use: "exec [flags] SANDBOX PROGRAM [ARG...]", Short: "run one more program in a running sandbox",
		Long:                  "Run one more program in a running sandbox, behind the same layers and in the same cgroup.",
		DisableFlagsInUseLine: true, Args: output.Args(cobra.MinimumNArgs(2)), ValidArgsFunction: a.names,
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := a.find(args[0])
			if err != nil {
				return err
			}
			if args[1] == "--" && len(args) > 2 { // as behind the image of run
				args = args[1:]
			}
			if cwd != "" && !path.IsAbs(cwd) {
				return fmt.Errorf("--workdir: %q must be an absolute path", cwd)
			}
			req := &sandbox.ExecRequest{Args: args[1:], Cwd: cwd, Terminal: tty}
			for _, text := range env {
				entry, ok, err := policy.ParseEnv(text, os.LookupEnv)
				if err != nil {
					return fmt.Errorf("--env: %w", err)
				}
				if ok {
					req.Env = append(req.Env, entry)
				}
			}
			if user != "" {
				if req.User, err = execUser(b, user); err != nil {
					return fmt.Errorf("--user: %w", err)
				}
			}
			streams := sandbox.Streams{Out: a.out, Err: a.err}
			if interactive {
				streams.In = a.in
			}
			result, err := b.Exec(req, streams)
			if err != nil {
				return err
			}
			a.report(result)
			return nil
		},
	}
	s := c.Flags()
	s.SetInterspersed(false)
	s.StringArrayVarP(&env, "env", "e", nil, "environment `KEY=VALUE`, or KEY to pass on the caller's")
	s.StringVarP(&cwd, "workdir", "w", "", "working directory inside")
	s.StringVarP(&user, "user", "u", "", "user inside, `UID[:GID]` or a name of the root file system")
	s.BoolVarP(&interactive, "interactive", "i", false, "pass standard input on")
	s.BoolVarP(&tty, "tty", "t", false, "a terminal of its own")
	return c
}

func execUser(b *sandbox.Sandbox, text string) (*specs.User, error) {
	spec, err := b.Spec()
	if err != nil {
		return nil, err
	}
	h, err := policy.ThisHost(false)
	if err != nil {
		return nil, err
	}
	root := ""
	if spec.Root != nil {
		root = spec.Root.Path
	}
	u, err := policy.User(h, root, text)
	return &u, err
}

func (a *app) ps() *cobra.Command {
	var f output.Format
	var all, quiet bool
	c := &cobra.Command{
		Use: "ps [flags]", Short: "list sandboxes", Args: output.Args(cobra.NoArgs), Aliases: []string{"list", "ls"},
		RunE: func(*cobra.Command, []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			store, err := a.store()
			if err != nil {
				return err
			}
			list, err := store.List()
			if err != nil {
				return err
			}
			shown := []*sandbox.State{}
			for _, st := range list {
				if all || st.Status != sandbox.Stopped {
					shown = append(shown, st)
				}
			}
			switch {
			case asJSON:
				return output.JSON(a.out, shown)
			case quiet:
				for _, st := range shown {
					fmt.Fprintln(a.out, st.ID)
				}
			default:
				a.psTable(shown)
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "also those that have ended")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the ids")
	f.Register(c.Flags())
	return c
}

func (a *app) psTable(list []*sandbox.State) {
	rows := make([][]string, len(list))
	for i, st := range list {
		rows[i] = []string{st.ID, none(st.Name), ending(st), output.Ago(st.Created), none(imageName(st)), none(st.Preset), output.Printable(strings.Join(st.Command, " "))}
	}
	output.Table(a.out, []string{"ID", "NAME", "STATUS", "CREATED", "IMAGE", "PRESET", "COMMAND"}, rows, 6)
}

func imageName(st *sandbox.State) string {
	if st.Image == nil {
		return ""
	}
	return st.Image.Ref
}

func none(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// ending is the status, with the exit code and the cause of one that has ended.
func ending(st *sandbox.State) string {
	if st.Status != sandbox.Stopped || st.Result == nil {
		return string(st.Status)
	}
	text := fmt.Sprintf("exited (%d)", st.Result.ExitCode)
	if st.Result.Cause != sandbox.Exited {
		text += " " + string(st.Result.Cause)
	}
	return text
}

func (a *app) logs() *cobra.Command {
	var follow bool
	var tail int
	c := &cobra.Command{
		Use: "logs [flags] SANDBOX", Short: "print what a detached sandbox has written", Args: output.Args(cobra.ExactArgs(1)), ValidArgsFunction: a.names,
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := a.find(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := interruptible()
			defer cancel()
			if err := b.Logs(ctx, a.out, a.err, follow, tail); err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the sandbox has ended")
	c.Flags().IntVarP(&tail, "tail", "n", 0, "begin this many lines before the end")
	return c
}

func (a *app) pause() *cobra.Command {
	return a.verb("pause", "stop every process of a sandbox where it is", func(b *sandbox.Sandbox) error {
		return b.Pause(context.Background())
	})
}

func (a *app) resume() *cobra.Command {
	c := a.verb("resume", "let a paused sandbox go on", func(b *sandbox.Sandbox) error { return b.Resume(context.Background()) })
	c.Aliases = []string{"unpause"}
	return c
}

func (a *app) verb(name, short string, do func(*sandbox.Sandbox) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " SANDBOX...", Short: short, Args: output.Args(cobra.MinimumNArgs(1)), ValidArgsFunction: a.names,
		RunE: func(_ *cobra.Command, args []string) error { return a.each(args, do) },
	}
}

func (a *app) kill() *cobra.Command {
	var name string
	c := a.verb("kill", "send a signal to a sandbox's first process", nil)
	c.RunE = func(_ *cobra.Command, args []string) error {
		s, err := parseSignal(name)
		if err != nil {
			return err
		}
		if err := a.signalIsNoSandbox(args); err != nil {
			return err
		}
		return a.each(args, func(b *sandbox.Sandbox) error { return b.Signal(s) })
	}
	c.Flags().StringVarP(&name, "signal", "s", "KILL", "signal, by name or number")
	return c
}

// signalIsNoSandbox refuses the words of runc's kill, whose last one is the signal: the sandbox would be killed by another one.
func (a *app) signalIsNoSandbox(args []string) error {
	for _, word := range args {
		if _, err := parseSignal(word); err != nil {
			continue
		}
		if _, err := a.find(word); err != nil {
			return fmt.Errorf("%q is no sandbox but a signal: `brig kill --signal %s SANDBOX`; nothing was sent", word, word)
		}
	}
	return nil
}

func parseSignal(text string) (unix.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil {
		if n < 1 || n > 64 { // signal(7): real-time signals end at 64
			return 0, fmt.Errorf("--signal %d: signals are 1 to 64", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	if s, ok := realTime(name); ok {
		return s, nil
	}
	return 0, fmt.Errorf("--signal %q: no such signal; `kill -l` lists them", text)
}

func (a *app) stop() *cobra.Command {
	var after string
	c := a.verb("stop", "ask a sandbox to end, and kill it when it does not", func(b *sandbox.Sandbox) error {
		var d time.Duration
		if after != "" {
			var err error
			if d, err = policy.ParseDuration(after); err != nil {
				return fmt.Errorf("--time %w", err)
			}
		}
		ctx, cancel := interruptible()
		defer cancel()
		return b.Stop(ctx, d)
	})
	c.Flags().StringVarP(&after, "time", "t", "", "how long to wait before it is killed (default the sandbox's own, or 10s)")
	return c
}

func (a *app) wait() *cobra.Command {
	var f output.Format
	c := &cobra.Command{
		Use: "wait SANDBOX", Short: "wait for the end of a sandbox, print its exit code and exit with it", Args: output.Args(cobra.ExactArgs(1)), ValidArgsFunction: a.names,
		RunE: func(_ *cobra.Command, args []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			b, err := a.find(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := interruptible()
			defer cancel()
			r, err := b.Wait(ctx)
			if err != nil {
				return err
			}
			a.code = r.ExitCode
			if asJSON {
				return output.JSON(a.out, r)
			}
			fmt.Fprintln(a.out, r.ExitCode)
			return nil
		},
	}
	f.Register(c.Flags())
	return c
}

func (a *app) rm() *cobra.Command {
	var force bool
	c := a.verb("rm", "remove sandboxes that have ended, and their logs", func(b *sandbox.Sandbox) error {
		ctx, cancel := interruptible()
		defer cancel()
		return b.Remove(ctx, force)
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "kill it first when it runs")
	return c
}

func (a *app) update() *cobra.Command {
	l := &policy.Limits{}
	c := a.verb("update", "change the limits of a running sandbox", func(b *sandbox.Sandbox) error {
		h, err := policy.ThisHost(false)
		if err != nil {
			return err
		}
		r, err := l.Changes(h)
		if err != nil {
			return err
		}
		return b.Update(r)
	})
	s := c.Flags()
	s.StringVarP(&l.Memory, "memory", "m", "", "memory, as in 512m")
	s.StringVar(&l.MemorySwap, "memory-swap", "", "memory and swap together; the same as memory by default")
	s.StringVar(&l.CPUs, "cpus", "", "processors, as in 1.5")
	s.StringVar(&l.CPUSet, "cpuset-cpus", "", "which processors, as in 0-2,4")
	s.StringVar(&l.Pids, "pids-limit", "", "processes and threads; -1 for no limit")
	s.StringVar(&l.BlkioWeight, "blkio-weight", "", "share of disk time, 10 to 1000")
	s.StringArrayVar(&l.DeviceReadBps, "device-read-bps", nil, "read rate, `/dev/NAME:1mb`")
	s.StringArrayVar(&l.DeviceWriteBps, "device-write-bps", nil, "write rate, `/dev/NAME:1mb`")
	s.StringArrayVar(&l.DeviceReadIOps, "device-read-iops", nil, "reads a second, `/dev/NAME:100`")
	s.StringArrayVar(&l.DeviceWriteIO, "device-write-iops", nil, "writes a second, `/dev/NAME:100`")
	return c
}
