package imagecli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"brig/internal/cli/output"
	"brig/internal/image"
	"brig/internal/image/trust"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

// row is one image for one platform, as ls shows it.
type row struct {
	Name     string       `json:"name"`
	Platform string       `json:"platform"`
	Digest   image.Digest `json:"digest"` // of the manifest
	Target   image.Digest `json:"target"` // what the name points to: the same, or an index
	Size     int64        `json:"size"`   // bytes of the EROFS image
	Layers   int          `json:"layers"`
	Since    time.Time    `json:"since"`
	Sealed   bool         `json:"sealed"` // fs-verity is on
}

func (a *app) ls() *cobra.Command {
	var f output.Format
	var quiet bool
	c := &cobra.Command{
		Use: "ls [flags] [IMAGE...]", Aliases: []string{"list"}, Short: "list the images that are here", ValidArgsFunction: a.names,
		RunE: func(_ *cobra.Command, args []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			rows, err := a.rows(args)
			if asJSON {
				return errors.Join(output.JSON(a.out, rows), err)
			}
			var cells [][]string
			for _, r := range rows {
				if quiet {
					fmt.Fprintln(a.out, r.Name)
					continue
				}
				cells = append(cells, []string{r.Name, output.Printable(r.Platform), r.Digest.Short(), units.HumanSize(float64(r.Size)), output.Ago(r.Since)})
			}
			if !quiet && (len(rows) > 0 || err == nil) {
				output.Table(a.out, []string{"IMAGE", "PLATFORM", "DIGEST", "SIZE", "PULLED"}, cells, 0)
			}
			return err
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "names only")
	f.Register(c.Flags())
	return c
}

// rows are the images named, or all. What cannot be read is in the error, beside the rest.
func (a *app) rows(words []string) ([]row, error) {
	s, err := a.store()
	if err != nil {
		return nil, err
	}
	var list []*image.Entry
	var errs []error
	if len(words) == 0 {
		list, err = s.Entries()
		errs = append(errs, err)
	}
	for _, w := range words {
		e, err := s.Find(w)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, e)
	}
	rows := []row{}
	for _, e := range list {
		for _, p := range slices.Sorted(maps.Keys(e.Platforms)) {
			d := e.Platforms[p]
			r := row{Name: nameOf(e), Platform: p, Digest: d, Target: e.Target.Digest, Since: e.Since}
			rec, err := s.Record(d)
			if err == nil {
				r.Size, r.Layers, r.Sealed = rec.Size, len(rec.Config.DiffIDs), rec.Sealed
			} else if !errors.Is(err, image.ErrNotHere) {
				errs = append(errs, err)
			}
			rows = append(rows, r)
		}
	}
	return rows, errors.Join(errs...)
}

// nameOf is what an image is called; of one whose name cannot be read, that as it stands.
func nameOf(e *image.Entry) string {
	ref, err := e.Ref()
	if err != nil {
		return e.Name
	}
	return ref.String()
}

// details is what inspect shows of an image.
type details struct {
	row
	Created  string             `json:"created,omitempty"`
	Config   *image.Config      `json:"config"`
	Manifest *image.Manifest    `json:"manifest"`
	Verity   string             `json:"verity"`
	Mounted  string             `json:"mounted,omitempty"`
	Attached []trust.Attachment `json:"attached,omitempty"`
}

func (a *app) inspect() *cobra.Command {
	var f output.Format
	var platform, attestation string
	var keyFiles []string
	c := &cobra.Command{
		Use: "inspect [flags] IMAGE", Short: "what an image is: digests, configuration, layers, what is attached to it", Args: output.Args(cobra.ExactArgs(1)), ValidArgsFunction: a.names,
		RunE: func(_ *cobra.Command, args []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			keys, err := trust.ReadKeys(keyFiles...)
			if err != nil {
				return fmt.Errorf("--key: %w", err)
			}
			s, err := a.store()
			if err != nil {
				return err
			}
			d, err := detailsOf(s, args[0], platform)
			if err != nil {
				return err
			}
			if d.Attached, err = trust.Attachments(s, d.Target, d.Digest, keys); err != nil {
				return err
			}
			if attestation != "" {
				return a.attestation(d.Attached, attestation, len(keys) > 0)
			}
			if asJSON {
				return output.JSON(a.out, d)
			}
			a.detailsTable(d)
			return nil
		},
	}
	c.Flags().StringVar(&platform, "platform", "", "`OS/ARCH[/VARIANT]` (default: this machine's)")
	c.Flags().StringArrayVar(&keyFiles, "key", nil, "`FILE` of a public key: says what is signed by it")
	c.Flags().StringVar(&attestation, "attestation", "", "print the attestation of this `TYPE` (spdx, cyclonedx, provenance: a part of it will do), with --key only if it is signed by it")
	f.Register(c.Flags())
	return c
}

