package oci

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// put writes a file into the root file system or, with an absolute name, elsewhere.
func (e *engine) put(name, text string, mode os.FileMode) string {
	e.t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(e.bundle, "rootfs", name)
	}
	err := os.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		err = os.WriteFile(name, []byte(text), mode)
	}
	if err == nil {
		err = os.Chmod(name, mode)
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return name
}

func (e *engine) mount(m specs.Mount) { e.spec.Mounts = append(e.spec.Mounts, m) }

// mapped gives the container a user namespace.
func (e *engine) mapped() {
	e.namespace(specs.UserNamespace)
	maps := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	e.spec.Linux.UIDMappings, e.spec.Linux.GIDMappings = maps, maps
	e.open()
}

// TestTmpCopyUp: the tmpfs holds what it covers, with owners, modes, links and attributes, and what is changed in it stays in it.
func TestTmpCopyUp(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("stat", "readlink", "ls", "rm")
	inner := e.put("data/deep/down/file", "kept", 0o755)
	e.put("data/plain", "old", 0o600)
	dir := filepath.Join(e.bundle, "rootfs/data")
	for _, err := range []error{
		os.Chown(inner, 12, 34), unix.Chmod(dir, 0o1753), os.Symlink("/etc/passwd", filepath.Join(dir, "link")), unix.Mkfifo(filepath.Join(dir, "pipe"), 0o640),
		unix.Setxattr(inner, "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
		unix.Chmod(inner, 0o4755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	e.mount(specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup", "nosuid"}})
	e.script(`stat -f -c %T /data; stat -c '%a' /data; stat -c '%a %u:%g' /data/deep/down/file; cat /data/deep/down/file; echo; readlink /data/link
stat -c '%F %a' /data/pipe; echo new >/data/plain; rm -r /data/deep; ls /data`)
	out := e.want(0, "", "run", "--bundle", e.bundle, "up")
	kind := "tmpfs"
	if differs(t) {
		kind = "UNKNOWN"
	}
	if want := kind + "\n1753\n4755 12:34\nkept\n/etc/passwd\nfifo 640\nlink\npipe\nplain\n"; out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "plain")); err != nil || string(text) != "old" {
		t.Errorf("the file below: %q, %v", text, err)
	}
	if _, err := os.Stat(inner); err != nil {
		t.Error(err)
	}
	// Read-only from the first instant, and a mode that is given wins.
	e.spec.Mounts[len(e.spec.Mounts)-1].Options = []string{"tmpcopyup", "ro", "mode=711"}
	e.script("stat -c %a /data; cat /data/plain; echo x >/data/plain")
	e.want(1, "711\noldsh: can't create /data/plain: Read-only file system", "run", "--bundle", e.bundle, "up")
	// A folder that is a link out of the root file system is one inside it.
	if err := os.Symlink("/../../../../etc", filepath.Join(e.bundle, "rootfs/out")); err != nil {
		t.Fatal(err)
	}
	e.put("etc/own", "inside", 0o644)
	e.spec.Mounts[len(e.spec.Mounts)-1] = specs.Mount{Destination: "/out", Type: "tmpfs", Options: []string{"tmpcopyup"}}
	e.script("ls /etc; cat /out/own")
	e.want(0, "own\ninside", "run", "--bundle", e.bundle, "up")
}

// TestTmpfsMode: a tmpfs without a mode has that of the folder it covers, as under runc.
func TestTmpfsMode(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("stat")
	e.put("var/spool/x", "", 0o644)
	if err := unix.Chmod(filepath.Join(e.bundle, "rootfs/var/spool"), 0o1730); err != nil {
		t.Fatal(err)
	}
	e.mount(specs.Mount{Destination: "/var/spool", Type: "tmpfs"})
	e.mount(specs.Mount{Destination: "/run", Type: "tmpfs", Options: []string{"mode=700"}})
	e.spec.Root.Readonly = false
	e.mount(specs.Mount{Destination: "/new", Type: "tmpfs"})
	e.script("stat -c %a /var/spool /run /new")
	e.want(0, "1730\n700\n1777\n", "run", "--bundle", e.bundle, "modes")
}

// TestIDMapOption: crun's form with the maps in the option, absolute and relative.
func TestIDMapOption(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("stat")
	e.mapped()
	dir := t.TempDir()
	file := e.put(filepath.Join(dir, "file"), "", 0o644)
	if err := os.Chown(file, 7, 8); err != nil {
		t.Fatal(err)
	}
	e.put("data/x", "", 0o644)
	for option, want := range map[string]string{
		"idmap=uids=0-100000-10;gids=0-100100-10":           "7:108\n",
		"ridmap=uids=7-100055-1#0-100000-5;gids=8-100001-1": "55:1\n",
		"idmap=uids=@0-30-10;gids=@8-5-1":                   "37:5\n",
		"idmap":                                             "7:8\n",
	} {
		e.spec.Mounts = append(e.spec.Mounts[:7:7], specs.Mount{Destination: "/data", Type: "bind", Source: dir, Options: []string{"bind", option}})
		e.script("stat -c %u:%g /data/file")
		e.want(0, want, "run", "--bundle", e.bundle, "ids")
	}
}

// TestLinksAreMountedOn: with src-nofollow a link itself is mounted, with dest-nofollow it is mounted on.
func TestLinksAreMountedOn(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("readlink", "grep")
	dir := t.TempDir()
	e.put(filepath.Join(dir, "file"), "bound", 0o644)
	e.put("etc/real", "real", 0o644)
	for link, to := range map[string]string{filepath.Join(e.bundle, "rootfs/etc/link"): "real", filepath.Join(e.bundle, "rootfs/etc/dangling"): "no/such", filepath.Join(dir, "link"): "/somewhere/else"} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	e.put("place", "", 0o644)
	e.mount(specs.Mount{Destination: "/etc/link", Source: filepath.Join(dir, "file"), Options: []string{"bind", "dest-nofollow"}})
	e.mount(specs.Mount{Destination: "/etc/dangling", Source: filepath.Join(dir, "file"), Options: []string{"bind", "dest-nofollow"}})
	e.mount(specs.Mount{Destination: "/place", Source: filepath.Join(dir, "link"), Options: []string{"bind", "src-nofollow"}})
	e.script("cat /etc/link /etc/real /etc/dangling; echo; readlink /place")
	e.want(0, "boundrealbound\n/somewhere/else\n", "run", "--bundle", e.bundle, "links")
}

// TestRootfsPropagation reads each value back.
func TestRootfsPropagation(t *testing.T) {
	t.Parallel()
	// A shared mount to be the root, in a mount namespace of its own so that the machine's is not touched.
	for value, want := range map[string]string{"": "", "private": "", "rprivate": "", "slave": "master:", "rslave": "master:", "shared": "shared:", "rshared": "shared:", "unbindable": "unbindable", "runbindable": "unbindable"} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t)
			e.tool("grep")
			e.spec.Linux.RootfsPropagation = value
			e.script("grep ' / / ' /proc/self/mountinfo || grep ' / ' /proc/self/mountinfo")
			out, code := e.inSharedNamespace("run", "--bundle", e.bundle, "propagation-"+value)
			if differs(t) {
				want = ""
			}
			line, _, _ := strings.Cut(out, "\n")
			fields, _, _ := strings.Cut(line, " - ")
			got := strings.Fields(fields)
			if len(got) < 6 || code != 0 {
				t.Fatalf("exit code %d, %q", code, out)
			}
			tags := strings.Join(got[6:], " ")
			if want == "" && tags != "" || !strings.HasPrefix(tags, want) {
				t.Errorf("%q in %q, want %q", tags, line, want)
			}
		})
	}
}

