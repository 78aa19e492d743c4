package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"brig/internal/image"
	"brig/internal/operator"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// ErrNotFound is a name that a registry does not have.
var ErrNotFound = errors.New("the registry does not have it")

// Error is what a registry did not do, in words for a person. It holds no credential and no signed URL, and nothing of what the
// registry wrote that a terminal would obey.
type Error struct {
	Host   string
	Reason string
	status int
	err    error
}

func (e *Error) Error() string { return e.Host + ": " + e.Reason }

// Is tells ErrNotFound.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.status == http.StatusNotFound || errors.Is(e.err, target)
}

// localError is a failure of this side: no other endpoint would help.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// statusError is an answer that is not the one that was asked for.
type statusError struct {
	status int
	codes  []string // of the errors in its body (distribution-spec, "Error Codes")
	text   string   // what the registry says
	after  time.Duration
	from   string // who answered, where that is not the registry
}

func (e *statusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", e.status, http.StatusText(e.status), e.text))
}

// tokenError is a token server that gave none.
type tokenError struct {
	host string
	err  error
}

func (e *tokenError) Error() string { return "the token server " + e.host + ": " + e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

// brokenError is an answer that ended too early, or came too slowly.
type brokenError struct{ reason string }

func (e *brokenError) Error() string { return e.reason }

// lieError is an answer that contradicts itself or what was asked for.
type lieError struct{ reason string }

func (e *lieError) Error() string { return e.reason }

func lie(format string, args ...any) error { return &lieError{fmt.Sprintf(format, args...)} }

// checkStatus turns a wrong status into an error. It reads the body as far as it is of use.
func (e *endpoint) checkStatus(resp *http.Response, good ...int) error {
	if slices.Contains(good, resp.StatusCode) {
		return nil
	}
	err := &statusError{status: resp.StatusCode, after: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	if host := resp.Request.URL.Host; host != e.host {
		err.from = host
	}
	if resp.Request.Method != http.MethodHead {
		err.codes, err.text = diagnosis(resp)
	}
	return err
}

// diagnosis reads the errors that a registry sends with a status.
func diagnosis(resp *http.Response) (codes []string, text string) {
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, 32<<10), resp.Body}
	var known *transport.Error
	if !errors.As(transport.CheckError(resp), &known) {
		return nil, ""
	}
	var words []string
	for i, d := range known.Errors {
		codes = append(codes, string(d.Code))
		if i < 3 && d.Message != "" {
			words = append(words, d.Message)
		}
	}
	return codes, strings.Join(words, "; ")
}

// retryAfter reads the header: seconds or a date (RFC 9110, 10.2.3); 0 when there is none.
func retryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if d, err := time.ParseDuration(value + "s"); err == nil {
		return max(d, 0)
	}
	if t, err := http.ParseTime(value); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}

// status is that of an error, or 0. It is not that of a token server.
func status(err error) int {
	var own *statusError
	if errors.As(err, &own) {
		return own.status
	}
	var theirs *transport.Error
	if errors.As(err, &theirs) {
		return theirs.StatusCode
	}
	return 0
}

// remote tells whether another endpoint may do what this one did not.
func remote(err error) bool {
	var e *Error
	var digest *image.DigestError
	return errors.As(err, &e) || errors.As(err, &digest)
}

// answered tells whether there was an answer, though a wrong one.
func answered(err error) bool {
	var e *Error
	var digest *image.DigestError
	return errors.As(err, &e) && e.status != 0 || errors.As(err, &digest)
}

// explain makes an Error of what happened when something was asked for.
func (s *session) explain(what string, err error) error {
	var local *localError
	var done *Error
	if errors.As(err, &local) {
		return local // without the requests that it came in the way of
	}
	if errors.As(err, &done) || errors.Is(err, context.Canceled) {
		return err
	}
	e := &Error{Host: s.e.host, status: status(err), err: classOf(err)}
	e.Reason = s.e.clean(s.reason(what, err))
	return e
}

// classOf keeps of an error what callers ask for, and no text.
func classOf(err error) error {
	for _, class := range []error{errPlain, context.DeadlineExceeded} {
		if errors.Is(err, class) {
			return class
		}
	}
	return nil
}

func (s *session) reason(what string, err error) string {
	var token *tokenError
	theirs := errors.As(err, &token) && token.host != s.e.host
	// First, since go-containerregistry asks over plain HTTP after that, where it may, and gets another error.
	if text := certificateReason(err); text != "" && !theirs {
		return text
	}
	if n := status(err); n != 0 {
		return s.statusReason(n, what, err)
	}
	if theirs {
		return "its token server " + token.host + ": " + s.failure("a token", token.err)
	}
	return s.failure(what, err)
}

