package image

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"brig/internal/image"
	"brig/test/image/fixture"
)

// serve starts a registry of the test's own with all images.
func serve(t *testing.T, o fixture.Options) *fixture.Registry {
	t.Helper()
	o.Storage = images.Storage
	r, err := fixture.Start(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() })
	return r
}

// fetched are the requests for the content of blobs, by digest.
func fetched(r *fixture.Registry) map[string]int {
	count := map[string]int{}
	for _, q := range r.Requests() {
		if _, digest, ok := strings.Cut(q.Path, "/blobs/"); ok && q.Method == http.MethodGet {
			count[digest]++
		}
	}
	return count
}

// TestPullOnce: an image is fetched when it is not here, and nothing of it when it is.
func TestPullOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := serve(t, fixture.Options{})
	name := r.Host + "/busybox:1"
	m.fails([]string{name, "--pull never"}, "run", "--pull", "never", name)
	if out := m.ok("run", name); out != "hello from image\n" {
		t.Errorf("it printed %q", out)
	}
	first := fetched(r)
	if len(first) != 2 { // a config and a layer
		t.Errorf("fetched were %v", first)
	}
	m.ok("image", "pull", name)
	m.ok("run", name)
	m.ok("run", "--pull", "always", name)
	m.ok("run", "--pull", "never", name)
	m.ok("image", "pull", r.Host+"/busybox:v2s2") // the same layer and config
	if second := fetched(r); fmt.Sprint(second) != fmt.Sprint(first) {
		t.Errorf("fetched were %v, and later %v", first, second)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	m.ok("run", name)
	m.fails([]string{name}, "run", "--pull", "always", name)
}

// TestPullMoved: a tag that moved is followed when that is asked for, and only then.
func TestPullMoved(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	say := func(word string) image.Digest {
		o := newForged(t)
		o.config["config"] = map[string]any{"Cmd": []string{"/bin/echo", word}}
		return f.push(o, "1")
	}
	first := say("first")
	if out := m.ok("run", f.ref("forged:1")); out != "first\n" {
		t.Fatalf("it printed %q", out)
	}
	say("second")
	for _, c := range []struct{ want, pull, ref string }{
		{"first\n", "missing", "forged:1"}, {"first\n", "never", "forged:1"}, {"second\n", "always", "forged:1"}, {"second\n", "missing", "forged:1"},
		{"first\n", "missing", "forged@" + string(first)}, {"first\n", "always", "forged@" + string(first)},
	} {
		if out := m.ok("run", "--pull", c.pull, f.ref(c.ref)); out != c.want {
			t.Errorf("%s with --pull %s printed %q, not %q", c.ref, c.pull, out, c.want)
		}
	}
}

// TestPlatform: an index gives the image for this machine, and another only when its kernel could run it.
func TestPlatform(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	name := ref("busybox:index")
	if out := m.ok("run", "--platform", "linux/amd64", name); out != "hello from image\n" {
		t.Errorf("it printed %q", out)
	}
	m.ok("image", "pull", "--platform", "linux/arm64", name)
	m.fails([]string{"linux/arm64"}, "run", "--platform", "linux/arm64", name)
	m.fails([]string{"linux/s390x", "linux/amd64", "linux/arm64"}, "image", "pull", "--platform", "linux/s390x", name)
	if out := m.ok("run", name); out != "hello from image\n" { // both are here
		t.Errorf("it printed %q", out)
	}
}

