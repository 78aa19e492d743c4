package image

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAway: an image goes to a machine without network as a file.
func TestAway(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	file := filepath.Join(m.dir, "image.tar")
	m.ok("image", "pull", ref("users:1"))
	m.ok("image", "save", "-o", file, ref("users:1"))
	away := newMachine(t)
	away.before = []string{"unshare", "--net"}
	away.fails([]string{ref("users:1")}, "run", ref("users:1"))
	away.ok("image", "load", "-i", file)
	if out := away.ok("run", ref("users:1")); !strings.HasPrefix(out, "entry one two words uid 1000") {
		t.Errorf("it printed %q", out)
	}
	away.ok("image", "verify")
	here, there := m.inspect(ref("users:1")), away.inspect(ref("users:1"))
	if here.Digest != there.Digest || here.Verity != there.Verity {
		t.Errorf("the image is %+v here, and %+v there", here, there)
	}
}

// TestLayouts: what others write is loaded: an OCI layout as a folder and as a tar, docker's archive, a root file system.
func TestLayouts(t *testing.T) {
	t.Parallel()
	newMachine(t)
	i := images.Images["busybox:1"]
	skopeo := func(t *testing.T, to string) string {
		t.Helper()
		output(t, "skopeo", "--insecure-policy", "copy", "-q", "oci:"+i.Layout+":"+i.Tag, to)
		_, file, _ := strings.Cut(to, ":")
		file, _, _ = strings.Cut(file, ":")
		return file
	}
	for name, source := range map[string]func(t *testing.T, m *machine) string{
		"oci-folder": func(t *testing.T, m *machine) string { return skopeo(t, "oci:"+m.dir+"/oci:example.test/loaded:1") },
		"oci-archive": func(t *testing.T, m *machine) string {
			return skopeo(t, "oci-archive:"+m.dir+"/oci.tar:example.test/loaded:1")
		},
		"docker-archive": func(t *testing.T, m *machine) string {
			return skopeo(t, "docker-archive:"+m.dir+"/docker.tar:example.test/loaded:1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.ok("image", "load", "-i", source(t, m))
			if out := m.ok("run", "--pull", "never", "example.test/loaded:1"); out != "hello from image\n" {
				t.Errorf("it printed %q", out)
			}
		})
	}
	t.Run("root", func(t *testing.T) {
		t.Parallel()
		m := newMachine(t)
		root := m.mkdir("root")
		output(t, "sh", "-c", "mkdir -p "+root+"/bin && cp $(command -v busybox) "+root+"/bin/ && ln -s busybox "+root+"/bin/echo")
		m.ok("image", "import", root, "example.test/root:1")
		if out := m.ok("run", "--pull", "never", "example.test/root:1", "/bin/echo", "imported"); out != "imported\n" {
			t.Errorf("it printed %q", out)
		}
	})
}

// shown is what image inspect says.
type shown struct {
	Name, Digest, Target, Verity, Mounted string
	Size                                  int64
	Config                                struct {
		Env, Cmd, Entrypoint []string
		User                 string
	}
}

func (m *machine) inspect(name string) (s shown) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(m.ok("image", "inspect", "--format", "json", name)), &s); err != nil {
		m.t.Fatal(err)
	}
	return s
}

// list are the names that image ls shows.
func (m *machine) list() (names []string) {
	m.t.Helper()
	var rows []struct{ Name string }
	if err := json.Unmarshal([]byte(m.ok("image", "ls", "--format", "json")), &rows); err != nil {
		m.t.Fatal(err)
	}
	for _, r := range rows {
		names = append(names, r.Name)
	}
	return names
}

// TestNames: tag, ls, inspect, history, rm.
func TestNames(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	name := ref("users:1")
	m.ok("image", "pull", name)
	m.ok("image", "tag", name, "mine:2")
	if got := m.list(); len(got) != 2 {
		t.Errorf("ls shows %q", got)
	}
	s := m.inspect("mine:2")
	if s.Digest != m.inspect(name).Digest || s.Config.User != "anna" || len(s.Config.Cmd) != 2 {
		t.Errorf("inspect shows %+v", s)
	}
	if out := m.ok("image", "history", name); !strings.Contains(out, "umoci") {
		t.Errorf("history shows %s", out)
	}
	m.ok("image", "rm", name)
	m.fails([]string{name}, "run", "--pull", "never", name)
	if out := m.ok("run", "--pull", "never", "mine:2", "x"); !strings.HasPrefix(out, "entry x ") {
		t.Errorf("it printed %q", out)
	}
	m.ok("image", "rm", "mine:2")
	m.ok("image", "prune")
	m.nothing()
	if left, _ := filepath.Glob(filepath.Join(m.store, "blobs/sha256/*")); len(left) > 0 {
		t.Errorf("nothing refers to %q any more", left)
	}
}

// TestPruneInUse: what a sandbox uses is there until its end, whatever is removed and pruned beside it.
func TestPruneInUse(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	name := ref("debian:1")
	m.ok("run", "-d", "--name", "one", name, "sleep", "1000")
	t.Cleanup(func() { m.brig("rm", "--force", "one") })
	m.brig("image", "rm", name) // may refuse
	m.brig("image", "prune", "--all")
	if out := m.ok("exec", "one", "perl", "-e", "print 6*7"); out != "42" { // read for the first time
		t.Errorf("it printed %q", out)
	}
	if len(m.mounts()) == 0 {
		t.Error("the image of a running sandbox is not mounted any more")
	}
	m.ok("rm", "--force", "one")
	m.ok("image", "prune", "--all")
	m.nothing()
	if left := m.mounts(); left != nil {
		t.Errorf("after the last sandbox and a prune, %q is mounted", left)
	}
}

// TestDamage: one byte that changed in the store is found before it is used, and named.
func TestDamage(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	name := ref("busybox:1")
	m.ok("image", "pull", name)
	hex := strings.TrimPrefix(m.inspect(name).Digest, "sha256:")
	spoil(t, filepath.Join(m.store, "roots", hex+".erofs"))
	m.fails([]string{hex + ".erofs"}, "run", "--pull", "never", name)
	m.fails([]string{hex + ".erofs"}, "image", "verify")
	m.ok("run", "--pull", "always", name) // which makes it anew
	m.ok("image", "verify")
	blobs, _ := filepath.Glob(filepath.Join(m.store, "blobs/sha256/*"))
	for _, b := range blobs {
		spoil(t, b)
		m.fails([]string{filepath.Base(b)}, "image", "verify")
		m.ok("image", "pull", name) // what was found is set aside, and comes anew
	}
	m.ok("image", "verify")
}

// spoil turns one bit of a file over.
func spoil(t *testing.T, name string) {
	t.Helper()
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, st.Size()/2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, st.Size()/2); err != nil {
		t.Fatal(err)
	}
}
