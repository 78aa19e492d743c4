package registry

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"brig/internal/image"
)

const (
	user     = "somebody"
	password = "pass:w\u00f6rd&secret"
	issued   = "issued-token-secret"
)

func encoded(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// credentialsIn makes one file of credentials the only one. The environment is the process's, so its tests do not run in parallel.
func credentialsIn(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("REGISTRY_AUTH_FILE", path)
}

func forHost(host string) string {
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, encoded(user, password))
}

// demand answers 401 with a challenge unless a request has the header.
func demand(challenge, want string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == want {
			return false
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.WriteHeader(http.StatusUnauthorized)
		// What it heard it repeats: none of it may come out again.
		_, _ = fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"not with %s, %s"}]}`, r.Header.Get("Authorization"), password)
		return true
	}
}

// secretless demands that nothing secret is in an error.
func secretless(t *testing.T, text string) {
	t.Helper()
	for _, s := range []string{password, url.QueryEscape(password), encoded(user, password), issued, "signature-of-the-url"} {
		if strings.Contains(text, s) {
			t.Errorf("%q is in %q", s, text)
		}
	}
}

// TestBasic: name and password go to the registry that asks for them; a wrong one is said without it.
func TestBasic(t *testing.T) {
	f := newFake(t)
	p := f.push("1", "amd64", 100, 200)
	f.do(demand(`Basic realm="x"`, "Basic "+encoded(user, password)))
	credentialsIn(t, forHost(f.host))
	s := newStore(t)
	if _, err := pullFor(t, newClient(t, Options{}), s, f.ref(":1")); err != nil {
		t.Fatal(err)
	}
	whole(t, s, p)
	f.do(demand(`Basic realm="x"`, "Basic other"))
	_, err := pullFor(t, newClient(t, Options{}), newStore(t), f.ref(":1"))
	refused(t, err, "401 Unauthorized with the credentials of "+os.Getenv("REGISTRY_AUTH_FILE"), "no access to the repository a/b")
	secretless(t, err.Error())
	credentialsIn(t, `{}`)
	_, err = pullFor(t, newClient(t, Options{}), newStore(t), f.ref(":1"))
	refused(t, err, "there are no credentials for "+f.host+" in "+os.Getenv("REGISTRY_AUTH_FILE"))
	credentialsIn(t, `{"auths":{"x":{"auth":"`+encoded(user, password)+`!"}}}`)
	_, err = pullFor(t, newClient(t, Options{}), newStore(t), f.ref(":1"))
	refused(t, err, os.Getenv("REGISTRY_AUTH_FILE")+" is no valid file")
	secretless(t, err.Error())
	t.Setenv("REGISTRY_AUTH_FILE", "/no/such/file")
	_, err = pullFor(t, newClient(t, Options{}), newStore(t), f.ref(":1"))
	refused(t, err, "/no/such/file")
}

// tokens is a registry with a token server on a port of its own.
type tokens struct {
	*fake
	server *fake
	asked  atomic.Int64
	// token is the one that the registry takes at the moment.
	token atomic.Value
}

func newTokens(t *testing.T) *tokens {
	t.Helper()
	x := &tokens{fake: newFake(t), server: newFake(t)}
	x.token.Store(issued)
	// By name: go-containerregistry takes no token server that is a private address of its own.
	realm := strings.Replace(x.server.URL, "127.0.0.1", "localhost", 1) + "/token"
	x.do(func(w http.ResponseWriter, r *http.Request) bool {
		return demand(fmt.Sprintf(`Bearer realm=%q,service="the service",scope="repository:a/b:pull"`, realm), "Bearer "+x.token.Load().(string))(w, r)
	})
	x.server.do(func(w http.ResponseWriter, r *http.Request) bool {
		x.asked.Add(1)
		q := r.URL.Query()
		if q.Get("scope") != "repository:a/b:pull" || q.Get("service") != "the service" {
			t.Errorf("it is asked for %s", r.URL.RawQuery)
		}
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"%s"}]}`, p)
			return true
		}
		_, _ = fmt.Fprintf(w, `{"token":%q,"expires_in":60}`, x.token.Load())
		return true
	})
	return x
}

