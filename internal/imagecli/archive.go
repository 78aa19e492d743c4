package imagecli

import (
	"cmp"
	"errors"
	"fmt"

	"brig/internal/cli/output"
	"brig/internal/image"
	"brig/internal/image/archive"
	"brig/internal/image/build"
	"brig/internal/layers"
	"brig/internal/operator"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// loaded is what load and import print of an image.
type loaded struct {
	Name     string       `json:"name"`
	Platform string       `json:"platform"`
	Digest   image.Digest `json:"digest"`
	Target   image.Digest `json:"target"`
}

func (a *app) load() *cobra.Command {
	var f output.Format
	var o archive.Options
	var input string
	var verify []string
	c := &cobra.Command{
		Use: "load [flags]", Short: "bring in images from an archive or an image layout",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("load reads standard input, or the file that -i names: `brig image load -i %s`", args[0])
			}
			return nil
		},
		Long: "Bring in the images of an OCI image layout or of an archive that docker or podman saved: a folder or a tar, which may\n" +
			"be compressed with gzip or zstd. Every blob is verified. Names are those of the archive; what has none is kept under\n" +
			"its digest.",
		Example: "  brig image load -i images.tar\n  zcat images.tar.gz | brig image load --name team/app:1",
		RunE: func(c *cobra.Command, _ []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			in, err := a.input(input)
			if err != nil {
				return err
			}
			s, err := a.store()
			if err != nil {
				return err
			}
			lines := a.bars()
			var told notices
			o.Accept = a.accept(s, verify)
			if o.Build, err = a.building(lines); err != nil {
				return err
			}
			o.Progress, o.Notice = lines.one("load").both, told.add
			list, err := archive.Load(c.Context(), s, in, o)
			lines.end(err)
			a.tell(told)
			if err != nil {
				return fmt.Errorf("load %s: %w", cmp.Or(input, "standard input"), err)
			}
			return a.printLoaded(list, asJSON)
		},
	}
	c.Flags().StringVarP(&input, "input", "i", "", "`FILE` or folder to read instead of standard input")
	c.Flags().StringVar(&o.Name, "name", "", "`NAME` of the image, whatever the archive calls it")
	c.Flags().StringVar(&o.Platform, "platform", "", "`OS/ARCH[/VARIANT]` (default: this machine's)")
	c.Flags().BoolVar(&o.AllPlatforms, "all-platforms", false, "take what the archive has for other platforms, too")
	c.Flags().StringArrayVar(&verify, "verify", nil, "`FILE` of a public key; the images must be signed by one of them")
	f.Register(c.Flags())
	return c
}

func (a *app) save() *cobra.Command {
	var o archive.SaveOptions
	var to, format string
	c := &cobra.Command{
		Use: "save [flags] IMAGE...", Short: "write images into an archive, for a machine without network", Args: output.Args(cobra.MinimumNArgs(1)), ValidArgsFunction: a.names,
		Long: "Write images into one tar that is an OCI image layout and an archive of docker's at once: brig, docker, podman and\n" +
			"skopeo read it. With a slash at the end of the output's name, an image layout is written there as a folder.\n" +
			"The same images give the same bytes. Signatures go with them, and of an image for several platforms those that are here.",
		Example: "  brig image save -o images.tar alpine:3.22 busybox\n  brig image save busybox | ssh edge brig image load",
		RunE: func(c *cobra.Command, args []string) error {
			switch format {
			case "oci":
			case "docker":
				o.Docker = true
			default:
				return fmt.Errorf("--format %q: there are oci and docker", format)
			}
			out := archive.Output{Path: to}
			if to == "" || to == "-" {
				if term.IsTerminal(int(a.out.Fd())) { //nolint:gosec // a file descriptor
					return errors.New("an archive is not written to a terminal; use -o FILE, or redirect the output")
				}
				out = archive.Output{File: a.out}
			}
			s, err := a.store()
			if err != nil {
				return err
			}
			lines := a.bars()
			o.Limits, o.Progress = layers.DefaultLimits(), lines.one("save").both
			err = archive.Save(c.Context(), s, args, out, o)
			lines.end(err)
			return err
		},
	}
	c.Flags().StringVarP(&to, "output", "o", "", "`FILE` to write instead of standard output, or a folder with a slash at its end")
	c.Flags().StringVar(&format, "format", "oci", "oci, or docker for what reads nothing newer: layers are not compressed then")
	c.Flags().StringVar(&o.Platform, "platform", "", "`OS/ARCH[/VARIANT]` alone (default: all that are here)")
	return c
}

