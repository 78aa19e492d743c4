// Package imagecli is the command line of brig-image, which people call as `brig image`: images are pulled, loaded, shown,
// verified, removed.
//
// Its place on the road: a front end. `brig run IMAGE` executes it for an image that is not here yet.
package imagecli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"brig/internal/cli/output"
	"brig/internal/image"
	"brig/internal/version"

	"github.com/spf13/cobra"
)

// app is one invocation.
type app struct {
	in       *os.File
	out, err *os.File
	code     int
	dir      string // --store
}

// Run is the whole program: it gives the exit code.
func Run(args []string, in, out, errw *os.File) int {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 1)
	var ended atomic.Int32 // by this signal
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		ended.Store(int32((<-signals).(syscall.Signal))) //nolint:forcetypeassert,gosec // one of the two
		signal.Stop(signals)                             // a second one ends it at once: it may be waiting for another command's lock, and may be killed anywhere
		stop()
	}()
	a := &app{in: in, out: out, err: errw}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	if err := root.ExecuteContext(ctx); err != nil {
		if s := ended.Load(); s != 0 {
			fmt.Fprintf(errw, "brig: ended by a signal (%s)\n", syscall.Signal(s))
			return 128 + int(s)
		}
		text := oneLine.Replace(strings.TrimSpace(err.Error()))
		if errors.Is(err, image.ErrNotHere) {
			text += "; `brig image ls` lists those that are"
		}
		fmt.Fprintf(errw, "brig: %s\n", output.Printable(text))
		return 125
	}
	return a.code
}

// oneLine folds what joined errors and cobra's suggestions spread over several lines.
var oneLine = strings.NewReplacer("\n\nDid you mean this?\n\t", "; did you mean ", "\n\t", " or ", "\n", "; ")

// All is the command with everything below it, for documentation.
func All() *cobra.Command { return (&app{out: os.Stdout, err: os.Stderr}).root() }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "image COMMAND",
		Short: "pull, verify, keep and show images",
		Long: "Images come from registries or archives, every blob verified, into a store where each has one read-only file\n" +
			"system, immutable from there to the mount in a sandbox.",
		Version:                    version.Version,
		SilenceUsage:               true,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		// Shown as people call it.
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "brig image"},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; `%s --help` lists the flags", err, c.CommandPath())
	})
	root.CompletionOptions.DisableDefaultCmd = true
	root.PersistentFlags().StringVar(&a.dir, "store", "", "`FOLDER` of the images (default /var/lib/brig/images, or $XDG_DATA_HOME/brig/images; $BRIG_STORE)")
	root.AddCommand(a.pull(), a.ls(), a.inspect(), a.history(), a.tag(), a.rm(), a.prune(), a.verify())
	root.AddCommand(a.load(), a.save(), a.importRoot())
	return root
}

func (a *app) store() (*image.Store, error) {
	return image.Open(cmp.Or(a.dir, os.Getenv("BRIG_STORE")))
}

// names completes with the images that are here.
func (a *app) names(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	s, err := a.store()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	list, _ := s.Entries()
	var words []string
	for _, e := range list {
		if ref, err := e.Ref(); err == nil {
			words = append(words, ref.String())
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
