// Package cli is the command line of brig: it turns words into a policy or a verb on a sandbox, and results into words,
// tables, JSON and exit codes.
//
// Its place on the road: the front. It never builds a launch step; it fills a policy, which writes the spec.
package cli

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"brig/internal/cli/output"
	"brig/internal/sandbox"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// app is one invocation.
type app struct {
	in       *os.File
	out, err *os.File
	code     int      // the exit code when no error says otherwise
	accepted []string // layers that may be missing without a word
	restores bool     // the sandbox goes on from a checkpoint
	root     string   // --root: the state folder
}

// command is a verb and how its cobra command is made. Only the one that is called is built: most of the cost of a
// command line is in flags nobody uses.
type command struct {
	name  string
	build func(*app) *cobra.Command
}

// commands are listed in the order of the help. A function, so that nothing of it is built at package init.
func commands() []command {
	return []command{
		{"run", (*app).run}, {"exec", (*app).exec}, {"ps", (*app).ps}, {"logs", (*app).logs}, {"inspect", (*app).inspect},
		{"stats", (*app).stats}, {"update", (*app).update}, {"pause", (*app).pause}, {"resume", (*app).resume}, {"kill", (*app).kill},
		{"checkpoint", (*app).checkpoint}, {"restore", (*app).restore}, {"warm", (*app).warm},
		{"stop", (*app).stop}, {"wait", (*app).wait}, {"rm", (*app).rm}, {"explain", (*app).explain}, {"doctor", (*app).doctor},
		{"policy", (*app).policy}, {"selinux", (*app).selinux}, {"image", (*app).image}, {"version", (*app).version},
	}
}

// Run is the whole program: it gives the exit code. 125 is Brig's own failure, as with docker.
func Run(args []string, in, out, errw *os.File) int {
	if len(args) > 0 && args[0] == sandbox.MonitorCommand {
		return sandbox.Monitor()
	}
	if len(args) > 1 && strings.HasPrefix(args[0], "__complete") && args[1] == "image" {
		_ = (&app{}).becomeImage(append(args[:1:1], args[2:]...))
		return 1 // nothing to complete with
	}
	if len(args) > 1 && args[0] == "help" && args[1] == "image" {
		_ = (&app{}).becomeImage(append(args[:1:1], args[2:]...)) // where it fails, the command's own line is shown
	}
	debug.SetGCPercent(400) // a short life: fewer collections, a few MiB at most
	a := &app{in: in, out: out, err: errw}
	if err := dockersWord(args); err != nil {
		return a.fail(err)
	}
	root := a.command(args)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	if err := root.Execute(); err != nil {
		return a.fail(err)
	}
	return a.code
}

// command builds the root with the one verb that is called, or with all for help, completion and mistakes.
func (a *app) command(args []string) *cobra.Command {
	root := Root()
	root.PersistentFlags().StringVar(&a.root, "root", "", "folder of the sandboxes' state (default /run/brig, or $XDG_RUNTIME_DIR/brig)")
	list := commands()
	if len(args) > 0 {
		for _, c := range list {
			if c.name == args[0] {
				root.AddCommand(c.build(a))
				root.CompletionOptions.DisableDefaultCmd = true
				return root
			}
		}
	}
	for _, c := range list {
		root.AddCommand(c.build(a))
	}
	return root
}

// Root is the bare root command.
func Root() *cobra.Command {
	root := &cobra.Command{
		Use:   "brig COMMAND",
		Short: "run programs that must not be trusted, behind every layer the host can give",
		Long: "Brig runs a program, a container image, or a folder's root file system, behind every layer of defence the host can give:\n" +
			"namespaces, own user ids, no capabilities, a system-call filter, Landlock, a read-only root, limits.\n" +
			"A layer that the host cannot give is an error that names it, never a sandbox without it.",
		Example: "  brig run -- python3 untrusted.py            # a program of the host's, which sees nothing else of it\n" +
			"  brig run -it alpine:3.22 sh                # an image, fetched when it is not here\n" +
			"  brig run -it --rootfs ./rootfs sh\n" +
			"  brig run -v ./src:/src:ro -v ./out:/out --memory 512m --timeout 30s -- make -C /src\n" +
			"  brig explain -- python3 untrusted.py      # what would be done, one line a system call",
		SilenceUsage:               true,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; `%s --help` lists the flags", flagError(err), c.CommandPath())
	})
	return root
}

// flagError says of a flag's value what is wrong with it in a person's words: the library has those of strconv.
func flagError(err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && dockersFlags[unknown.GetSpecifiedName()] != "" {
		return fmt.Errorf("%w: %s", err, dockersFlags[unknown.GetSpecifiedName()])
	}
	var value *pflag.InvalidValueError
	var number *strconv.NumError
	if !errors.As(err, &value) || !errors.As(err, &number) {
		return err
	}
	what := "is no whole number"
	switch {
	case value.GetFlag().Value.Type() == "bool":
		what = "is neither true nor false"
	case errors.Is(number, strconv.ErrRange):
		what = "is too large a number"
	}
	return fmt.Errorf("--%s %q %s", value.GetFlag().Name, value.GetValue(), what)
}

// All is the root with every command, for documentation.
func All() *cobra.Command { return (&app{out: os.Stdout, err: os.Stderr}).command(nil) }

// oneLine folds what joined errors and cobra's suggestions spread over several lines.
var oneLine = strings.NewReplacer("\n\nDid you mean this?\n\t", "; did you mean ", "\n\t", " or ", "\n", "; ")

// fail prints one line and gives the exit code.
func (a *app) fail(err error) int {
	if text := oneLine.Replace(strings.TrimSpace(err.Error())); text != "" {
		fmt.Fprintf(a.err, "brig: %s\n", output.Printable(text))
	}
	var pull *imageError
	if errors.As(err, &pull) && pull.interrupted() {
		return pull.ended.ExitCode()
	}
	if errors.Is(err, sandbox.ErrInterrupted) {
		return 128 + int(unix.SIGINT)
	}
	var detach *sandbox.DetachError
	if errors.As(err, &detach) {
		return detach.Code
	}
	return sandbox.ExitCode(err)
}

func (a *app) store() (*sandbox.Store, error) { return sandbox.Open(a.root) }

// names completes the words of a command line with the sandboxes there are.
func (a *app) names(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	store, err := a.store()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	list, err := store.List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var words []string
	for _, st := range list {
		if st.Name != "" {
			words = append(words, st.Name)
		} else {
			words = append(words, st.ID)
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// choices completes a flag with its words.
func choices(c *cobra.Command, flag string, words ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// each calls do for every sandbox named, and joins what went wrong.
func (a *app) each(refs []string, do func(*sandbox.Sandbox) error) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	var errs []error
	for _, ref := range refs {
		b, err := store.Find(ref)
		if err == nil {
			err = do(b)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(a.out, ref)
	}
	return errors.Join(errs...)
}
