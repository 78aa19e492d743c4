package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"syscall"
	"time"
)

// try does something until it succeeds, fails for good, or has failed too often in a row. do tells whether it came closer
// to its end; then the count begins anew. what is for the error.
func (s *session) try(ctx context.Context, what string, do func() (progressed bool, err error)) error {
	t := s.e.c.t
	wait := t.backoff
	for n := 1; ; n++ {
		progressed, err := do()
		if err == nil {
			s.e.mark(true)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if progressed {
			n, wait = 1, t.backoff
		}
		if n >= s.e.attempts() || !s.e.passes(err) {
			return s.explain(what, err)
		}
		pause := jitter(min(wait, t.longest))
		wait *= 2
		var st *statusError
		if errors.As(err, &st) && st.after > 0 {
			if st.after > t.longest {
				return s.explain(what, err)
			}
			pause = max(pause, st.after)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// jitter keeps many machines from asking again at the same moment: half of the time and a random part of the other half.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1) //nolint:gosec // no secret
}

// passes tells whether a failure may be another's moment: worth a second attempt.
func (e *endpoint) passes(err error) bool {
	switch status(err) {
	case 0:
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return false
	}
	var local *localError
	var lied *lieError
	var redirect *redirectError
	var verify *tls.CertificateVerificationError
	var op *net.OpError
	var record tls.RecordHeaderError
	var unknown x509.UnknownAuthorityError
	var dns *net.DNSError
	switch {
	case errors.As(err, &local), errors.As(err, &lied), errors.As(err, &redirect), errors.Is(err, errPlain), errors.Is(err, context.Canceled),
		errors.As(err, &verify), errors.As(err, &op) && op.Op == tlsAlert, errors.As(err, &record), errors.As(err, &unknown),
		errors.As(err, &dns) && dns.IsNotFound:
		return false
	case errors.Is(err, syscall.ECONNREFUSED):
		// Of a registry that has answered before it is a restart; otherwise it is a wrong name, and waiting is of no use.
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.answered
	}
	var broken *brokenError
	var network net.Error // url.Error is one, so every failed request
	return errors.As(err, &broken) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// paced reads a body and ends what comes too slowly. Only the time that is spent in reading counts, not that in which the
// bytes are put away.
type paced struct {
	r      io.Reader
	cancel context.CancelFunc // ends the request, and the Read with it
	window time.Duration
	spent  time.Duration
	came   int
}

func (p *paced) Read(b []byte) (int, error) {
	begun := time.Now()
	timer := time.AfterFunc(p.window, p.cancel)
	n, err := p.r.Read(b)
	expired := !timer.Stop()
	p.spent += time.Since(begun)
	p.came += n
	if p.spent >= p.window {
		expired = expired || p.came < windowBytes
		p.spent, p.came = 0, 0
	}
	if expired && !errors.Is(err, io.EOF) {
		return n, &brokenError{fmt.Sprintf("less than %d bytes came in %s", windowBytes, p.window)}
	}
	return n, err
}
