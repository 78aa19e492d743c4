package image

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"brig/internal/image"
	"brig/test/image/fixture"
)

// dockerArchive is what docker writes, with names of a test's choosing.
func dockerArchive(t *testing.T, o *forged, names ...string) string {
	t.Helper()
	o.config["rootfs"] = map[string]any{"type": "layers", "diff_ids": o.diffIDs}
	var files []string
	for i := range o.layers {
		files = append(files, fmt.Sprintf("%d.tar.gz", i))
	}
	list := []map[string]any{{"Config": "config.json", "RepoTags": names, "Layers": files}}
	data := archive(t, func(w *fixture.Tar) {
		w.File("manifest.json", string(marshal(t, list)))
		w.File("config.json", string(marshal(t, o.config)))
		for i, l := range o.layers {
			w.File(files[i], string(l))
		}
	})
	path := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestNamedLikeADigest: an archive calls its image by the digest of another, in the ways that the grammar of references allows. The digest
// goes on to be that of the other.
func TestNamedLikeADigest(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	d := f.push(saying(t, "good"), "1")
	evil := dockerArchive(t, saying(t, "evil"), string(d), d.Hex(), "sha256:"+d.Hex()[:12], "docker.io/library/"+d.Hex())
	m.ok("image", "load", "-i", evil)
	m.fails([]string{"not here"}, "run", "--pull", "never", string(d))
	m.fails([]string{"not here"}, "run", "--pull", "never", d.Hex())
	m.ok("image", "pull", f.ref("forged:1"))
	for _, name := range []string{string(d), d.Hex(), "sha256:" + d.Hex()[:12], f.ref("forged@" + string(d))} {
		if out := m.ok("run", "--pull", "never", name); out != "good\n" {
			t.Errorf("%s printed %q", name, out)
		}
	}
}

// TestDigestLikeAName: an image whose digest begins with what is a name, too (here the other way round) is not taken for the image of that
// name where that has to be signed.
func TestDigestLikeAName(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	mine := m.signer("mine")
	d := f.push(saying(t, "evil"), "1")
	m.ok("image", "pull", f.ref("forged:1"))
	m.etc(fmt.Sprintf("[[trust.registry]]\nprefix = \"docker.io\"\nrequire = \"signed\"\nkeys = [%q]\n", mine.public))
	m.ok("run", f.ref("forged:1"))
	m.ok("run", "--pull", "never", "sha256:"+d.Hex()[:8])
	m.fails([]string{"is not signed by", "docker.io"}, "run", "--pull", "never", d.Hex()[:8])
}

// orders are what terminals obey, and what turns the order of letters round.
var orders = regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f\x{80}-\x{9f}\x{202a}-\x{202e}\x{2066}-\x{2069}]`)

// TestTerminalOrders: nothing that an image, an index or an archive says reaches the terminal as an order, neither in what is shown nor in
// an error.
func TestTerminalOrders(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	const bad = "x\x1b]0;owned\x07\x1b[2Jy\u009b31m\u202ez"
	quiet := func(args ...string) {
		t.Helper()
		r := m.brig(args...)
		if at := orders.FindString(r.out + r.err); at != "" {
			t.Errorf("brig %s: the terminal got %q in %q, %q", strings.Join(args, " "), at, r.out, r.err)
		}
	}
	o := saying(t, "word")
	config := o.config["config"].(map[string]any)
	config["Labels"], config["User"], config["Env"] = map[string]string{bad: bad}, "", []string{"A=" + bad}
	config["Cmd"] = []string{"/bin/echo", bad}
	o.config["author"], o.config["created"], o.config["history"] = bad, bad, []any{map[string]any{"created_by": bad, "comment": bad, "created": bad}}
	d := f.push(o, "shown")
	name := f.ref("forged:shown")
	m.ok("image", "pull", name)
	for _, args := range [][]string{{"image", "ls"}, {"image", "inspect", name}, {"image", "history", name}} {
		quiet(args...)
	}
	m.ok("run", "-d", "--name", "shown", "--entrypoint", "/bin/sh", name, "-c", "true "+bad)
	quiet("ps", "-a")
	quiet("inspect", "shown")
	m.brig("wait", "shown")
	quiet("rm", "-f", "shown")
	for what, change := range map[string]func(o *forged){
		"a signal": func(o *forged) { o.config["config"].(map[string]any)["StopSignal"] = bad },
		"a user":   func(o *forged) { o.config["config"].(map[string]any)["User"] = bad },
		"a folder": func(o *forged) { o.config["config"].(map[string]any)["WorkingDir"] = bad },
		"a volume": func(o *forged) {
			o.config["config"].(map[string]any)["Volumes"] = map[string]any{"/" + bad: map[string]any{}}
		},
		"a program":      func(o *forged) { o.config["config"].(map[string]any)["Cmd"] = []string{"/bin/" + bad} },
		"an environment": func(o *forged) { o.config["config"].(map[string]any)["Env"] = []string{bad} },
		"a platform":     func(o *forged) { o.config["architecture"] = bad },
		"a system":       func(o *forged) { o.config["os"] = bad },
		"a rootfs":       func(o *forged) { o.config["rootfs"] = map[string]any{"type": bad} },
		"a media type": func(o *forged) {
			o.manifest["layers"] = []any{described(f.blob(o.layers[0]), bad+"encrypted")}
		},
	} {
		o := saying(t, "word")
		change(o)
		tag := strings.ReplaceAll(what, " ", "-")
		f.push(o, tag)
		quiet("run", f.ref("forged:"+tag))
	}
	index := map[string]any{"schemaVersion": 2, "mediaType": image.MediaIndex, "manifests": []any{
		map[string]any{"mediaType": image.MediaManifest, "digest": d, "size": 1, "platform": map[string]any{"os": bad, "architecture": bad}}}}
	f.put("PUT", "/v2/forged/manifests/index", image.MediaIndex, marshal(t, index))
	quiet("image", "pull", f.ref("forged:index"))
	// An archive says itself for which platform it is, and is not asked.
	foreign := saying(t, "word")
	foreign.config["architecture"], foreign.config["variant"] = "amd64"+bad, bad
	path := dockerArchive(t, foreign, "loaded:1", bad)
	quiet("image", "load", "-i", path)
	quiet("image", "ls")
	quiet("run", "--pull", "never", "loaded:1")
}

// TestStrangeConfigs: what an image's configuration says is obeyed within the sandbox, or refused in words; it never reaches the host.
func TestStrangeConfigs(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	for i, c := range []struct {
		config map[string]any
		says   string // of the refusal; "" when it runs
	}{
		{map[string]any{"User": "4294967295"}, "no id"},
		{map[string]any{"User": "4294967296"}, "no id"},
		{map[string]any{"User": "18446744073709551616"}, "no id"},
		{map[string]any{"User": "-1"}, "no id"},
		{map[string]any{"User": "0:-1"}, "no id"},
		{map[string]any{"User": ":0"}, "user"},
		{map[string]any{"User": "0:"}, "group"},
		{map[string]any{"User": "root:nobody-knows"}, "nobody-knows"},
		{map[string]any{"User": "../../etc/passwd"}, "etc/passwd"},
		{map[string]any{"User": "ro\x00ot"}, "user"},
		{map[string]any{"Env": []string{"A=b\x00c"}}, "Env"},
		{map[string]any{"Env": []string{"=x"}}, "Env"},
		{map[string]any{"Env": []string{"none"}}, "Env"},
		{map[string]any{"Env": []string{"A=b\nc", "LD_PRELOAD=/x", "BRIG_STORE=/x"}}, ""},
		{map[string]any{"WorkingDir": "../../../.."}, ""},
		{map[string]any{"WorkingDir": "/proc/1/cwd"}, "/proc/1/cwd"},
		{map[string]any{"WorkingDir": "/a\x00b"}, "NUL"},
		{map[string]any{"WorkingDir": "/etc/passwd"}, "etc/passwd"},
		{map[string]any{"Volumes": map[string]any{"/": nil}}, "Volumes"},
		{map[string]any{"Volumes": map[string]any{"": nil}}, "Volumes"},
		{map[string]any{"Volumes": map[string]any{"/proc": nil}}, "Volumes"},
		{map[string]any{"Volumes": map[string]any{"/proc/self": nil}}, "Volumes"},
		{map[string]any{"Volumes": map[string]any{"/tmp/../dev": nil}}, "Volumes"},
		{map[string]any{"Volumes": map[string]any{"/sys/fs/cgroup": nil}}, "Volumes"},
		{map[string]any{"Volumes": map[string]any{"relative": nil}}, "Volumes"},
		{map[string]any{"Volumes": map[string]any{"/v\x00": nil}}, "Volumes"},
		{map[string]any{"Entrypoint": []string{"/bin/echo\x00"}}, "NUL"},
		{map[string]any{"Cmd": []string{"/bin/echo", "a\x00b"}}, "NUL"},
		{map[string]any{"Cmd": []string{""}}, "empty"},
		{map[string]any{"StopSignal": "9999"}, "StopSignal"},
		{map[string]any{"StopSignal": "-1"}, "StopSignal"},
		{map[string]any{"StopSignal": "0"}, "StopSignal"},
		{map[string]any{"StopSignal": "SIG"}, "StopSignal"},
	} {
		o := saying(t, "ran")
		for k, v := range c.config {
			o.config["config"].(map[string]any)[k] = v
		}
		tag := fmt.Sprintf("c%d", i)
		f.push(o, tag)
		r := m.brig("run", f.ref("forged:"+tag))
		text, _ := json.Marshal(c.config)
		switch {
		case c.says == "" && (r.code != 0 || r.out != "ran\n"):
			t.Errorf("%s: exit code %d, %q: %s", text, r.code, r.out, r.err)
		case c.says != "" && (r.code == 0 || !strings.Contains(r.err, c.says)):
			t.Errorf("%s: exit code %d, %q; the error does not say %q: %s", text, r.code, r.out, c.says, r.err)
		}
	}
}

// TestVolumesThroughLinks: a volume is where its path leads to in the image, and not over what the kernel says.
func TestVolumesThroughLinks(t *testing.T) {
	t.Parallel()
	m, f := newMachine(t), newForge(t)
	for i, c := range []struct{ to, says string }{
		{"/proc", "Volumes"}, {"../../proc/self", "Volumes"}, {"other", "Volumes"}, {"/sys/fs/cgroup", "Volumes"}, {"mnt/../dev", "Volumes"},
		{"/", "Volumes"}, {"v", "Volumes"}, {"/mnt", ""},
	} {
		o := newForged(t, func(w *fixture.Tar) {
			w.Symlink("v", c.to)
			w.Symlink("other", "/dev")
		})
		o.config["config"] = map[string]any{"Cmd": []string{"/bin/sh", "-c", "echo x > /mnt/new && cat /mnt/new"}, "Volumes": map[string]any{"/v/": nil}}
		tag := fmt.Sprintf("v%d", i)
		f.push(o, tag)
		r := m.brig("run", f.ref("forged:"+tag))
		if c.says == "" && r.out != "x\n" || c.says != "" && (r.code == 0 || !strings.Contains(r.err, c.says)) {
			t.Errorf("a link to %s: exit code %d, %q, %s", c.to, r.code, r.out, r.err)
		}
	}
}
