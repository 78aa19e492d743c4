package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brig/internal/testenv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// details is what has to be the same wherever an image was.
type details struct {
	shown
	Manifest struct {
		Config struct{ Digest string }
	}
}

func (m *machine) details(name string) (d details) {
	m.t.Helper()
	text := []byte(m.ok("image", "inspect", "--format", "json", name))
	if err := json.Unmarshal(text, &d); err != nil {
		m.t.Fatal(err)
	}
	return d
}

// engine is a program that loads what brig saved and saves it again.
type engine struct {
	name string
	load func(t *testing.T, file string)
	// id is what it knows the image by: the digest of the configuration, or of what the name points to.
	id     func(t *testing.T, name string) string
	target bool
	save   map[string]func(t *testing.T, file, name string)
}

// TestEngines: what brig saves, docker, podman and containerd load as the same image; what they save of it, brig loads, and it is the same
// file system as before.
func TestEngines(t *testing.T) {
	t.Parallel()
	newMachine(t)
	for _, start := range []func(t *testing.T) engine{podman, docker, containerd} {
		e := start(t)
		t.Run(e.name, func(t *testing.T) {
			for _, name := range []string{ref("busybox:1"), ref("plain:1"), ref("users:1"), ref("busybox:index")} {
				m := newMachine(t)
				m.ok("image", "pull", name)
				want := m.details(name)
				for _, format := range []string{"oci", "docker"} {
					if format == "docker" && e.target {
						continue // the manifest that containerd makes of one is its own
					}
					file := filepath.Join(m.dir, format+".tar")
					m.ok("image", "save", "--format", format, "-o", file, name)
					e.load(t, file)
					id := want.Manifest.Config.Digest
					if e.target {
						id = want.Target
					}
					if got := e.id(t, name); got != id {
						t.Errorf("%s, format %s: %s has it as %s, and it is %s", name, format, e.name, got, id)
					}
				}
				for how, save := range e.save {
					file := filepath.Join(m.dir, how+"-back.tar")
					save(t, file, name)
					back := newMachine(t)
					back.ok("image", "load", "-i", file)
					if got := back.details(name); got.Verity != want.Verity || e.target && got.Target != want.Target {
						t.Errorf("%s, saved by %s (%s), is %+v, and was %+v", name, e.name, how, got, want)
					}
					back.ok("image", "verify")
				}
			}
		})
	}
}

// started has a daemon run until the test ends, in a folder that goes away.
func started(t *testing.T, kind string, line func(dir string) []string, ready func(dir string) *exec.Cmd) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "brig-"+kind+"-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	var daemon *exec.Cmd
	t.Cleanup(func() {
		if daemon != nil && daemon.Process != nil {
			_ = daemon.Process.Signal(unix.SIGTERM)
			_ = daemon.Wait()
		}
		list, _ := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		for i := len(list) - 1; i >= 0; i-- {
			_ = unix.Unmount(list[i].Mountpoint, unix.MNT_DETACH)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if line == nil {
		return dir
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	argv := line(dir)
	daemon = exec.Command(argv[0], argv[1:]...)
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if ready(dir).Run() == nil {
			return dir
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("%s does not answer: %s", argv[0], text)
		}
	}
}

func podman(t *testing.T) engine {
	t.Helper()
	testenv.Check(t, testenv.Program("podman"))
	dir := started(t, "podman", nil, nil)
	call := func(t *testing.T, args ...string) string {
		t.Helper()
		return output(t, "podman", append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp", "--storage-driver", "vfs",
			"--events-backend", "none"}, args...)...)
	}
	save := func(format string) func(*testing.T, string, string) {
		return func(t *testing.T, file, name string) { call(t, "save", "-q", "--format", format, "-o", file, name) }
	}
	return engine{
		name: "podman",
		load: func(t *testing.T, file string) { call(t, "load", "-q", "-i", file) },
		id: func(t *testing.T, name string) string {
			return "sha256:" + strings.TrimSpace(call(t, "image", "inspect", "--format", "{{.Id}}", name))
		},
		save: map[string]func(*testing.T, string, string){
			"docker-archive": save("docker-archive"), "oci-archive": save("oci-archive"),
			"several": func(t *testing.T, file, name string) { call(t, "save", "-q", "-m", "-o", file, name) },
		},
	}
}

