package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/internal/operator"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.file, _ = a.sign("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// sign makes a certificate and its key, as files.
func (a *authority) sign(name string, c *x509.Certificate) (cert, key string) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore = time.Now().Add(-time.Hour)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	if a.cert == nil {
		a.cert, a.key = c, k
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	if c.IsCA {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
	}
	for path, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(filepath.Join(a.dir, path), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
}

// serve starts a registry with TLS.
func (a *authority) serve(c *x509.Certificate, clients bool) *fake {
	a.t.Helper()
	cert, key := a.sign("server", c)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		a.t.Fatal(err)
	}
	f := newUnstarted(a.t)
	f.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if clients {
		f.TLS.ClientCAs, f.TLS.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		f.TLS.ClientCAs.AddCert(a.cert)
	}
	f.StartTLS()
	return f.ready()
}

var here = []net.IP{net.IPv4(127, 0, 0, 1)}

// TestTLS: which certificates are taken, and what is said of the others.
func TestTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	good := a.serve(&x509.Certificate{IPAddresses: here}, false)
	other := a.serve(&x509.Certificate{DNSNames: []string{"registry.example"}}, false)
	old := a.serve(&x509.Certificate{IPAddresses: here, NotAfter: time.Now().Add(-time.Minute)}, false)
	strict := a.serve(&x509.Certificate{IPAddresses: here}, true)
	cert, key := a.sign("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	for name, c := range map[string]struct {
		f    *fake
		r    operator.Registry
		says string
	}{
		"unknown authority":         {good, operator.Registry{}, `"ca" in a [[registry]] section`},
		"authority of the file":     {good, operator.Registry{CA: a.file}, ""},
		"authority of another host": {good, operator.Registry{Host: "registry.example", CA: a.file}, `"ca" in a [[registry]] section`},
		"another name":              {other, operator.Registry{CA: a.file}, "its certificate is for another name"},
		"too old":                   {old, operator.Registry{CA: a.file}, "its certificate is not valid"},
		"not checked":               {other, operator.Registry{Insecure: true}, ""},
		"checked all the same":      {other, operator.Registry{Insecure: true, CA: a.file}, "its certificate is for another name"},
		"no client certificate":     {strict, operator.Registry{CA: a.file}, `name "cert" and "key"`},
		"client certificate":        {strict, operator.Registry{CA: a.file, Cert: cert, Key: key}, ""},
		"no such file":              {good, operator.Registry{CA: "/no/such/ca"}, "/no/such/ca"},
		"no certificate":            {good, operator.Registry{CA: key}, "there is none in " + key},
		"no such key":               {good, operator.Registry{CA: a.file, Cert: cert, Key: "/no/such/key"}, "/no/such/key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := c.f.push(strings.ReplaceAll(name, " ", "-"), "amd64", 100)
			if c.r.Host == "" {
				c.r.Host = c.f.host
			}
			var mu sync.Mutex
			var told []string
			client := newClient(t, Options{Registries: []operator.Registry{c.r}, Notice: func(n string) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, n)
			}})
			s := newStore(t)
			_, err := pullFor(t, client, s, c.f.ref(":"+strings.ReplaceAll(name, " ", "-")))
			if c.says != "" {
				refused(t, err, c.says, c.f.host)
				if strings.Contains(err.Error(), "Get ") {
					t.Errorf("a request shows in what is said: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			whole(t, s, p)
			mu.Lock()
			defer mu.Unlock()
			if unchecked := name == "not checked"; unchecked != (len(told) == 1 && strings.Contains(told[0], "is not checked")) {
				t.Errorf("it was told %q", told)
			}
		})
	}
}

// through has a client reach every host at one server: what a name would lead to is the test's.
func through(t *testing.T, c *Client, server *fake) {
	t.Helper()
	c.proxy = func(*http.Request) (*url.URL, error) { return url.Parse(server.URL) }
}

// TestPlainHTTP: nobody is asked over plain HTTP but loopback addresses, and hosts of which the operator says so. Private addresses are
// no exception.
func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	p := f.push("1", "amd64", 100)
	for _, host := range []string{"10.0.0.1:5000", "172.16.0.1", "192.168.1.1:80", "registry.example", "127.0.0.1.example", "x.localhost:5000"} {
		for _, insecure := range []bool{false, true} {
			c := newClient(t, Options{Registries: []operator.Registry{{Host: host, Insecure: insecure}}})
			through(t, c, f) // a proxy that would answer for all of them
			c.t.attempts = 1
			f.do(nil)
			s := newStore(t)
			_, err := pullFor(t, c, s, mustRef(t, host+"/a/b:1"))
			if insecure {
				if err != nil {
					t.Errorf("%s, insecure: %v", host, err)
				}
				whole(t, s, p)
				continue
			}
			if err == nil || f.count("GET") != 0 || f.count("HEAD") != 0 {
				t.Errorf("%s: %v, and it was asked %q", host, err, f.asked)
			}
		}
	}
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "LOCALHOST": true, "127.0.0.1": true, "127.9.8.7:1": true, "[::1]:5000": true, "[::1]": true,
		"10.0.0.1": false, "localhost.example": false, "127.0.0.1.example:80": false, "[::2]": false, "0.0.0.0": false, "": false,
	} {
		if loopback(host) != want {
			t.Errorf("loopback(%q) is %v", host, !want)
		}
	}
}

