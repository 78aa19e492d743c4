package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"brig/internal/image"
)

// Attached is an artifact that refers to an image: a signature, an attestation.
type Attached struct {
	// Descriptor is of the artifact's manifest.
	Descriptor image.Descriptor
	Manifest   *image.Manifest
	// Tag is the ending of cosign's tag by which it was found, "sig" or "att"; "" for a referrer, "index" for what an index lists.
	Tag string
	// Skipped says why its blobs are not in the store: they are too large. It is "" when they are.
	Skipped string
}

// Limits on what is attached to one image. A signature has some hundred bytes; a bill of materials some megabytes.
const (
	maxAttached      = 64
	maxAttachedBlob  = 16 << 20
	maxAttachedBytes = 64 << 20
	maxPages         = 8
	maxComplaints    = 6
)

// Attached brings what is attached to a manifest or an index into the store: the referrers that the registry lists (distribution-spec,
// "Listing Referrers", and its fallback tag), and what lies under cosign's tags. Whether any of it says the truth is not
// decided here. With an error there is what could be fetched all the same.
func (c *Client) Attached(ctx context.Context, s *image.Store, ref image.Ref, subject image.Digest) ([]Attached, error) {
	a := &attaching{c: c, s: s, ref: ref, subject: subject}
	if err := a.run(ctx); err != nil {
		return a.list, fmt.Errorf("fetch what is attached to %s@%s: %w", ref, subject.Short(), err)
	}
	return a.list, nil
}

// Artifacts brings artifacts and their blobs into the store that are known by their digests already: those that an index itself lists.
// What is too large is left out.
func (c *Client) Artifacts(ctx context.Context, s *image.Store, ref image.Ref, list []image.Descriptor) error {
	a := &attaching{c: c, s: s, ref: ref}
	for _, d := range list[:min(len(list), maxAttached)] {
		if err := a.add(ctx, d, "index"); err != nil {
			return fmt.Errorf("fetch what the index of %s has beside the image: %w", ref, err)
		}
	}
	return nil
}

type attaching struct {
	c       *Client
	s       *image.Store
	ref     image.Ref
	subject image.Digest
	list    []Attached
	bytes   int64
}

