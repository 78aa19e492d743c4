package registry

import (
	"context"
	"io"
	"net/http"
	"strings"

	"brig/internal/image"
)

// accept lists the documents that are understood. Without it some registries convert to version 1 of the schema.
var accept = strings.Join([]string{image.MediaIndex, image.MediaDockerIndex, image.MediaManifest, image.MediaDockerManifest}, ", ")

// document is a manifest or an index as it came.
type document struct {
	data []byte
	desc image.Descriptor
}

// manifest fetches a manifest or an index by a tag or a digest. The digest is that of what came; one that was asked for has
// to be it.
func (s *session) manifest(ctx context.Context, reference string) (*document, error) {
	var doc *document
	what := named(reference)
	err := s.try(ctx, what, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, s.e.c.t.exchange)
		defer cancel()
		resp, err := s.send(ctx, http.MethodGet, "manifests/"+reference, http.Header{"Accept": {accept}})
		if err != nil {
			return false, err
		}
		defer resp.Body.Close() //nolint:errcheck // read only
		if err := s.e.checkStatus(resp, http.StatusOK); err != nil {
			return false, err
		}
		doc, err = readDocument(resp, reference)
		return false, err
	})
	return doc, err
}

// named is a reference in the words of an error.
func named(reference string) string {
	if _, err := image.ParseDigest(reference); err == nil {
		return "manifest " + reference
	}
	return "tag " + reference
}

func readDocument(resp *http.Response, reference string) (*document, error) {
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, lie("the manifest came with the Content-Encoding %q, which was not asked for", e)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(data) > image.MaxManifest {
		return nil, lie("the manifest is larger than %d MiB", image.MaxManifest>>20)
	}
	declared, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	kind, err := image.MediaTypeOf(data, strings.TrimSpace(declared))
	if err != nil {
		return nil, lie("%s: %v", named(reference), err)
	}
	d := image.DigestOf(data)
	if want, err := image.ParseDigest(reference); err == nil && d != want {
		return nil, lie("what came as %s has the digest %s; it is not used", want, d)
	}
	if told, err := image.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil && d != told {
		return nil, lie("the manifest is announced as %s, and has the digest %s; it is not used", told, d)
	}
	return &document{data, image.Descriptor{MediaType: kind, Digest: d, Size: int64(len(data))}}, nil
}

// head asks for the digest that a tag has; "" when the registry does not say.
func (s *session) head(ctx context.Context, tag string) (image.Digest, error) {
	var d image.Digest
	err := s.try(ctx, named(tag), func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, s.e.c.t.exchange)
		defer cancel()
		resp, err := s.send(ctx, http.MethodHead, "manifests/"+tag, http.Header{"Accept": {accept}})
		if err != nil {
			return false, err
		}
		defer resp.Body.Close() //nolint:errcheck // read only
		if resp.StatusCode == http.StatusMethodNotAllowed {
			return false, nil
		}
		if err := s.e.checkStatus(resp, http.StatusOK); err != nil {
			return false, err
		}
		d, _ = image.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
		return false, nil
	})
	return d, err
}
