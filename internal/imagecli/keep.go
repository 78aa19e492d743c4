package imagecli

import (
	"errors"
	"fmt"

	"brig/internal/cli/output"
	"brig/internal/image"
	"brig/internal/operator"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

func (a *app) tag() *cobra.Command {
	return &cobra.Command{
		Use: "tag IMAGE NAME", Short: "give an image another name", Args: output.Args(cobra.ExactArgs(2)), ValidArgsFunction: a.names,
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.store()
			if err != nil {
				return err
			}
			session, err := s.Begin()
			if err != nil {
				return err
			}
			defer session.End()
			e, err := s.Find(args[0])
			if err != nil {
				return err
			}
			ref, err := image.ParseRef(args[1])
			if err != nil {
				return err
			}
			if ref.Digest() != "" {
				return fmt.Errorf("%s: a digest is no name that can be given", args[1])
			}
			return s.Alias(e, ref)
		},
	}
}

func (a *app) rm() *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE...", Short: "remove names of images, and what nothing refers to then", Args: output.Args(cobra.MinimumNArgs(1)), ValidArgsFunction: a.names,
		Long: "Remove names of images, and the data that no other name leads to. An image that a sandbox uses loses its name,\n" +
			"and its data with the next rm or prune after the sandbox has ended.",
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.store()
			if err != nil {
				return err
			}
			var errs []error
			var refs []image.Ref
			for _, word := range args {
				e, err := s.Find(word)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				ref, err := e.Ref()
				errs = append(errs, err)
				refs = append(refs, ref)
			}
			if len(refs) > 0 {
				var p image.Pruned
				p, err = s.Remove(refs...)
				errs = append(errs, err)
				a.inUse(p)
			}
			if err == nil {
				for _, r := range refs {
					fmt.Fprintln(a.out, r)
				}
			}
			return errors.Join(errs...)
		},
	}
}

// inUse tells of images that stay.
func (a *app) inUse(p image.Pruned) {
	if p.InUse > 0 {
		fmt.Fprintf(a.err, "brig: notice: sandboxes still use %s without a name; `brig image prune` frees the place when they have ended\n", count(p.InUse, "image"))
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (a *app) prune() *cobra.Command {
	var f output.Format
	var all bool
	c := &cobra.Command{
		Use: "prune [flags]", Short: "remove what no name leads to and no sandbox uses", Args: output.Args(cobra.NoArgs),
		Long: "Remove layers and file systems that no name leads to, what broken pulls have left, and mounts that no sandbox\n" +
			"uses. What a sandbox uses stays, whatever its names.",
		RunE: func(c *cobra.Command, _ []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			s, err := a.store()
			if err != nil {
				return err
			}
			if s.Busy() {
				fmt.Fprintln(a.err, "brig: another command is bringing in images: waiting for it to end")
			}
			var p image.Pruned
			err = unlessStopped(c.Context(), func() (err error) { p, err = s.Prune(all); return err })
			if err != nil {
				return err
			}
			if asJSON {
				return output.JSON(a.out, map[string]any{"images": p.Roots, "blobs": p.Blobs, "bytes": p.Bytes, "inUse": p.InUse})
			}
			fmt.Fprintf(a.out, "removed %s and %s, %s\n", count(p.Roots, "image"), count(p.Blobs, "blob"), units.HumanSize(float64(p.Bytes)))
			a.inUse(p)
			return nil
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "remove the names that no sandbox uses, too")
	f.Register(c.Flags())
	return c
}

func (a *app) verify() *cobra.Command {
	var keys []string
	var platform string
	c := &cobra.Command{
		Use: "verify [flags] [IMAGE...]", Short: "hold images, or everything in the store, against digests and signatures", ValidArgsFunction: a.names,
		Long: "Compute the digest of everything in the store, and name what is damaged; with names, those of these images, and check that\n" +
			"they are signed as --key and " + operator.File + " demand, with the signatures that came with them.",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return a.verifyImages(args, keys, platform)
			}
			if len(keys) > 0 {
				return errors.New("--key is for images that are named")
			}
			s, err := a.store()
			if err != nil {
				return err
			}
			var files int
			var bytes int64
			lines := a.bars()
			bar := lines.one("verify")
			err = unlessStopped(c.Context(), func() error {
				return s.Check(func(_ string, size int64) {
					files++
					bytes += size
					bar.want(size)
					bar.add(size)
				})
			})
			lines.end(err)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "%d files, %s: all as they were verified\n", files, units.HumanSize(float64(bytes)))
			return nil
		},
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "`FILE` of a public key; the images must be signed by one of them")
	c.Flags().StringVar(&platform, "platform", "", "`OS/ARCH[/VARIANT]` (default: this machine's)")
	return c
}
