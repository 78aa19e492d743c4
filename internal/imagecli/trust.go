package imagecli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"brig/internal/cli/output"
	"brig/internal/image"
	"brig/internal/image/registry"
	"brig/internal/image/trust"
	"brig/internal/operator"

	"github.com/docker/go-units"
)

// admission is what is demanded of an image that is being pulled, and how it is proved.
type admission struct {
	client  *registry.Client
	s       *image.Store
	ref     image.Ref
	demands []trust.Demand
	refused error      // why the image may not come
	rest    chan error // how the fetching of what nobody demands ended; nil when there is none
}

// admit holds an image against the demands before its layers are fetched: by the signatures that are here, or else by those that the
// registry has now. What is attached to an image that was not here is fetched beside its layers.
func (d *admission) admit(ctx context.Context, target, manifest image.Digest) error {
	if len(d.demands) == 0 || trust.Check(d.s, target, manifest, d.demands) == nil {
		if _, err := d.s.Record(manifest); err != nil {
			d.rest = make(chan error, 1)
			go func() { d.rest <- d.fetch(ctx, target, manifest) }()
		}
		return nil
	}
	missed := d.fetch(ctx, target, manifest)
	err := trust.Check(d.s, target, manifest, d.demands)
	if err != nil && missed != nil {
		err = fmt.Errorf("%w; %w", err, missed)
	}
	d.refused = err
	return err
}

// end waits for what is attached. Nobody has demanded it, so it is no failure when it cannot be had.
func (d *admission) end() error {
	if d.rest == nil {
		return nil
	}
	return <-d.rest
}

// fetch brings what is attached to an image into the store: signatures, attestations.
func (d *admission) fetch(ctx context.Context, target, manifest image.Digest) error {
	subjects := []image.Digest{manifest}
	if target != manifest {
		subjects = append(subjects, target)
	}
	var errs []error
	for _, subject := range subjects {
		list, err := d.client.Attached(ctx, d.s, d.ref, subject)
		errs = append(errs, err)
		var found []image.Descriptor
		for _, a := range list {
			found = append(found, a.Descriptor)
		}
		errs = append(errs, d.s.Attach(subject, found))
	}
	if target != manifest {
		errs = append(errs, d.fetchEmbedded(ctx, target, manifest))
	}
	return errors.Join(errs...)
}

// fetchEmbedded brings in the attestations that are in the index itself.
func (d *admission) fetchEmbedded(ctx context.Context, target, manifest image.Digest) error {
	x, err := d.s.Index(target)
	if err != nil {
		return err
	}
	return d.client.Artifacts(ctx, d.s, d.ref, trust.Embedded(x, manifest))
}

// demandsOf is what is demanded of an image by the operator and by files of keys.
func demandsOf(ref image.Ref, keys []string) ([]trust.Demand, error) {
	policy, err := operator.Load()
	if err != nil {
		return nil, err
	}
	return trust.Demands(policy, ref, keys)
}

// accept gives what asks for the signatures of an image of an archive: the name that it is to have counts, for there is no other. An
// archive can call its images what it wants, so a name of a registry says nothing of where it came from; its signature does.
func (a *app) accept(s *image.Store, keys []string) func(image.Ref, image.Digest, image.Digest) error {
	return func(ref image.Ref, target, manifest image.Digest) error {
		demands, err := demandsOf(ref, keys)
		if err != nil {
			return err
		}
		return trust.Check(s, target, manifest, demands)
	}
}

// verifyImages holds images against their digests, and against what is demanded of them.
func (a *app) verifyImages(words, keyFiles []string, platform string) error {
	s, err := a.store()
	if err != nil {
		return err
	}
	p, err := image.ParsePlatform(platform)
	if err != nil {
		return fmt.Errorf("--platform: %w", err)
	}
	keys, err := trust.ReadKeys(keyFiles...)
	if err != nil {
		return fmt.Errorf("--key: %w", err)
	}
	var errs []error
	for _, w := range words {
		line, err := verifyImage(s, w, p, keyFiles, keys)
		if err == nil {
			fmt.Fprintln(a.out, line)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func verifyImage(s *image.Store, word string, p image.Platform, keyFiles []string, keys []trust.Key) (string, error) {
	i, err := s.Use(word, p)
	if err != nil {
		return "", err
	}
	defer i.Close() //nolint:errcheck // nothing is written
	if err := i.Verify(); err != nil {
		return "", err
	}
	if err := trust.Require(s, trust.Names(i), i.Target, i.Digest, keyFiles); err != nil {
		return "", err
	}
	ref, err := image.ParseRef(i.Name)
	if err != nil {
		return "", err
	}
	by, err := trust.SignedBy(s, ref, i.Target, i.Digest, keys)
	line := fmt.Sprintf("%s %s: as it was verified", ref, i.Digest)
	if len(by) > 0 {
		line += ", signed by " + strings.Join(by, " and ")
	}
	return line, err
}

// attachedRows are lines of inspect.
func attachedRows(list []trust.Attachment) [][]string {
	var rows [][]string
	for _, l := range list {
		label, words := "attestation", []string{l.Type, units.HumanSize(float64(l.Size)), l.Blob.Short()}
		if l.Signature {
			label, words = "signature", []string{l.Artifact.Short()}
		}
		switch {
		case len(l.SignedBy) > 0:
			words = append(words, "signed by "+strings.Join(l.SignedBy, " and "))
		case l.Signatures > 0 && !l.Signature:
			words = append(words, fmt.Sprintf("%d signatures, not checked by a key", l.Signatures))
		case l.Signature:
			words = append(words, "not checked by a key")
		}
		if l.Problem != "" {
			words = append(words, l.Problem)
		}
		rows = append(rows, []string{label, strings.Join(words, "  ")})
	}
	return rows
}

// attestation prints one attestation, as it was signed.
func (a *app) attestation(list []trust.Attachment, word string, signed bool) error {
	one, err := trust.Find(list, word, signed)
	if err != nil {
		return err
	}
	text := one.Content()
	if output.Width(a.out) > 0 { // a terminal takes some bytes for orders
		var lines []string
		for line := range strings.SplitSeq(string(text), "\n") {
			lines = append(lines, output.Printable(line))
		}
		text = []byte(strings.Join(lines, "\n"))
	}
	_, err = a.out.Write(text)
	return err
}
