package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// transport is the one for a host: with the certificates that the operator's file has for it, which no other host sees or is
// trusted by.
func (c *Client) transport(host string) (*http.Transport, error) {
	s := c.section(host)
	key := canonical(host)
	if s.Host == "" {
		key = ""
	}
	c.mu.Lock()
	t := c.transports[key]
	c.mu.Unlock()
	if t != nil {
		return t, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		pem, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, &localError{fmt.Errorf("read the certificates for the registry %s: %w", host, err)}
		}
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			conf.RootCAs = x509.NewCertPool()
		}
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &localError{fmt.Errorf("read the certificates for the registry %s: there is none in %s", host, s.CA)}
		}
	}
	if s.Cert != "" {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		if err != nil {
			return nil, &localError{fmt.Errorf("read the client certificate for the registry %s: %w", host, err)}
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	if s.Insecure && s.CA == "" {
		conf.InsecureSkipVerify = true //nolint:gosec // the operator says so, and it is noticed when it is used
	}
	t = &http.Transport{
		Proxy:                  c.proxy,
		DialContext:            (&net.Dialer{Timeout: c.t.connect, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    c.t.connect,
		ResponseHeaderTimeout:  c.t.connect,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // a blob is what its digest says, not what a server makes of it on the way
		MaxIdleConnsPerHost:    parallel,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.transports[key]; have != nil {
		return have, nil
	}
	c.transports[key] = t
	return t, nil
}

// errPlain is a request that would go over the network for everybody to read and to change.
var errPlain = errors.New(`plain HTTP is for loopback addresses only, and for hosts that have "insecure = true" in a [[registry]] section`)

// guard is below everything that is sent for an endpoint.
type guard struct{ e *endpoint }

// RoundTrip implements http.RoundTripper.
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	c := g.e.c
	host := req.URL.Host
	switch req.URL.Scheme {
	case "https":
	case "http":
		// Behind a registry that is itself reached over plain HTTP, since the operator says so, the storage may be too.
		if !loopback(host) && !c.section(host).Insecure && !c.section(g.e.host).Insecure {
			return nil, &plainError{host}
		}
	default:
		return nil, fmt.Errorf("a URL of the scheme %q is not fetched", req.URL.Scheme)
	}
	t, err := c.transport(host)
	if err != nil {
		return nil, err
	}
	if req.URL.Scheme == "https" && t.TLSClientConfig.InsecureSkipVerify {
		c.notice("the certificate of " + host + ` is not checked: its [[registry]] section has "insecure = true" and no "ca"`)
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", "brig/"+c.version())
	req.Header.Del("Referer") // a URL of storage is itself a key to what is there
	return t.RoundTrip(req)
}

func (c *Client) version() string {
	if c.o.Version == "" {
		return "development"
	}
	return c.o.Version
}

// plainError is errPlain for one host.
type plainError struct{ host string }

func (e *plainError) Error() string { return e.host + ": " + errPlain.Error() }
func (e *plainError) Unwrap() error { return errPlain }

// redirects follows a registry to its storage. The credentials do not come along: see session.RoundTrip.
func redirects(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return &redirectError{fmt.Sprintf("it redirects more than %d times", maxRedirects)}
	}
	if from := via[len(via)-1].URL; from.Scheme == "https" && req.URL.Scheme != "https" {
		return &redirectError{fmt.Sprintf("it redirects from HTTPS to %s://%s", req.URL.Scheme, req.URL.Host)}
	}
	return nil
}

// redirectError is a redirect that is not followed.
type redirectError struct{ reason string }

func (e *redirectError) Error() string { return e.reason + "; that is not followed" }