// TestAuth: who a registry demands to know is told to it by docker's configuration, podman's, or a credential helper.
func TestAuth(t *testing.T) {
	t.Parallel()
	newMachine(t)
	r := serve(t, fixture.Options{Auth: true})
	entry := func(password string) string {
		return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, r.Host, base64.StdEncoding.EncodeToString([]byte(fixture.User+":"+password)))
	}
	write := func(t *testing.T, path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		ready func(t *testing.T, m *machine)
		says  []string
	}{
		{"nobody", func(*testing.T, *machine) {}, []string{r.Host, "401"}},
		{"docker", func(t *testing.T, m *machine) {
			write(t, m.dir+"/home/.docker/config.json", entry(fixture.Password), 0o600)
		}, nil},
		{"docker-elsewhere", func(t *testing.T, m *machine) {
			write(t, m.dir+"/elsewhere/config.json", entry(fixture.Password), 0o600)
			m.env = append(m.env, "DOCKER_CONFIG="+m.dir+"/elsewhere")
		}, nil},
		{"podman", func(t *testing.T, m *machine) {
			write(t, m.dir+"/runtime/containers/auth.json", entry(fixture.Password), 0o600)
			m.env = append(m.env, "XDG_RUNTIME_DIR="+m.dir+"/runtime")
		}, nil},
		{"authfile", func(t *testing.T, m *machine) {
			write(t, m.dir+"/auth.json", entry(fixture.Password), 0o600)
			m.env = append(m.env, "REGISTRY_AUTH_FILE="+m.dir+"/auth.json")
		}, nil},
		{"helper", func(t *testing.T, m *machine) {
			write(t, m.dir+"/home/.docker/config.json", fmt.Sprintf(`{"credHelpers":{%q:"of-the-test"}}`, r.Host), 0o600)
			write(t, m.dir+"/path/docker-credential-of-the-test", fmt.Sprintf("#!/bin/sh\n[ \"$1\" = get ] && [ \"$(cat)\" = %s ] && echo '{\"Username\":\"%s\",\"Secret\":\"%s\"}'\n",
				r.Host, fixture.User, fixture.Password), 0o700)
			m.env = append(m.env, "PATH="+m.dir+"/path:"+os.Getenv("PATH"))
		}, nil},
		{"wrong", func(t *testing.T, m *machine) { write(t, m.dir+"/home/.docker/config.json", entry("wrong"), 0o600) }, []string{r.Host, "401"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			c.ready(t, m)
			name := r.Host + "/busybox:1"
			if c.says != nil {
				if told := m.fails(c.says, "image", "pull", name); strings.Contains(told, "wrong") || strings.Contains(told, fixture.Password) {
					t.Errorf("the error has the password: %s", told)
				}
				return
			}
			if out := m.ok("run", name); out != "hello from image\n" {
				t.Errorf("it printed %q", out)
			}
		})
	}
}

// TestTLS: a registry's certificate is checked against the machine's authorities and those that the configuration gives to that registry.
func TestTLS(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	ca, err := fixture.NewCA(m.mkdir("ca"))
	if err != nil {
		t.Fatal(err)
	}
	r := serve(t, fixture.Options{TLS: ca})
	name := r.Host + "/busybox:1"
	m.fails([]string{r.Host, "certificate"}, "run", name)
	m.etc(fmt.Sprintf("[[registry]]\nhost = %q\nca = %q\n", r.Host, ca.File))
	if out := m.ok("run", name); out != "hello from image\n" {
		t.Errorf("it printed %q", out)
	}
}

// TestMirror: a mirror serves what a registry that is not there has.
func TestMirror(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := serve(t, fixture.Options{})
	m.etc(fmt.Sprintf("[[registry]]\nhost = \"registry.example\"\nmirrors = [\"http://%s\"]\n", r.Host))
	if out := m.ok("run", "registry.example/busybox:1"); out != "hello from image\n" {
		t.Errorf("it printed %q", out)
	}
}

// etc gives the machine's brig, and nobody else, a configuration of the operator's: in a mount namespace of its own, /etc has one file more.
func (m *machine) etc(config string) {
	m.t.Helper()
	dir := m.mkdir("etc/brig")
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o644); err != nil {
		m.t.Fatal(err)
	}
	m.before = []string{"unshare", "-m", "--propagation", "private", "sh", "-c", "mount -t overlay -o lowerdir=" + filepath.Dir(dir) + ":/etc overlay /etc && exec \"$@\"", "sh"}
}

// TestPullAtOnce: of twenty that pull images with common layers at once, each blob is fetched by one, and each image is made by one.
func TestPullAtOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	r := serve(t, fixture.Options{})
	names := []string{"busybox:1", "busybox:v2s2", "busybox:index", "users:1", "plain:1", "scratch:1", "forty:1", "devices:1", "sparse:1", "busybox:zstd"}
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
			defer stop()
			out, err := m.command(ctx, "image", "pull", r.Host+"/"+names[n%len(names)]).CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v: %s", names[n%len(names)], err, out)
			}
		})
	}
	all.Wait()
	for digest, n := range fetched(r) {
		if n != 1 {
			t.Errorf("the blob %s was fetched %d times", digest, n)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(m.store, "tmp")); len(left) > 0 {
		t.Errorf("the store has %v of what is half-made", left)
	}
	m.ok("image", "verify")
	m.honest()
	if out := m.ok("run", "--pull", "never", r.Host+"/busybox:1"); out != "hello from image\n" {
		t.Errorf("it printed %q", out)
	}
}