// inSharedNamespace calls the runtime in a mount namespace of its own where everything is shared and the bundle is a mount.
func (e *engine) inSharedNamespace(args ...string) (out string, code int) {
	e.t.Helper()
	script := `mount --bind "$0" "$0" && mount --make-rshared / && exec timeout 30 "$@"`
	call := append([]string{"-m", "--propagation", "private", "sh", "-c", script, e.bundle, runtime, "--root", e.root}, args...)
	cmd := exec.Command("unshare", call...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		e.t.Fatal(err)
	}
	testenv.EndRefused(e.t, string(text))
	return string(text), cmd.ProcessState.ExitCode()
}

// TestRecursiveAttributes: of a bind mount with another in it, the plain option is the mount's own, and the r one is both's.
func TestRecursiveAttributes(t *testing.T) {
	t.Parallel()
	for options, want := range map[string]string{
		"rbind,rro": "ro,relatime ro,relatime", "rbind,rnosuid,rnodev": "rw,nosuid,nodev,relatime rw,nosuid,nodev,relatime",
		"rbind,rnoatime,rnoexec": "rw,noexec,noatime rw,noexec,noatime", "bind,ro": "ro,relatime", "rbind,rro,rw": "ro,relatime ro,relatime",
		"rbind,rnodiratime,rstrictatime,rnosymfollow": "rw,nodiratime,nosymfollow rw,nodiratime,nosymfollow",
	} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t)
			e.tool("grep", "cut", "mkdir")
			dir := t.TempDir()
			e.mount(specs.Mount{Destination: "/tmp", Source: dir, Options: strings.Split(options, ",")})
			e.script("echo $(grep -E ' /tmp(/in)? r' /proc/self/mountinfo | cut -d' ' -f6)")
			script := `mkdir "$0/in" && mount -t tmpfs none "$0/in" && exec timeout 30 "$@"`
			cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", script, dir, runtime, "--root", e.root, "run", "--bundle", e.bundle, "recursive-"+strings.ReplaceAll(options, ",", "-"))
			out, err := cmd.CombinedOutput()
			testenv.EndRefused(t, string(out))
			if differs(t) { // one mount, with what its kernel knows of
				want, _, _ = strings.Cut(want, " ")
				want = strings.NewReplacer(",relatime", "", ",noatime", "", ",nodev", "").Replace(want)
			}
			if err != nil || string(out) != want+"\n" {
				t.Errorf("%v, %q, want %q", err, out, want)
			}
		})
	}
}

// TestPropagationOfNewMounts: the options work on mounts that are no bind mounts, too.
func TestPropagationOfNewMounts(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("grep")
	e.mount(specs.Mount{Destination: "/run", Type: "tmpfs", Options: []string{"shared"}})
	e.mount(specs.Mount{Destination: "/tmp", Type: "tmpfs", Options: []string{"unbindable"}})
	e.script("grep -E ' /(run|tmp) ' /proc/self/mountinfo")
	out := e.want(0, " shared:", "run", "--bundle", e.bundle, "new")
	if !strings.Contains(out, " unbindable ") {
		t.Errorf("no unbindable mount in %q", out)
	}
}
