package imagecli

import (
	"context"
	"errors"
	"fmt"

	"brig/internal/cli/output"
	"brig/internal/image"
	"brig/internal/image/registry"
	"brig/internal/image/trust"
	"brig/internal/operator"
	"brig/internal/version"

	"github.com/spf13/cobra"
)

func (a *app) pull() *cobra.Command {
	var f output.Format
	var platform string
	var verify []string
	var quiet bool
	c := &cobra.Command{
		Use: "pull [flags] IMAGE...", Short: "fetch images from their registries", Args: output.Args(cobra.MinimumNArgs(1)), ValidArgsFunction: a.names,
		Long: "Fetch images from their registries. Every blob is checked against its digest, every layer against the digest of\n" +
			"what it unpacks to, and the image is made before its name points to it. What is here already is not fetched.",
		RunE: func(c *cobra.Command, args []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			p, err := image.ParsePlatform(platform)
			if err != nil {
				return fmt.Errorf("--platform: %w", err)
			}
			list := []*pulled{}
			var errs []error
			for _, word := range args {
				r, err := a.pullOne(c.Context(), word, p, verify)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				list = append(list, r)
				if !quiet && !asJSON {
					fmt.Fprintf(a.out, "%s %s\n", r.Name, r.Digest)
				}
			}
			if asJSON {
				errs = append(errs, output.JSON(a.out, list))
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().StringVar(&platform, "platform", "", "`OS/ARCH[/VARIANT]` (default: this machine's)")
	c.Flags().StringArrayVar(&verify, "verify", nil, "`FILE` of a public key; the image must be signed by one of them, whatever "+operator.File+" demands besides")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing but errors")
	f.Register(c.Flags())
	return c
}

// pulled is an image that has come.
type pulled struct {
	Name     string         `json:"name"`
	Digest   image.Digest   `json:"digest"` // of the manifest
	Target   image.Digest   `json:"target"`
	Platform image.Platform `json:"platform"`
	Fetched  int64          `json:"fetched"` // bytes
	Size     int64          `json:"size"`    // bytes of the EROFS image
}

func (a *app) pullOne(ctx context.Context, word string, platform image.Platform, keys []string) (_ *pulled, err error) {
	ref, err := image.ParseRef(word)
	if err != nil {
		return nil, err
	}
	config, err := operator.Load()
	if err != nil {
		return nil, err
	}
	demands, err := trust.Demands(config, ref, keys)
	if err != nil {
		return nil, err
	}
	s, err := a.store()
	if err != nil {
		return nil, err
	}
	session, err := s.Begin()
	if err != nil {
		return nil, err
	}
	defer session.End()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := a.bars()
	defer func() { lines.end(err) }()
	fetch := lines.one("fetch")
	admission := &admission{s: s, ref: ref, demands: demands}
	making := &making{s: s, lines: lines, policy: config, stop: cancel}
	o := registry.Options{
		Admit: admission.admit, Begin: making.begin, Here: making.arrive, Version: version.Version, Expect: fetch.want, Got: fetch.add, Notice: lines.notice(a.err),
	}
	if config != nil {
		o.Registries = config.Registries
	}
	client := registry.New(o)
	defer client.Close()
	admission.client = client
	p, err := client.Pull(ctx, s, ref, platform)
	if err == nil {
		fetch.end()
	}
	r, made := making.end(err)
	if err != nil {
		cancel()
	}
	missed := admission.end()
	if made != nil && !errors.Is(made, errNotFetched) {
		return nil, fmt.Errorf("image %s: %w", ref, made)
	}
	if admission.refused != nil {
		return nil, admission.refused // it has the image's name
	}
	if err != nil {
		return nil, err
	}
	if missed != nil && ctx.Err() == nil {
		o.Notice(missed.Error())
	}
	if err := s.Tag(ref, p.Target, p.Platform, p.Manifest); err != nil {
		return nil, err
	}
	return &pulled{Name: ref.String(), Digest: p.Manifest, Target: p.Target.Digest, Platform: p.Platform, Fetched: p.Fetched, Size: r.Size}, nil
}