// TestBearer: the password goes to the token server, the token to the registry, and one that has ended is renewed.
func TestBearer(t *testing.T) {
	x, s := newTokens(t), newStore(t)
	p := x.push("1", "amd64", 100, 200, 300)
	credentialsIn(t, forHost(x.host))
	c := newClient(t, Options{})
	if _, err := pullFor(t, c, s, x.ref(":1")); err != nil {
		t.Fatal(err)
	}
	whole(t, s, p)
	if n := x.asked.Load(); n != 1 {
		t.Errorf("%d tokens", n)
	}
	x.token.Store("another-one")
	if _, err := pullFor(t, c, newStore(t), x.ref(":1")); err != nil {
		t.Fatal(err)
	}
	if n := x.asked.Load(); n != 2 {
		t.Errorf("%d tokens after the first has ended", n)
	}
	// A token that is not taken is no reason to go on for ever.
	x.do(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" {
			return false
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"%s"}]}`, r.Header.Get("Authorization"))
		return true
	})
	_, err := pullFor(t, c, newStore(t), x.ref(":1"))
	refused(t, err, "401 Unauthorized")
	secretless(t, err.Error())
}

// TestTokenServer: a token server that does not do its work is told from the registry, and its answer is bounded.
func TestTokenServer(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		says   string
	}{
		"refuses": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, p, _ := r.BasicAuth()
			_, _ = io.WriteString(w, p)
		}, "403 Forbidden from its token server localhost"},
		"no token": {func(w http.ResponseWriter, r *http.Request) {
			_, p, _ := r.BasicAuth()
			_, _ = fmt.Fprintf(w, `{"refresh_token":%q,"echo":%q}`, issued, p)
		}, "what it gave as a token has none"},
		"no JSON": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, issued) }, "its token server localhost"},
		"without an end": {func(w http.ResponseWriter, _ *http.Request) {
			for zeros := make([]byte, 1<<20); ; {
				if _, err := w.Write(zeros); err != nil {
					return
				}
			}
		}, "its token server localhost"},
		"elsewhere by http": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://registry.example/token?signature-of-the-url", http.StatusFound)
		}, "plain HTTP is for loopback addresses only"},
	} {
		t.Run(name, func(t *testing.T) {
			x := newTokens(t)
			x.push("1", "amd64", 100)
			credentialsIn(t, forHost(x.host))
			x.server.do(func(w http.ResponseWriter, r *http.Request) bool { c.answer(w, r); return true })
			_, err := pullFor(t, newClient(t, Options{}), newStore(t), x.ref(":1"))
			refused(t, err, c.says)
			secretless(t, err.Error())
		})
	}
}

// TestRedirects: blobs may lie elsewhere, and neither token nor password goes there, not even to another port of the same host.
func TestRedirects(t *testing.T) {
	x, s := newTokens(t), newStore(t)
	p := x.push("1", "amd64", 100, 200)
	credentialsIn(t, forHost(x.host))
	storage, empty := newFake(t), newFake(t)
	challenge := x.before
	to := func(f func(r *http.Request) string) {
		x.do(func(w http.ResponseWriter, r *http.Request) bool {
			if challenge(w, r) {
				return true
			}
			if strings.Contains(r.URL.Path, "/blobs/") {
				w.Header().Set("Set-Cookie", "x=y")
				http.Redirect(w, r, f(r), http.StatusTemporaryRedirect)
				return true
			}
			return false
		})
	}
	storage.do(func(w http.ResponseWriter, r *http.Request) bool {
		for _, h := range []string{"Authorization", "Referer", "Cookie"} {
			if v := r.Header.Get(h); v != "" {
				t.Errorf("the storage got %s: %s", h, v)
			}
		}
		for _, l := range append(p.layers, p.config) {
			if strings.HasSuffix(r.URL.Path, string(image.DigestOf(l))) {
				_, _ = w.Write(l)
			}
		}
		return true
	})
	to(func(r *http.Request) string { return storage.URL + r.URL.Path + "?key=signature-of-the-url" })
	if _, err := pullFor(t, newClient(t, Options{}), s, x.ref(":1")); err != nil {
		t.Fatal(err)
	}
	whole(t, s, p)
	for _, c := range []struct {
		to   func(*http.Request) string
		says string
	}{
		{func(r *http.Request) string { return x.URL + r.URL.Path }, "redirects more than 5 times"},
		{func(*http.Request) string { return "http://registry.example/x?signature-of-the-url" }, "plain HTTP is for loopback addresses only"},
		{func(*http.Request) string { return "file:///etc/shadow?signature-of-the-url" }, `scheme "file" is not fetched`},
		{func(*http.Request) string { return "http://127.0.0.1:1/x?signature-of-the-url" }, "connection refused"},
		{func(*http.Request) string { return empty.URL + "/none?signature-of-the-url" }, "its storage " + empty.host},
	} {
		to(c.to)
		client := newClient(t, Options{})
		client.t.attempts = 1
		_, err := pullFor(t, client, newStore(t), x.ref(":1"))
		refused(t, err, c.says)
		secretless(t, err.Error())
	}
}

// TestKeys: which entry of a credential file is for which repository.
func TestKeys(t *testing.T) {
	hub := mustRef(t, "x").Registry()
	for _, c := range []struct{ key, host, repository, want string }{
		{"registry.example", "registry.example", "a/b", "yes"},
		{"https://registry.example/v1/", "registry.example", "a/b", "yes"},
		{"registry.example/v2/", "registry.example", "a/b", "yes"},
		{"REGISTRY.example", "registry.example", "a/b", "yes"},
		{"registry.example/a", "registry.example", "a/b", "yes"},
		{"registry.example/a/b", "registry.example", "a/b", "yes"},
		{"registry.example/a/b/c", "registry.example", "a/b", ""},
		{"registry.example/aa", "registry.example", "aaa/b", ""},
		{"registry.example:5000", "registry.example", "a/b", ""},
		{"registry.example", "registry.example:5000", "a/b", ""},
		{"sub.registry.example", "registry.example", "a/b", ""},
		{"example", "registry.example", "a/b", ""},
		{"https://" + hub + "/v1/", hub, "library/x", "yes"},
		{hub, hub, "library/x", "yes"},
		{strings.TrimPrefix(hub, "index."), hub, "library/x", "yes"},
		{"library", hub, "library/x", ""},
		{"", hub, "library/x", ""},
	} {
		credentialsIn(t, forHost(c.key))
		got, err := lookup(c.host, c.repository)
		if err != nil || (got.file != "") != (c.want != "") || c.want != "" && (got.config.Username != user || got.config.Password != password) {
			t.Errorf("%q for %s/%s: %+v, %v", c.key, c.host, c.repository, got, err)
		}
	}
	credentialsIn(t, fmt.Sprintf(`{"auths":{"registry.example":{"auth":%q},"registry.example/a":{"auth":%q}}}`, encoded("all", "x"), encoded("team", "x")))
	if got, err := lookup("registry.example", "a/b"); err != nil || got.config.Username != "team" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestPlaces: the files are looked through in podman's order, and the first that knows the registry counts.
func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	put := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for k, v := range map[string]string{"REGISTRY_AUTH_FILE": "", "DOCKER_CONFIG": "", "XDG_CONFIG_HOME": "", "HOME": dir, "XDG_RUNTIME_DIR": dir + "/run"} {
		t.Setenv(k, v)
	}
	entry := func(name string) string {
		return fmt.Sprintf(`{"auths":{"registry.example":{"auth":%q}}}`, encoded(name, "x"))
	}
	want := func(name string) {
		t.Helper()
		if got, err := lookup("registry.example", "a/b"); err != nil || got.config.Username != name {
			t.Errorf("%+v, %v, want %s", got, err, name)
		}
	}
	want("")
	put("bin/docker-credential-test", "#!/bin/sh\n[ $# = 1 ] || exit 9\ncase \"$1 $(cat)\" in\n\"get registry.example\") echo '{\"Username\":\"helper\",\"Secret\":\"x\"}' ;;\n"+
		"\"get token.example\") echo '{\"Username\":\"<token>\",\"Secret\":\"x\"}' ;;\n\"get broken.example\") echo "+issued+"; exit 1 ;;\n*) echo 'credentials not found in native keychain'; exit 1 ;;\nesac\n")
	if err := os.Chmod(dir+"/bin/docker-credential-test", 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+"/bin:"+os.Getenv("PATH"))
	put(".docker/config.json", `{"credsStore":"test","auths":{"registry.example":{}}}`)
	want("helper")
	if got, err := lookup("token.example", "a"); err != nil || got.config.IdentityToken != "x" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := lookup("unknown.example", "a"); err != nil || got.file != "" {
		t.Errorf("%+v, %v", got, err)
	}
	_, err := lookup("broken.example", "a")
	refused(t, err, "docker-credential-test", "exit status 1", ".docker/config.json")
	secretless(t, err.Error())
	put(".docker/config.json", `{"credHelpers":{"broken.example":"none-such","registry.example":"test"}}`)
	want("helper")
	_, err = lookup("broken.example", "a")
	refused(t, err, "docker-credential-none-such")
	put("docker-credential-/x", "#!/bin/sh\necho '{\"Username\":\"planted\",\"Secret\":\"x\"}'\n")
	if err := os.Chmod(dir+"/docker-credential-/x", 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	t.Chdir(dir)
	put(".docker/config.json", `{"credHelpers":{"broken.example":"/x","registry.example":"test"}}`)
	_, err = lookup("broken.example", "a")
	refused(t, err, "is no name of a credential helper")
	put(".config/containers/auth.json", `{"auths":{"other.example":{}}}`)
	want("helper")
	put(".config/containers/auth.json", entry("config"))
	want("config")
	put("run/containers/auth.json", entry("runtime"))
	want("runtime")
	put("own.json", entry("own"))
	t.Setenv("REGISTRY_AUTH_FILE", dir+"/own.json")
	want("own")
}
