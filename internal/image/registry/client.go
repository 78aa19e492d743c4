package registry

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"brig/internal/image"
	"brig/internal/operator"
)

// Options of a client. The zero value works.
type Options struct {
	// Registries is what the operator's file says of them.
	Registries []operator.Registry
	// Version is told to registries as that of Brig.
	Version string
	// Expect is called when it is known how many bytes are to come, and Got for each part of them; with less than zero when what came
	// has to come again. Both may be called by several goroutines at once, and both may be nil.
	Expect, Got func(bytes int64)
	// Admit is asked when it is known what a reference points to, before configuration and layers are fetched. It may be nil.
	Admit func(ctx context.Context, target, manifest image.Digest) error
	// Begin is called when an image was admitted and its configuration is here, before its layers are fetched, and Here for
	// each blob that has come then: the layers can be merged meanwhile. Here may be called by several goroutines at once, and both may be
	// nil.
	Begin func(manifest image.Digest, m *image.Manifest)
	Here  func(image.Digest)
	// Notice is called with what a person should know though it is no error: a mirror that is passed over, a certificate that
	// is not checked. It may be nil.
	Notice func(text string)
}

// Client talks to registries. It keeps connections and tokens while it lives, and may be used by several goroutines.
type Client struct {
	o     Options
	t     timing
	proxy func(*http.Request) (*url.URL, error)

	mu         sync.Mutex
	endpoints  map[string]*endpoint       // by scheme and host
	transports map[string]*http.Transport // by host, "" for those that have no section of their own
	noticed    map[string]bool
}

// timing is how long is waited for what. Tests have shorter ones.
type timing struct {
	connect  time.Duration // a connection, a handshake, the header of an answer
	exchange time.Duration // a manifest or a token in whole
	window   time.Duration // in this time at least windowBytes of a body have to come
	attempts int           // of a request to a registry; a mirror has one
	backoff  time.Duration // before the second attempt, then doubled
	longest  time.Duration // the most that is waited between attempts, and the longest Retry-After that is obeyed
}

const (
	windowBytes = 4 << 10
	// progress is how much an attempt at a blob has to bring so that it does not count as one.
	progress = 1 << 20
	// parallel is how many blobs are fetched at once, as docker does.
	parallel = 3
	// maxRedirects leads from a registry to its storage; one is usual.
	maxRedirects = 5
)

func defaultTiming() timing {
	return timing{
		connect: 30 * time.Second, exchange: 60 * time.Second, window: 30 * time.Second,
		attempts: 6, backoff: 500 * time.Millisecond, longest: 60 * time.Second,
	}
}

// New makes a client. It makes no connection.
func New(o Options) *Client {
	return &Client{
		o: o, t: defaultTiming(), proxy: http.ProxyFromEnvironment,
		endpoints: map[string]*endpoint{}, transports: map[string]*http.Transport{}, noticed: map[string]bool{},
	}
}

// Close ends the connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.transports {
		t.CloseIdleConnections()
	}
}

func (c *Client) expect(n int64) {
	if c.o.Expect != nil && n != 0 {
		c.o.Expect(n)
	}
}

func (c *Client) got(n int64) {
	if c.o.Got != nil && n != 0 {
		c.o.Got(n)
	}
}

// notice tells a thing once.
func (c *Client) notice(text string) {
	c.mu.Lock()
	known := c.noticed[text]
	c.noticed[text] = true
	c.mu.Unlock()
	if c.o.Notice != nil && !known {
		c.o.Notice(text)
	}
}

// section is what the operator's file says of a host; the zero value when it says nothing.
func (c *Client) section(host string) operator.Registry {
	host = canonical(host)
	for _, r := range c.o.Registries {
		if canonical(r.Host) == host {
			return r
		}
	}
	return operator.Registry{}
}

// canonical gives one spelling of a registry's host; that of docker has two. A word that a reference would take for a
// part of a repository stays what it is.
func canonical(host string) string {
	host = strings.ToLower(host)
	if ref, err := image.ParseRef(host + "/a/b"); err == nil && ref.Repository() == "a/b" {
		return ref.Registry()
	}
	return host
}

// loopback tells whether a host is this machine: there nobody listens in on plain HTTP.
func loopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.IsLoopback()
}

// endpoint is a registry or a mirror of one.
type endpoint struct {
	c      *Client
	host   string // with the port, as in a URL
	name   string // of the registry, as credentials and the operator know it
	mirror bool
	plain  bool // plain HTTP may be used
	only   bool // and nothing else: a mirror that is given with http://

	mu       sync.Mutex
	scheme   string // once it is known
	answered bool   // it has answered before, so a refused connection is one that may pass
	down     bool   // a mirror that did not answer
	sessions map[string]*session
	secrets  []string // what must be in no error
}

// route is where a repository is fetched from: the mirrors of its registry in order, then the registry.
func (c *Client) route(ref image.Ref) []*endpoint {
	s := c.section(ref.Registry())
	var list []*endpoint
	for _, m := range s.Mirrors {
		scheme, host, ok := strings.Cut(m, "://")
		if !ok {
			scheme, host = "https", m
		}
		list = append(list, c.endpoint(strings.TrimSuffix(host, "/"), true, scheme == "http"))
	}
	return append(list, c.endpoint(ref.Registry(), false, false))
}

func (c *Client) endpoint(host string, mirror, only bool) *endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := host
	if mirror {
		key = "mirror " + host
	}
	if e := c.endpoints[key]; e != nil {
		return e
	}
	e := &endpoint{
		c: c, host: host, name: host, mirror: mirror, only: only,
		plain: loopback(host) || c.section(host).Insecure, sessions: map[string]*session{},
	}
	c.endpoints[key] = e
	return e
}

// attempts is how often a request is made.
func (e *endpoint) attempts() int {
	if e.mirror {
		return 1
	}
	return e.c.t.attempts
}

func (e *endpoint) isDown() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.down
}

func (e *endpoint) mark(answered bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if answered {
		e.answered = true
	} else {
		e.down = true
	}
}

// each calls do with the endpoints of a reference until one of them does it. An error that is not the endpoint's ends it.
func (c *Client) each(ctx context.Context, ref image.Ref, do func(*endpoint) error) error {
	list := c.route(ref)
	for i, e := range list {
		last := i == len(list)-1
		if !last && e.isDown() {
			continue
		}
		err := do(e)
		if err == nil || last || ctx.Err() != nil || !remote(err) {
			return err
		}
		if !answered(err) {
			e.mark(false)
		}
		c.notice("the mirror " + e.host + " is passed over: " + err.Error())
	}
	return nil
}
