package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"brig/internal/image"
)

// blob brings a blob into the store, from the first endpoint that has it. What an endpoint brought before it broke is kept: the next
// attempt, or the next endpoint, or the next command goes on behind it, since the digest is over the whole.
func (c *Client) blob(ctx context.Context, s *image.Store, ref image.Ref, d image.Descriptor) error {
	return c.each(ctx, ref, func(e *endpoint) error {
		x := e.session(ref.Repository())
		resumed := false
		err := s.Ingest(d.Digest, d.Size, func(p *image.Partial) error {
			resumed = p.Offset() > 0
			return x.fetch(ctx, p, d)
		})
		var wrong *image.DigestError
		if resumed && errors.As(err, &wrong) {
			// What was there already may have been the wrong part. The store has forgotten it.
			c.got(-d.Size)
			err = s.Ingest(d.Digest, d.Size, func(p *image.Partial) error { return x.fetch(ctx, p, d) })
		}
		if errors.As(err, &wrong) {
			c.got(-d.Size)
		}
		return err
	})
}

// fetch brings what is missing of a blob.
func (s *session) fetch(ctx context.Context, p *image.Partial, d image.Descriptor) error {
	s.e.c.got(p.Offset())
	whole := false // the registry cannot go on in the middle
	err := s.try(ctx, "blob "+string(d.Digest), func() (bool, error) {
		if p.Offset() == d.Size {
			return false, nil // it was complete when its command was killed
		}
		before := p.Offset()
		if whole {
			before = 0
		}
		err := s.part(ctx, p, d, &whole)
		return p.Offset()-before >= progress, err
	})
	if err != nil {
		s.e.c.got(-p.Offset())
	}
	return err
}

// part makes one request for the rest of a blob, and appends what comes.
func (s *session) part(ctx context.Context, p *image.Partial, d image.Descriptor, whole *bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *whole {
		if err := s.forget(p); err != nil {
			return err
		}
	}
	header := http.Header{"Accept-Encoding": {"identity"}}
	if p.Offset() > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", p.Offset(), d.Size-1)) // some refuse a range without an end
	}
	resp, err := s.send(ctx, http.MethodGet, "blobs/"+string(d.Digest), header)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	switch {
	case resp.StatusCode == http.StatusOK:
		if err := s.forget(p); err != nil {
			return err
		}
		if resp.ContentLength >= 0 && resp.ContentLength != d.Size {
			return lie("blob %s is announced with %d bytes, and the manifest has %d", d.Digest, resp.ContentLength, d.Size)
		}
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		*whole = true
		return &brokenError{"it has no such part of the blob"}
	case resp.StatusCode == http.StatusPartialContent && p.Offset() > 0:
		if !rightRange(resp.Header.Get("Content-Range"), p.Offset(), d.Size) {
			*whole = true
			return &brokenError{"it sent another part of the blob than the one it was asked for"}
		}
	case resp.StatusCode == http.StatusPartialContent:
		return lie("it sent a part of a blob that was asked for in whole")
	default:
		return s.e.checkStatus(resp)
	}
	return s.append(p, &paced{r: resp.Body, cancel: cancel, window: s.e.c.t.window}, d)
}

// rightRange tells whether a Content-Range is the one from offset to the end (RFC 9110, 14.4). A server may send less than that; what is
// missing is asked for again.
func rightRange(value string, offset, size int64) bool {
	var first, last int64
	var total string
	if n, err := fmt.Sscanf(value, "bytes %d-%d/%s", &first, &last, &total); err != nil || n != 3 {
		return false
	}
	return first == offset && last >= first && last < size && (total == "*" || total == fmt.Sprint(size))
}

// forget begins a blob anew.
func (s *session) forget(p *image.Partial) error {
	s.e.c.got(-p.Offset())
	if p.Offset() == 0 {
		return nil
	}
	if err := p.Reset(); err != nil {
		return &localError{err}
	}
	return nil
}

// append copies a body behind what is there, and never more than the blob has.
func (s *session) append(p *image.Partial, r io.Reader, d image.Descriptor) error {
	buf := make([]byte, 128<<10)
	for {
		n, err := r.Read(buf)
		if more := p.Offset() + int64(n) - d.Size; more > 0 {
			return lie("more than the %d bytes came that the manifest has for blob %s", d.Size, d.Digest)
		}
		if n > 0 {
			if _, err := p.Write(buf[:n]); err != nil {
				return &localError{err}
			}
			s.e.c.got(int64(n))
		}
		switch {
		case errors.Is(err, io.EOF) && p.Offset() < d.Size, errors.Is(err, io.ErrUnexpectedEOF):
			return &brokenError{fmt.Sprintf("it ended after %d of %d bytes", p.Offset(), d.Size)}
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
