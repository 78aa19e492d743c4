package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"brig/internal/cli/output"
	"brig/internal/image"
	"brig/internal/image/trust"
	"brig/internal/sandbox"

	"github.com/spf13/cobra"
)

func (a *app) checkpoint() *cobra.Command {
	var leave bool
	c := &cobra.Command{
		Use: "checkpoint [flags] SANDBOX FOLDER", Short: "save a running gVisor sandbox into a new folder, and end it",
		Long: "Save the state of a sandbox that runs with --isolation gvisor into a new folder, and end the sandbox: `brig restore` goes on\n" +
			"from there, on this machine, by the same user, with the same brig-gvisor and image. The folder holds the program's memory,\n" +
			"with every secret in it: it is readable by you alone, and should stay so.",
		DisableFlagsInUseLine: true, Args: output.Args(cobra.ExactArgs(2)), ValidArgsFunction: a.names,
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := a.find(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := interruptible()
			defer cancel()
			defer context.AfterFunc(ctx, cancel)() // a second Ctrl-C waits for nothing
			if err := b.Checkpoint(ctx, args[1], leave, func(why error) { fmt.Fprintln(a.err, "brig:", why) }); err != nil {
				return err
			}
			fmt.Fprintln(a.out, args[1])
			return nil
		},
	}
	c.Flags().BoolVarP(&leave, "leave-running", "R", false, "let the sandbox go on")
	return c
}

func (a *app) restore() *cobra.Command {
	var detach, interactive, remove bool
	var name string
	c := &cobra.Command{
		Use: "restore [flags] FOLDER", Short: "go on with a sandbox from its checkpoint",
		Long: "Start a sandbox that goes on where `brig checkpoint` saved it, with the policy it had. It is another sandbox: id, host ids,\n" +
			"streams, time limit, output limit and network are new. A checkpoint that was changed, or was not made by you on this\n" +
			"machine, is refused. It may be gone on from more than once: the programs then have the same memory, and with it the\n" +
			"same random numbers that they have made so far; those of the kernel (getrandom, /dev/urandom) are new.",
		DisableFlagsInUseLine: true, Args: output.Args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			store, err := a.store()
			if err != nil {
				return err
			}
			saved, err := store.OpenCheckpoint(args[0])
			if err != nil {
				return err
			}
			defer saved.Close() //nolint:errcheck // read only
			a.restores = true
			req := saved.Request
			req.Checkpoint = saved
			done, err := a.imageOf(req)
			if err != nil {
				return err
			}
			defer done()
			req.Name, req.Remove = name, remove
			if detach {
				return a.detached(store, req)
			}
			return a.foreground(store, req, interactive)
		},
	}
	s := c.Flags()
	s.BoolVarP(&detach, "detach", "d", false, "run in the background and print the id")
	s.BoolVarP(&interactive, "interactive", "i", false, "pass standard input on")
	s.BoolVar(&remove, "rm", false, "remove a detached sandbox when it has ended")
	s.StringVar(&name, "name", "", "name of the sandbox")
	return c
}

// imageOf takes the image of a saved sandbox into use again, the very same. The function it gives ends the use.
func (a *app) imageOf(req *sandbox.Request) (done func(), err error) {
	if req.Image == nil {
		return func() {}, nil
	}
	store, err := image.Open(os.Getenv("BRIG_STORE"))
	if err != nil {
		return nil, err
	}
	img, err := store.Use(req.Image.Digest, image.ThisPlatform())
	if errors.Is(err, image.ErrNotHere) {
		return nil, fmt.Errorf("the checkpoint's image %s: %w; `brig image pull` fetches it", req.Image.Ref, err)
	}
	if err != nil {
		return nil, err
	}
	p := &prepared{image: img}
	req.ImageLock = img.Lock()
	root, err := img.Mount()
	if err == nil {
		req.Spec.Root.Path = root // which is another when the image was fetched again meanwhile: its bytes are the same
	}
	if err == nil {
		err = trust.Require(store, trust.Names(img), img.Target, img.Digest, nil)
	}
	if err == nil {
		p.file, err = img.File()
	}
	if err != nil {
		p.close()
		return nil, err
	}
	req.ImageFile = p.file
	return p.close, nil
}

// goOn has a run go on from a checkpoint, if its program is the one that was saved. The caller closes what it gives.
func goOn(store *sandbox.Store, req *sandbox.Request, dir string) (*sandbox.Checkpoint, error) {
	if len(req.PassFDs) > 0 {
		return nil, errors.New("--from-checkpoint: a program that goes on has the files it had, and no others (--pass-fd)")
	}
	saved, err := store.OpenCheckpoint(dir)
	if err != nil {
		return nil, err
	}
	if err := saved.Fits(req.Spec, req.Image); err != nil {
		return nil, errors.Join(err, saved.Close())
	}
	req.Checkpoint = saved
	return saved, nil
}