// TestDowngrade: HTTPS does not lead to plain HTTP, whoever says so.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	f, storage := a.serve(&x509.Certificate{IPAddresses: here}, false), newFake(t)
	p := f.push("1", "amd64", 100)
	storage.do(func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write(p.layers[0])
		return true
	})
	f.do(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, p.layers[0]) {
			http.Redirect(w, r, storage.URL+"/x", http.StatusFound)
			return true
		}
		return false
	})
	c := newClient(t, Options{Registries: []operator.Registry{{Host: f.host, CA: a.file}}})
	_, err := pullFor(t, c, newStore(t), f.ref(":1"))
	refused(t, err, "it redirects from HTTPS to http://"+storage.host)
	if storage.count("GET") != 0 {
		t.Error("it was followed")
	}
	// The client certificate of the registry is not shown to its storage.
	cert, key := a.sign("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	strict := a.serve(&x509.Certificate{IPAddresses: here}, true)
	f.do(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, p.layers[0]) {
			http.Redirect(w, r, strict.URL+"/x", http.StatusFound)
			return true
		}
		return false
	})
	c = newClient(t, Options{Registries: []operator.Registry{{Host: f.host, CA: a.file, Cert: cert, Key: key}, {Host: strict.host, CA: a.file}}})
	c.t.attempts = 1
	if _, err = pullFor(t, c, newStore(t), f.ref(":1")); err == nil || strict.count("GET") != 0 {
		t.Errorf("%v: the storage asks for a certificate that is the registry's", err)
	}
}

// TestMirrors: mirrors are asked first, in order, without the registry's credentials; what they do not have, or have wrong, comes from the
// registry.
func TestMirrors(t *testing.T) {
	t.Parallel()
	registry, mirror := newFake(t), newFake(t)
	p := registry.push("1", "amd64", 3<<20, 200)
	dead := "127.0.0.1:1"
	for name, c := range map[string]struct {
		mirrors []string
		ready   func(m *fake)
		// asked is how many blobs the registry gave.
		asked int
		// more: a connection that the mirror has just broken may have been taken for the next blob, too, which then comes from the
		// registry as well.
		more int
	}{
		"serves":        {[]string{"http://" + mirror.host}, nil, 0, 0},
		"second serves": {[]string{"http://" + dead, mirror.host}, nil, 0, 0},
		"down":          {[]string{"http://" + dead}, nil, 3, 0},
		"only https":    {[]string{"https://" + dead, "http://10.0.0.1"}, nil, 3, 0},
		"has no blobs": {[]string{"http://" + mirror.host}, func(m *fake) {
			m.do(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/blobs/") {
					w.WriteHeader(http.StatusNotFound)
					return true
				}
				return false
			})
		}, 3, 0},
		"has wrong ones": {[]string{"http://" + mirror.host}, func(m *fake) {
			m.do(func(w http.ResponseWriter, r *http.Request) bool {
				if isBlob(r, p.layers[0]) {
					_, _ = w.Write(make([]byte, 3<<20))
					return true
				}
				return false
			})
		}, 1, 0},
		"breaks": {[]string{"http://" + mirror.host}, func(m *fake) {
			m.do(func(w http.ResponseWriter, r *http.Request) bool {
				if isBlob(r, p.layers[0]) {
					cut(w, r, p.layers[0], 1000)
				}
				return false
			})
		}, 1, 1},
		"breaks with wrong bytes": {[]string{"http://" + mirror.host}, func(m *fake) {
			m.do(func(w http.ResponseWriter, r *http.Request) bool {
				if isBlob(r, p.layers[0]) {
					cut(w, r, make([]byte, 3<<20), 1000)
				}
				return false
			})
		}, 2, 1},
		"wants credentials": {[]string{"http://" + mirror.host}, func(m *fake) { m.do(demand(`Basic realm="x"`, "never")) }, 3, 0},
	} {
		t.Run(name, func(t *testing.T) { // one after the other: they share the fakes
			mirror.do(nil)
			mirror.push("1", "amd64", 3<<20, 200)
			if c.ready != nil {
				c.ready(mirror)
			}
			registry.do(nil)
			s := newStore(t)
			told := ""
			client := newClient(t, Options{Registries: []operator.Registry{{Host: registry.host, Mirrors: c.mirrors}}, Notice: func(n string) { told += n }})
			if _, err := pullFor(t, client, s, registry.ref(":1")); err != nil {
				t.Fatal(err)
			}
			whole(t, s, p)
			if n := registry.count("GET", "/blobs/"); n < c.asked || n > c.asked+c.more {
				t.Errorf("the registry gave %d blobs, want %d: %q", n, c.asked, registry.asked)
			}
			if passed := c.asked > 0 || name == "second serves"; passed != strings.Contains(told, "is passed over") {
				t.Errorf("it was told %q", told)
			}
		})
	}
}

// TestNobody: what is said when there is no registry.
func TestNobody(t *testing.T) {
	t.Parallel()
	c := newClient(t, Options{})
	begun := time.Now()
	c.t.backoff = time.Minute
	_, err := pullFor(t, c, newStore(t), mustRef(t, "127.0.0.1:1/a/b:1"))
	refused(t, err, "127.0.0.1:1: connection refused")
	if time.Since(begun) > 30*time.Second {
		t.Error("it was asked again and again")
	}
	_, err = pullFor(t, c, newStore(t), mustRef(t, "no-such-host.invalid/a/b:1"))
	refused(t, err, "no-such-host.invalid")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() //nolint:errcheck // a test's
	c = newClient(t, Options{})
	c.t.connect, c.t.exchange, c.t.attempts = 200*time.Millisecond, 300*time.Millisecond, 2
	_, err = pullFor(t, c, newStore(t), mustRef(t, fmt.Sprintf("%s/a/b:1", silent.Addr())))
	refused(t, err, "it does not answer the request for tag 1 in time")
}