// detailsOf looks up what the store knows of an image for a platform. What is attached to it is not among that.
func detailsOf(s *image.Store, word, platform string) (*details, error) {
	p, err := image.ParsePlatform(platform)
	if err != nil {
		return nil, fmt.Errorf("--platform: %w", err)
	}
	e, err := s.Find(word)
	if err != nil {
		return nil, err
	}
	md, err := e.Manifest(p)
	if err != nil {
		return nil, err
	}
	m, err := s.Manifest(md)
	if err != nil {
		return nil, err
	}
	r, err := s.Record(md)
	if err != nil {
		return nil, err
	}
	return &details{
		row: row{
			Name: nameOf(e), Platform: r.Config.Platform.String(), Digest: md, Target: e.Target.Digest, Size: r.Size, Layers: len(m.Layers), Since: e.Since, Sealed: r.Sealed,
		},
		Created: r.Config.Created, Config: &r.Config, Manifest: m, Verity: r.Verity,
	}, nil
}

func (a *app) detailsTable(d *details) {
	c := d.Config
	sealed := "not sealed: the digest is checked when the file changes"
	if d.Sealed {
		sealed = "sealed: the kernel checks every page"
	}
	rows := [][]string{
		{"image", d.Name}, {"platform", d.Platform}, {"digest", string(d.Digest)}, {"created", c.Created}, {"author", c.Author},
		{"file system", fmt.Sprintf("%s, EROFS, fs-verity %s, %s", units.HumanSize(float64(d.Size)), d.Verity, sealed)},
		{"user", c.User}, {"workdir", c.WorkingDir}, {"entrypoint", quoted(c.Entrypoint)}, {"cmd", quoted(c.Cmd)}, {"stop signal", c.StopSignal},
	}
	if d.Target != d.Digest {
		rows = append(rows, []string{"index", string(d.Target)})
	}
	for _, list := range []struct {
		name  string
		words []string
	}{{"env", c.Env}, {"volume", c.Volumes}, {"port", c.ExposedPorts}} {
		for _, w := range list.words {
			rows = append(rows, []string{list.name, w})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		rows = append(rows, []string{"label", k + "=" + c.Labels[k]})
	}
	for _, l := range d.Manifest.Layers {
		rows = append(rows, []string{"layer", fmt.Sprintf("%s  %s  %s", l.Digest, units.HumanSize(float64(l.Size)), l.MediaType)})
	}
	rows = append(rows, attachedRows(d.Attached)...)
	rows = slices.DeleteFunc(rows, func(r []string) bool { return r[1] == "" })
	for _, r := range rows {
		r[1] = output.Printable(r[1])
	}
	output.Table(a.out, nil, rows, 1)
}

func quoted(words []string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = fmt.Sprintf("%q", w)
	}
	return strings.Join(q, " ")
}

// step is a line of history.
type step struct {
	Created   string       `json:"created,omitempty"`
	CreatedBy string       `json:"createdBy,omitempty"`
	Comment   string       `json:"comment,omitempty"`
	Layer     image.Digest `json:"layer,omitempty"`
	Size      int64        `json:"size"` // bytes of the layer as the store has it
}

func (a *app) history() *cobra.Command {
	var f output.Format
	var platform string
	c := &cobra.Command{
		Use: "history [flags] IMAGE", Short: "the steps by which an image was made, the latest first", Args: output.Args(cobra.ExactArgs(1)), ValidArgsFunction: a.names,
		RunE: func(_ *cobra.Command, args []string) error {
			asJSON, err := f.JSON()
			if err != nil {
				return err
			}
			s, err := a.store()
			if err != nil {
				return err
			}
			d, err := detailsOf(s, args[0], platform)
			if err != nil {
				return err
			}
			steps := steps(d)
			if asJSON {
				return output.JSON(a.out, steps)
			}
			var rows [][]string
			for _, s := range steps {
				created := "-"
				if t, err := time.Parse(time.RFC3339Nano, s.Created); err == nil {
					created = output.Ago(t)
				}
				rows = append(rows, []string{s.Layer.Short(), created, units.HumanSize(float64(s.Size)), output.Printable(s.CreatedBy + s.Comment)})
			}
			output.Table(a.out, []string{"LAYER", "CREATED", "SIZE", "CREATED BY"}, rows, 3)
			return nil
		},
	}
	c.Flags().StringVar(&platform, "platform", "", "`OS/ARCH[/VARIANT]` (default: this machine's)")
	f.Register(c.Flags())
	return c
}

// steps brings history and layers together: a step without "empty_layer" made the next layer (image-spec, config.md).
func steps(d *details) []step {
	layers := d.Manifest.Layers
	list := []step{}
	for _, h := range d.Config.History {
		s := step{Created: h.Created, CreatedBy: h.CreatedBy, Comment: h.Comment}
		if !h.EmptyLayer && len(layers) > 0 {
			s.Layer, s.Size = layers[0].Digest, layers[0].Size
			layers = layers[1:]
		}
		list = append(list, s)
	}
	for _, l := range layers { // a history that is shorter than the layers, or none
		list = append(list, step{Layer: l.Digest, Size: l.Size})
	}
	slices.Reverse(list)
	return list
}