func docker(t *testing.T) engine {
	t.Helper()
	testenv.Check(t, testenv.Program("docker"), testenv.Program("dockerd"))
	client := func(dir string, args ...string) *exec.Cmd {
		return exec.Command("docker", append([]string{"-H", "unix://" + dir + "/sock"}, args...)...)
	}
	dir := started(t, "docker", func(dir string) []string {
		return []string{"dockerd", "--data-root", dir + "/data", "--exec-root", dir + "/exec", "-p", dir + "/pid", "-H", "unix://" + dir + "/sock",
			"--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"}
	}, func(dir string) *exec.Cmd { return client(dir, "version") })
	call := func(t *testing.T, args ...string) string {
		t.Helper()
		out, err := client(dir, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	return engine{
		name: "docker",
		load: func(t *testing.T, file string) { call(t, "load", "-i", file) },
		id: func(t *testing.T, name string) string {
			return strings.TrimSpace(call(t, "image", "inspect", "--format", "{{.Id}}", name))
		},
		save: map[string]func(*testing.T, string, string){"save": func(t *testing.T, file, name string) { call(t, "save", "-o", file, name) }},
	}
}

func containerd(t *testing.T) engine {
	t.Helper()
	testenv.Check(t, testenv.Program("containerd"), testenv.Program("ctr"))
	client := func(dir string, args ...string) *exec.Cmd {
		return exec.Command("ctr", append([]string{"--address", dir + "/sock", "--namespace", "judge"}, args...)...)
	}
	dir := started(t, "containerd", func(dir string) []string {
		config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = %q\n",
			dir+"/root", dir+"/state", dir+"/sock")
		if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"containerd", "-c", dir + "/config.toml"}
	}, func(dir string) *exec.Cmd { return client(dir, "version") })
	call := func(t *testing.T, args ...string) string {
		t.Helper()
		out, err := client(dir, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ctr %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	return engine{
		name: "containerd", target: true,
		load: func(t *testing.T, file string) { call(t, "images", "import", "--snapshotter", "native", file) },
		id: func(t *testing.T, name string) string {
			for line := range strings.Lines(call(t, "images", "ls", "name=="+name)) {
				if f := strings.Fields(line); len(f) > 2 && f[0] == name {
					return f[2]
				}
			}
			return "nothing"
		},
		save: map[string]func(*testing.T, string, string){"export": func(t *testing.T, file, name string) { call(t, "images", "export", file, name) }},
	}
}

// TestSkopeo: skopeo, which checks every blob, reads what brig saves as each of the two formats, and umoci unpacks the folder.
func TestSkopeo(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	name := ref("busybox:1")
	m.ok("image", "pull", name)
	want := m.details(name)
	file, old, dir := filepath.Join(m.dir, "image.tar"), filepath.Join(m.dir, "old.tar"), filepath.Join(m.dir, "layout")
	m.ok("image", "save", "-o", file, name)
	m.ok("image", "save", "-o", old, "--format", "docker", name)
	m.ok("image", "save", "-o", dir+"/", name)
	for i, from := range []string{"oci-archive:" + file, "oci:" + dir} {
		to := filepath.Join(m.dir, fmt.Sprint("copy", i))
		output(t, "skopeo", "--insecure-policy", "copy", "-q", "--preserve-digests", from+":"+name, "dir:"+to)
		data, err := os.ReadFile(filepath.Join(to, "manifest.json"))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(data); "sha256:"+hex.EncodeToString(sum[:]) != want.Digest {
			t.Errorf("%s has the manifest %x, and it was %s", from, sum, want.Digest)
		}
	}
	for i, from := range []string{"docker-archive:" + file, "docker-archive:" + old} {
		back := newMachine(t)
		to := filepath.Join(back.dir, fmt.Sprint("back", i, ".tar"))
		output(t, "skopeo", "--insecure-policy", "copy", "-q", from+":"+name, "oci-archive:"+to+":"+name)
		back.ok("image", "load", "-i", to)
		if got := back.details(name); got.Verity != want.Verity {
			t.Errorf("%s is another file system", from)
		}
	}
	output(t, "umoci", "unpack", "--image", dir+":"+name, filepath.Join(m.dir, "bundle"))
	if out := output(t, "chroot", filepath.Join(m.dir, "bundle/rootfs"), "/bin/echo", "unpacked"); out != "unpacked\n" {
		t.Errorf("it printed %q", out)
	}
}

// TestSignedAway: a signature goes with an image to a machine that has nothing but the file and the key, and engines that know nothing of
// signatures read the file all the same.
func TestSignedAway(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	mine, other := m.signer("mine"), m.signer("other")
	d := f.push(saying(t, "signed"), "1")
	name := f.ref("forged:1")
	f.sign(mine, f.ref("forged"), d)
	f.attest(mine, d, "https://spdx.dev/Document")
	m.ok("image", "pull", "--verify", mine.public, name)
	f.Close()
	file := filepath.Join(m.dir, "image.tar")
	m.ok("image", "save", "-o", file, name)
	away := newMachine(t)
	away.before = []string{"unshare", "--net"}
	away.fails([]string{"none is by these keys", other.public}, "image", "load", "--verify", other.public, "-i", file)
	away.nothing()
	away.ok("image", "load", "--verify", mine.public, "-i", file)
	if out := away.ok("run", "--verify", mine.public, name); out != "signed\n" {
		t.Errorf("it printed %q", out)
	}
	if out := away.ok("image", "inspect", "--key", mine.public, name); !strings.Contains(out, "https://spdx.dev/Document") {
		t.Errorf("inspect does not show what was attested: %s", out)
	}
	output(t, "skopeo", "--insecure-policy", "copy", "-q", "oci-archive:"+file+":"+name, "oci:"+filepath.Join(m.dir, "copy")+":1")
	for _, start := range []func(t *testing.T) engine{podman, containerd, docker} {
		e := start(t)
		e.load(t, file)
		if got, want := e.id(t, name), m.details(name); got != want.Manifest.Config.Digest && got != want.Target {
			t.Errorf("%s has it as %s", e.name, got)
		}
	}
}

// TestOthers: what buildah and umoci write is loaded; umoci's layouts have tags alone, so that they are named here.
func TestOthers(t *testing.T) {
	t.Parallel()
	newMachine(t)
	i := images.Images["busybox:1"]
	for _, kind := range []string{"oci-archive", "docker-archive", "oci"} {
		t.Run("buildah-"+kind, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			dir := started(t, "buildah", nil, nil)
			call := func(args ...string) string {
				return strings.TrimSpace(output(t, "buildah", append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}, args...)...))
			}
			call("pull", "-q", "oci:"+i.Layout+":"+i.Tag)
			id := strings.Fields(call("images", "-q"))[0]
			to := filepath.Join(m.dir, "image")
			call("push", "-q", id, kind+":"+to+":example.test/built:1")
			m.ok("image", "load", "-i", to)
			if out := m.ok("run", "--pull", "never", "example.test/built:1"); out != "hello from image\n" {
				t.Errorf("it printed %q", out)
			}
		})
	}
	t.Run("umoci", func(t *testing.T) {
		t.Parallel()
		m := newMachine(t)
		dir := filepath.Join(m.dir, "layout")
		output(t, "skopeo", "--insecure-policy", "copy", "-q", "oci:"+i.Layout+":"+i.Tag, "oci:"+dir+":1")
		output(t, "umoci", "config", "--image", dir+":1", "--config.cmd", "/bin/echo", "--config.cmd", "configured")
		m.ok("image", "load", "-i", dir, "--name", "mine:3")
		if out := m.ok("run", "--pull", "never", "mine:3"); out != "configured\n" {
			t.Errorf("it printed %q", out)
		}
		m.ok("image", "load", "-i", dir)
		d := m.inspect("mine:3").Digest
		m.ok("image", "rm", "mine:3")
		if out := m.ok("run", "--pull", "never", d); out != "configured\n" {
			t.Errorf("by its digest it printed %q", out)
		}
	})
}

// TestStreams: an archive goes through pipes, from one machine to another, compressed on its way; nothing is written to a terminal, nor
// is anything left of an archive that is cut off.
func TestStreams(t *testing.T) {
	t.Parallel()
	m, away := newMachine(t), newMachine(t)
	name := ref("users:1")
	m.ok("image", "pull", name)
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	from, to := m.command(ctx, "image", "save", name), away.command(ctx, "image", "load")
	script := func(pipe string) error {
		sh := exec.CommandContext(ctx, "sh", "-c", "set -e; BRIG_STORE=$1 "+from.Path+" image save $3 "+pipe+" BRIG_STORE=$2 "+to.Path+" image load", "sh", m.store, away.store, name)
		out, err := sh.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := script("| head -c 100000 |"); err == nil {
		t.Error("half an archive was loaded")
	}
	away.nothing()
	if err := script("| gzip -1 |"); err != nil {
		t.Fatal(err)
	}
	if a, b := m.inspect(name), away.inspect(name); a.Digest != b.Digest || a.Verity != b.Verity {
		t.Errorf("the image is %+v there, and was %+v", b, a)
	}
	if left, _ := os.ReadDir(filepath.Join(away.store, "tmp")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}