// run fetches what it can: one artifact that is no good, or too many of them, do not hide a signature.
func (a *attaching) run(ctx context.Context) error {
	var errs []error
	for _, end := range []string{"sig", "att"} {
		d, err := a.tagged(ctx, "sha256-"+a.subject.Hex()+"."+end)
		if err == nil && d.IsManifest() {
			err = a.add(ctx, d, end)
		}
		errs = append(errs, err)
	}
	referrers, err := a.referrers(ctx)
	errs = append(errs, err)
	for i, d := range referrers {
		if i == maxAttached {
			errs = append(errs, fmt.Errorf("more than %d artifacts are attached; the rest is left out", maxAttached))
			break
		}
		if !d.IsManifest() || d.Digest == "" || d.Size > image.MaxManifest || len(d.URLs) > 0 {
			continue
		}
		if err := a.add(ctx, d, ""); err != nil && len(errs) < maxComplaints {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// add brings in one artifact. What does not refer to the subject is left out: the list said otherwise, and it is only a list.
func (a *attaching) add(ctx context.Context, d image.Descriptor, tag string) error {
	if err := a.c.document(ctx, a.s, a.ref, d); err != nil {
		return err
	}
	m, err := a.s.Manifest(d.Digest)
	if err != nil {
		return err
	}
	if tag == "" && (m.Subject == nil || m.Subject.Digest != a.subject) {
		return nil
	}
	if err := m.CheckLayers(); err != nil {
		return fmt.Errorf("artifact %s: %w", d.Digest, err)
	}
	one := Attached{Descriptor: d, Manifest: m, Tag: tag}
	var blobs []image.Descriptor
	var sum int64
	for _, b := range append([]image.Descriptor{m.Config}, m.Layers...) {
		sum += min(b.Size, maxAttachedBytes)
		if b.Size > maxAttachedBlob || a.bytes+sum > maxAttachedBytes {
			one.Skipped = fmt.Sprintf("blob %s has %d bytes, which is more than is fetched of what is attached to an image", b.Digest, b.Size)
		}
		if !slices.ContainsFunc(blobs, func(x image.Descriptor) bool { return x.Digest == b.Digest }) {
			blobs = append(blobs, b)
		}
	}
	if one.Skipped == "" {
		a.bytes += sum
		err = together(ctx, blobs, func(ctx context.Context, b image.Descriptor) error {
			return cancellable(ctx, func() error { return a.c.blob(ctx, a.s, a.ref, b) })
		})
		if err != nil {
			return err
		}
	}
	a.list = append(a.list, one)
	return nil
}

// tagged finds what a tag points to; the zero descriptor when there is none.
func (a *attaching) tagged(ctx context.Context, tag string) (image.Descriptor, error) {
	var doc *document
	err := a.c.each(ctx, a.ref, func(e *endpoint) (err error) {
		doc, err = e.session(a.ref.Repository()).manifest(ctx, tag)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return image.Descriptor{}, nil
	}
	if err != nil {
		return image.Descriptor{}, err
	}
	_, err = a.s.Put(doc.data)
	return doc.desc, err
}

// referrers lists what the registry says refers to the subject. A mirror that knows of none does not answer for the registry.
func (a *attaching) referrers(ctx context.Context) ([]image.Descriptor, error) {
	var list []image.Descriptor
	err := a.c.each(ctx, a.ref, func(e *endpoint) error {
		found, err := e.session(a.ref.Repository()).referrers(ctx, a.subject)
		if err == nil && len(found) == 0 && e.mirror {
			return &Error{Host: e.host, Reason: "it knows of nothing that is attached to " + a.subject.Short(), status: http.StatusNotFound}
		}
		list = found
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return list, err
}

// referrers asks one registry, page after page; where it has no such list, its fallback tag.
func (s *session) referrers(ctx context.Context, subject image.Digest) ([]image.Descriptor, error) {
	var list []image.Descriptor
	path := "referrers/" + string(subject)
	query := ""
	for page := 0; ; page++ {
		x, next, err := s.referrersPage(ctx, path, query)
		if err != nil {
			return nil, err
		}
		if x == nil {
			return s.referrersTag(ctx, subject)
		}
		list = append(list, x.Manifests...)
		if next == "" {
			return list, nil
		}
		if page == maxPages || len(list) > maxAttached {
			return list, nil // which is more than are fetched
		}
		query = next
	}
}

// referrersPage gives one page, and the query of the next one. No index is a registry without that part of the specification.
func (s *session) referrersPage(ctx context.Context, path, query string) (x *image.Index, next string, err error) {
	what := "list of referrers"
	err = s.try(ctx, what, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, s.e.c.t.exchange)
		defer cancel()
		resp, err := s.send(ctx, http.MethodGet, path+query, http.Header{"Accept": {image.MediaIndex}})
		if err != nil {
			return false, err
		}
		defer resp.Body.Close() //nolint:errcheck // read only
		kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		if n := resp.StatusCode; n == http.StatusOK && kind != image.MediaIndex || n == http.StatusNotFound || n == http.StatusBadRequest ||
			n == http.StatusMethodNotAllowed || n == http.StatusNotAcceptable || n == http.StatusNotImplemented {
			return false, nil
		}
		if err := s.e.checkStatus(resp, http.StatusOK); err != nil {
			return false, err
		}
		data, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxManifest+1))
		if err != nil {
			return false, err
		}
		if x, err = image.ParseIndex(data); err != nil {
			return false, lie("the list of referrers: %v", err)
		}
		next = nextPage(resp.Header.Get("Link"))
		return false, nil
	})
	return x, next, err
}

// nextPage is the query of <URL>; rel="next". Only the query counts: the page is of the same list on the same registry.
func nextPage(link string) string {
	target, rest, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
	if !ok || !strings.Contains(rest, "next") {
		return ""
	}
	u, err := url.Parse(target)
	if err != nil || u.RawQuery == "" {
		return ""
	}
	return "?" + u.RawQuery
}

// referrersTag reads the list under the fallback tag (distribution-spec, "Referrers Tag Schema").
func (s *session) referrersTag(ctx context.Context, subject image.Digest) ([]image.Descriptor, error) {
	doc, err := s.manifest(ctx, "sha256-"+subject.Hex())
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	x, err := image.ParseIndex(doc.data)
	if err != nil {
		return nil, s.explain("list of referrers", lie("the list of referrers: %v", err))
	}
	return x.Manifests, nil
}