func (s *session) failure(what string, err error) string {
	if text := certificateReason(err); text != "" {
		return text
	}
	var record tls.RecordHeaderError
	var dns *net.DNSError
	var plain *plainError
	var redirect *redirectError
	var broken *brokenError
	var lied *lieError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no host of the name " + dns.Name + " is found; see to the name and to this machine's network (`brig image load` needs none)"
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "it speaks no TLS, and " + errPlain.Error()
	case errors.As(err, &plain) && !s.e.plain && plain.host == s.e.host:
		return "it was not reached over HTTPS, and " + errPlain.Error()
	case errors.As(err, &plain):
		return plain.Error()
	case errors.As(err, &redirect):
		return redirect.Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused: nothing listens there"
	case errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
		return "it does not answer the request for " + what + " in time"
	case errors.As(err, &lied):
		return lied.reason
	case errors.As(err, &broken):
		return what + ": " + broken.reason
	case strings.Contains(err.Error(), "no token in bearer response"): // the text goes on with what came
		return "what it gave as a token has none"
	}
	return what + ": " + bare(err)
}

func (s *session) statusReason(n int, what string, err error) string {
	var own *statusError
	said := ""
	if errors.As(err, &own) {
		if own.text != "" {
			said = fmt.Sprintf(" (it says: %s)", own.text)
		}
		if own.from != "" {
			return fmt.Sprintf("its storage %s answers the request for %s with %d %s%s", own.from, what, n, http.StatusText(n), said)
		}
	}
	switch {
	case n == http.StatusUnauthorized, n == http.StatusForbidden:
		return s.unauthorized(n, err) + said
	case n == http.StatusNotFound && own != nil && slices.Contains(own.codes, string(transport.NameUnknownErrorCode)):
		return "there is no repository " + s.repository
	case n == http.StatusNotFound:
		return fmt.Sprintf("the repository %s has no %s", s.repository, what)
	case n == http.StatusTooManyRequests && own != nil && own.after > s.e.c.t.longest:
		return fmt.Sprintf("it takes no more requests (rate limit); try again in %s%s", own.after.Round(time.Second), said)
	case n == http.StatusTooManyRequests:
		return "it takes no more requests (rate limit); try again later, or with credentials" + said
	}
	return fmt.Sprintf("it answers the request for %s with %d %s%s", what, n, http.StatusText(n), said)
}

// unauthorized says which credentials there were, and where they are looked for.
func (s *session) unauthorized(n int, err error) string {
	who := fmt.Sprintf("%d %s", n, http.StatusText(n))
	var token *tokenError
	if errors.As(err, &token) {
		who += " from its token server " + token.host
	}
	if s.found != "" {
		return fmt.Sprintf("no access to the repository %s, or there is none of that name: %s with the credentials of %s", s.repository, who, s.found)
	}
	return fmt.Sprintf("no access to the repository %s, or there is none of that name: %s, and there are no credentials for %s in %s (`podman login` and `docker login` write them)",
		s.repository, who, s.e.host, strings.Join(s.looked, ", "))
}

// tlsAlert is the operation in which crypto/tls reports the other side's alerts; their type is its own.
const tlsAlert = "remote error"

func certificateReason(err error) string {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var op *net.OpError
	switch {
	case errors.As(err, &unknown):
		return fmt.Sprintf("its certificate is signed by an authority that this machine does not know; name the file with it as \"ca\" in a [[registry]] section of %s", operator.File)
	case errors.As(err, &name):
		return "its certificate is for another name: " + name.Error()
	case errors.As(err, &invalid):
		return "its certificate is not valid: " + invalid.Error()
	case errors.As(err, &op) && op.Op == tlsAlert:
		return fmt.Sprintf("it ends the TLS handshake (%s); when it wants a client certificate, name \"cert\" and \"key\" in a [[registry]] section of %s", op.Err, operator.File)
	}
	return ""
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// bare is an error's text without the URL: that of storage has a key in its query.
func bare(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		return bare(u.Err)
	}
	return err.Error()
}

// clean takes out of a text what is secret, and what is no text.
func (e *endpoint) clean(text string) string {
	e.mu.Lock()
	secrets := slices.Clone(e.secrets)
	e.mu.Unlock()
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, "***")
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '�'
		}
		return r
	}, text)
	const longest = 900
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return text
}