func (a *app) importRoot() *cobra.Command {
	var f output.Format
	var o archive.ImportOptions
	c := &cobra.Command{
		Use: "import [flags] FOLDER|FILE|- NAME", Short: "make an image of a root file system", Args: output.Args(cobra.ExactArgs(2)),
		Long: "Make an image of a root file system: a folder, or a tar (compressed or not), from standard input with -. Owners, times,\n" +
			"hard links and extended attributes are kept. Links in a folder are not followed, other file systems mounted in it and sockets are\n" +
			"left out. The same files give the same image.",
		Example: "  brig image import -c 'CMD /bin/sh' ./rootfs local/debian:12\n  brig image import rootfs.tar.zst local/tools:1",
		RunE: func(c *cobra.Command, args []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			in, err := a.input(args[0])
			if err != nil {
				return err
			}
			s, err := a.store()
			if err != nil {
				return err
			}
			lines := a.bars()
			var told notices
			o.Accept = a.accept(s, nil)
			if o.Build, err = a.building(lines); err != nil {
				return err
			}
			o.Progress, o.Notice = lines.one("import").both, told.add
			l, err := archive.Import(c.Context(), s, in, args[1], o)
			lines.end(err)
			a.tell(told)
			if err != nil {
				return fmt.Errorf("import %s: %w", cmp.Or(in.Path, "standard input"), err)
			}
			return a.printLoaded([]archive.Loaded{*l}, asJSON)
		},
	}
	c.Flags().StringArrayVarP(&o.Changes, "change", "c", nil, "an `INSTRUCTION` of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR (repeatable)")
	c.Flags().StringVarP(&o.Message, "message", "m", "", "comment in the image's history")
	c.Flags().StringVar(&o.Platform, "platform", "", "`OS/ARCH[/VARIANT]` of its programs (default: this machine's)")
	f.Register(c.Flags())
	return c
}

// input is a path, or standard input for "" and "-".
func (a *app) input(path string) (archive.Input, error) {
	if path != "" && path != "-" {
		return archive.Input{Path: path}, nil
	}
	if term.IsTerminal(int(a.in.Fd())) { //nolint:gosec // a file descriptor
		return archive.Input{}, errors.New("an archive is not read from a terminal; name a file, or redirect standard input")
	}
	return archive.Input{File: a.in}, nil
}

// building has the making of root file systems shown.
func (a *app) building(lines *bars) (build.Options, error) {
	policy, err := operator.Load()
	if err != nil {
		return build.Options{}, err
	}
	b := lines.one("unpack")
	return building(policy, func(_ image.Digest, n int64) {
		b.want(n)
		b.add(n)
	}), nil
}

// building is how root file systems are made on this machine.
func building(policy *operator.Policy, layer func(image.Digest, int64)) build.Options {
	o := build.Options{Limits: layers.DefaultLimits(), Layer: layer}
	if policy != nil && policy.ImageDevices == "refuse" {
		o.Devices = layers.RefuseDevices
	}
	return o
}

// both is a Progress of what may have a total.
func (b *bar) both(want, done int64) {
	if want > 0 {
		b.want(want)
	}
	if done > 0 {
		b.add(done)
	}
}

// notices are told on standard error when the bars are gone.
type notices []string

func (n *notices) add(text string) { *n = append(*n, text) }

func (a *app) tell(n notices) {
	const most = 20
	for i, text := range n {
		if i == most {
			fmt.Fprintf(a.err, "brig: and %d more\n", len(n)-most)
			break
		}
		fmt.Fprintf(a.err, "brig: %s\n", output.Printable(text))
	}
}

func (a *app) printLoaded(list []archive.Loaded, asJSON bool) error {
	out := []loaded{}
	for _, l := range list {
		out = append(out, loaded{l.Ref.String(), l.Platform.String(), l.Manifest, l.Target.Digest})
	}
	if asJSON {
		return output.JSON(a.out, out)
	}
	for _, l := range out {
		if _, err := fmt.Fprintln(a.out, l.Name); err != nil {
			return err
		}
	}
	return nil
}
