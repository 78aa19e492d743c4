package registry

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// session is what is known of a repository on an endpoint: how it is spoken to, and what the credentials gave.
type session struct {
	e          *endpoint
	repository string

	mu        sync.Mutex
	challenge *transport.Challenge // nil: nobody has asked yet
	header    string               // the value of Authorization
	looked    []string             // the credential files that were read
	found     string               // the one that had credentials, or ""
	config    *authn.AuthConfig
}

// maxAnswer is the most that is read of what is neither a manifest nor a blob.
const maxAnswer = 1 << 20

func (e *endpoint) session(repository string) *session {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sessions[repository]
	if s == nil {
		s = &session{e: e, repository: repository}
		e.sessions[repository] = s
	}
	return s
}

// small is guard for the answers of the handshake, which go-containerregistry reads to their end.
type small struct{ guard }

func (t small) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.guard.RoundTrip(req)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// open does the handshake, once: it finds out by which scheme the registry answers, which credentials it wants, and gets
// them.
func (s *session) open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.challenge != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.e.c.t.exchange)
	defer cancel()
	challenge, err := s.ping(ctx)
	if err != nil {
		return err
	}
	s.e.mark(true)
	if err := s.credentials(); err != nil {
		return err
	}
	if err := s.authorize(ctx, challenge); err != nil {
		return err
	}
	scheme := "https"
	if challenge.Insecure {
		scheme = "http"
	}
	s.e.mu.Lock()
	s.e.scheme = scheme
	s.e.mu.Unlock()
	s.challenge = challenge
	return nil
}

func (s *session) registry() (name.Registry, error) {
	if s.e.plain {
		return name.NewRegistry(s.e.host, name.Insecure)
	}
	return name.NewRegistry(s.e.host)
}

func (s *session) ping(ctx context.Context) (*transport.Challenge, error) {
	reg, err := s.registry()
	if err != nil {
		return nil, err
	}
	if s.e.mirror && s.e.only && !s.e.plain {
		return nil, &plainError{s.e.host}
	}
	return transport.Ping(ctx, reg, small{guard{s.e}})
}

// credentials looks for them, once.
func (s *session) credentials() error {
	if s.config != nil {
		return nil
	}
	found, err := lookup(s.e.host, s.repository)
	s.looked = found.looked
	if err != nil {
		return &localError{err}
	}
	s.config, s.found = &authn.AuthConfig{}, found.file
	if found.file != "" {
		s.config = &found.config
		c := found.config
		s.e.hide(c.Password, c.IdentityToken, c.RegistryToken, c.Auth, basic(c))
	}
	return nil
}

func basic(c authn.AuthConfig) string {
	return base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
}

// authorize makes the value of Authorization that a challenge asks for.
func (s *session) authorize(ctx context.Context, challenge *transport.Challenge) error {
	c := s.config
	switch strings.ToLower(challenge.Scheme) {
	case "bearer":
		if c.RegistryToken != "" {
			s.header = "Bearer " + c.RegistryToken
			return nil
		}
		reg, err := s.registry()
		if err != nil {
			return err
		}
		auth := authn.Anonymous
		if s.found != "" {
			auth = authn.FromConfig(*c)
		}
		token, err := transport.Exchange(ctx, reg, auth, small{guard{s.e}}, []string{"repository:" + s.repository + ":pull"}, challenge)
		if err != nil {
			return &tokenError{realmHost(challenge), err}
		}
		value := token.AccessToken // some have this one instead
		if value == "" {
			value = token.Token
		}
		s.e.hide(value, token.RefreshToken)
		s.header = "Bearer " + value
	case "basic":
		if c.Username != "" && c.Password != "" {
			s.header = "Basic " + basic(*c)
		}
	}
	return nil
}

func realmHost(c *transport.Challenge) string {
	u, err := url.Parse(c.Parameters["realm"])
	if err != nil {
		return "?"
	}
	return u.Host
}

// renew gets another token in the place of one that has ended, unless another goroutine has done so.
func (s *session) renew(ctx context.Context, old string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.header != old {
		return true, nil
	}
	if !strings.HasPrefix(old, "Bearer ") || s.config.RegistryToken != "" {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.e.c.t.exchange)
	defer cancel()
	return true, s.authorize(ctx, s.challenge)
}

func (s *session) authorization() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.header
}

// authorized adds the credentials to what goes to the registry itself: same scheme, same host, same port. net/http would
// take them along to other ports and to the domains below.
type authorized struct {
	guard
	header string
}

func (t authorized) RoundTrip(req *http.Request) (*http.Response, error) {
	t.e.mu.Lock()
	scheme := t.e.scheme
	t.e.mu.Unlock()
	req = req.Clone(req.Context())
	req.Header.Del("Authorization")
	if t.header != "" && req.URL.Scheme == scheme && req.URL.Host == t.e.host && (req.Host == "" || req.Host == t.e.host) {
		req.Header.Set("Authorization", t.header)
	} else {
		req.Header.Del("Cookie")
	}
	return t.guard.RoundTrip(req)
}

// send makes one request for a path of the repository. The token is renewed once when the registry does not take it.
// The caller closes the body.
func (s *session) send(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	for renewed := false; ; renewed = true {
		used := s.authorization()
		resp, err := s.once(ctx, method, path, header, used)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || renewed || resp.Request.URL.Host != s.e.host {
			return resp, err
		}
		again, err := s.renew(ctx, used)
		if err != nil {
			_ = resp.Body.Close()
			return nil, err
		}
		if !again {
			return resp, nil
		}
		_ = resp.Body.Close()
	}
}

func (s *session) once(ctx context.Context, method, path string, header http.Header, authorization string) (*http.Response, error) {
	s.e.mu.Lock()
	scheme := s.e.scheme
	s.e.mu.Unlock()
	path, query, _ := strings.Cut(path, "?")
	u := url.URL{Scheme: scheme, Host: s.e.host, Path: "/v2/" + s.repository + "/" + path, RawQuery: query}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	client := http.Client{Transport: authorized{guard{s.e}, authorization}, CheckRedirect: redirects}
	return client.Do(req)
}

// hide remembers what must be in no error.
func (e *endpoint) hide(secrets ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range secrets {
		if s != "" {
			e.secrets = append(e.secrets, s, url.QueryEscape(s))
		}
	}
}
