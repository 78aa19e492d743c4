package attack

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// host folders that hostile root file systems point at.
type outside struct {
	dir    string // with folders and files that a link can lead to
	canary string // a file in it
	before string
}

// newOutside makes folders of the host's that nothing may change.
func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{dir: filepath.Join(bench.dir, "outside-"+random())}
	o.canary = filepath.Join(o.dir, "canary-"+random())
	for _, dir := range []string{"", "dir", "self/attr", "sys/kernel", "fd"} {
		if err := os.MkdirAll(filepath.Join(o.dir, dir), 0o777); err != nil { //nolint:gosec // open to attacks
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		filepath.Base(o.canary): "the host's\n", "file": "a file\n", "passwd": "evil:x:0:0::/:/bin/sh\n", "group": "evil:x:0:\n",
		"prog": "#!/bin/sh\necho ESCAPED a program of the host ran\nexit 42\n",
	} {
		if err := os.WriteFile(filepath.Join(o.dir, name), []byte(text), 0o777); err != nil { //nolint:gosec // open to attacks
			t.Fatal(err)
		}
	}
	if err := unix.Chmod(o.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	o.before = o.look(t)
	return o
}

func random() string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// look describes everything in the folders.
func (o *outside) look(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(o.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintln(&text, strings.TrimPrefix(path, o.dir), st.Ino, st.Mode, st.Uid, st.Gid, st.Size, st.Mtim, st.Ctim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// unchanged demands that the folders are as they were made.
func (o *outside) unchanged(t *testing.T) {
	t.Helper()
	if now := o.look(t); now != o.before {
		t.Errorf("the host's folders were changed:\nbefore:\n%s\nafter:\n%s", o.before, now)
	}
}

// newRoot is a root file system of the test's own.
func newRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(bench.dir, "root-"+random())
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "run", "root", "data", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil { //nolint:gosec // a root file system
			t.Fatal(err)
		}
	}
	for name, from := range map[string]string{"attack": bench.attacker, "bin/sh": "bin/busybox"} {
		if !filepath.IsAbs(from) {
			from = filepath.Join(bench.rootfs, from)
		}
		if err := os.Link(from, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")
	return root
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil { //nolint:gosec // for users of sandboxes
		t.Fatal(err)
	}
}

// replace puts something else in the place of a file or folder of a root.
func replace(t *testing.T, path string, put func(path string) error) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := put(path); err != nil {
		t.Fatal(err)
	}
}

func linkTo(target string) func(string) error {
	return func(path string) error { return os.Symlink(target, path) }
}

// refused tells whether brig itself said no, in one line for a person.
func (r result) refused() bool {
	return r.code >= 125 && r.code <= 127 && strings.HasPrefix(r.errors, "brig: ") && strings.Count(strings.TrimSpace(r.errors), "\n") == 0
}

// holds demands that a sandbox was refused, or that it ran and held.
func holds(t *testing.T, r result) {
	t.Helper()
	if r.refused() {
		t.Logf("refused: %s", r.errors)
		count("hostile", "refused")
		return
	}
	word, reason := r.verdict()
	if reason == "/proc/sysrq-trigger can be written" { // the last that the attacker looks at
		if _, ok := testenv.Differs(listed{t, "TestAttacks/sysrq"}); ok {
			word = "HELD"
		}
	}
	if word != "HELD" {
		t.Errorf("%s: %s", word, reason)
		return
	}
	count("hostile", "HELD")
}

// hostile are things to find in the place of a folder or a file.
func hostile(o *outside, place string) map[string]func(string) error {
	return map[string]func(string) error{
		"link-to-outside":    linkTo(o.dir),
		"link-to-dir":        linkTo(o.dir + "/dir"),
		"link-to-root":       linkTo("/"),
		"link-up":            linkTo(strings.Repeat("../", 20) + o.dir),
		"link-to-proc-root":  linkTo("/proc/1/root"),
		"link-to-proc-self":  linkTo("/proc/self/cwd"),
		"link-to-proc-fd":    linkTo("/proc/self/fd/7"),
		"link-to-tmp":        linkTo("/var/tmp"),
		"link-to-core":       linkTo("/proc/sys/kernel/core_pattern"),
		"link-to-itself":     linkTo(filepath.Base(place)),
		"dangling":           linkTo("/nowhere/at/all"),
		"file":               func(p string) error { return os.WriteFile(p, []byte("x"), 0o644) }, //nolint:gosec // hostile
		"fifo":               func(p string) error { return unix.Mkfifo(p, 0o666) },
		"socket":             func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o666, 0) },
		"disk":               func(p string) error { return unix.Mknod(p, unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))) }, //nolint:gosec // a device
		"missing":            func(string) error { return nil },
		"folder-nobody-owns": func(p string) error { return mkdirMode(p, 0o000) },
	}
}

// TestHostilePlaces has roots whose /proc, /sys, /dev, /tmp, /run are something else (CVE-2019-19921, CVE-2023-27561,
// CVE-2023-28642, CVE-2025-31133, CVE-2025-52565, CVE-2026-41579).
func TestHostilePlaces(t *testing.T) {
	t.Parallel()
	need(t)
	for _, place := range []string{"proc", "sys", "dev", "tmp", "run", "root", "dev/pts", "dev/shm", "dev/null", "dev/console", "dev/mqueue", "proc/sys"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			o := newOutside(t)
			for name, put := range hostile(o, place) {
				t.Run(name, func(t *testing.T) {
					root := newRoot(t)
					at := filepath.Join(root, place)
					if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil { //nolint:gosec // a root file system
						t.Fatal(err)
					}
					replace(t, at, put)
					var flags []string
					if strings.HasPrefix(place, "dev") {
						flags = []string{"-t"} // the console and the pseudo-terminals are used
					}
					r := run(t, view{flags: []string{"--rootfs", root}}, flags, "inside", o.canary)
					r.out = strings.ReplaceAll(r.out, "\r", "")
					holds(t, r)
					o.unchanged(t)
				})
			}
		})
	}
}

func mkdirMode(path string, mode uint32) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return unix.Chmod(path, mode)
}

// targets are where links in a root file system lead.
func targets(o *outside) map[string]string {
	return map[string]string{
		"outside": o.dir, "dir": o.dir + "/dir", "file": o.dir + "/file", "up": strings.Repeat("../", 20) + o.dir,
		"proc": "/proc/1/root", "fd": "/proc/self/fd/7", "cwd": "/proc/self/cwd", "proc-sys": "/proc/sys/kernel", "self": "data", "dangling": "/no/where",
	}
}

// TestHostileTargets mounts on places that lead out of the root (CVE-2021-30465, CVE-2024-45310, CVE-2026-47766).
func TestHostileTargets(t *testing.T) {
	t.Parallel()
	need(t)
	for _, mount := range []struct {
		name  string
		flags func(o *outside, target string) []string
	}{
		{"folder", func(_ *outside, target string) []string { return []string{"-v", bench.dir + "/volume:" + target} }},
		{"file", func(_ *outside, target string) []string { return []string{"-v", bench.dir + "/volume/file:" + target} }},
		{"tmpfs", func(_ *outside, target string) []string { return []string{"--tmpfs", target} }},
		{"device", func(_ *outside, target string) []string { return []string{"--device", "/dev/full:" + target} }},
	} {
		t.Run(mount.name, func(t *testing.T) {
			t.Parallel()
			for _, target := range []string{"/data", "/data/sub", "/data/a/b/c", "/data/dir", "/data/file"} {
				o := newOutside(t)
				for name, to := range targets(o) {
					for _, writable := range []string{"--read-only=true", "--read-only=false"} {
						t.Run(strings.Join([]string{target[1:], name, writable[12:]}, "-"), func(t *testing.T) {
							root := newRoot(t)
							replace(t, filepath.Join(root, "data"), linkTo(to))
							holds(t, run(t, view{flags: []string{"--rootfs", root}}, append(mount.flags(o, target), writable), "inside", o.canary))
							o.unchanged(t)
						})
					}
				}
			}
		})
	}
}

// TestNaive is the control of the hostile roots: a set-up by path strings, as a shell script has it, changes the host's
// folders, mounts over them, and takes what lies there for the sandbox's own.
func TestNaive(t *testing.T) {
	t.Parallel()
	need(t)
	naive := func(o *outside, root, script string) result {
		c := command(t.Context(), "/bin/sh", "-c", script)
		c.Env = append(c.Env, "ROOT="+root, "OUTSIDE="+o.dir, "VOLUME="+filepath.Join(bench.dir, "volume"))
		c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Cloneflags: unix.CLONE_NEWPID}
		return finish(c)
	}
	for name, c := range map[string]struct{ link, script string }{
		"CVE-2024-45310-mkdir":  {"data", `mkdir -p "$ROOT/data/sub" && test -d "$OUTSIDE/sub" && echo ESCAPED`},
		"CVE-2021-30465-mount":  {"data", `mount --bind "$VOLUME" "$ROOT/data" && test -e "$OUTSIDE/file" && ! test -e "$OUTSIDE/dir" && echo ESCAPED`},
		"CVE-2019-19921-proc":   {"proc", `mount -t proc proc "$ROOT/proc" && test -d "$OUTSIDE/1" && echo ESCAPED`},
		"CVE-2025-52565-dev":    {"dev", `mknod "$ROOT/dev/full" c 1 7 && test -c "$OUTSIDE/full" && echo ESCAPED`},
		"CVE-2025-31133-null":   {"etc", `echo x > "$ROOT/etc/new" && test -e "$OUTSIDE/new" && echo ESCAPED`},
		"CVE-2024-23652-remove": {"tmp", `rm -rf "$ROOT"/tmp/* && ! test -e "$OUTSIDE/file" && echo ESCAPED`},
	} {
		t.Run(name, func(t *testing.T) {
			o, root := newOutside(t), newRoot(t)
			replace(t, filepath.Join(root, c.link), linkTo(o.dir))
			if r := naive(o, root, c.script); !strings.Contains(r.out, "ESCAPED") {
				t.Errorf("the attack does not work on a naive set-up either: %+v", r)
			}
			count("control", "ESCAPED")
		})
	}
}

// TestCVE_2024_23652 ends sandboxes whose program has put links where mounts were made, and a set-up that fails half way:
// nothing is followed when they are taken away.
func TestCVE_2024_23652(t *testing.T) {
	t.Parallel()
	need(t)
	for _, failing := range []bool{false, true} {
		o, root := newOutside(t), newRoot(t)
		args := []string{"run", "-e", bench.mark, "--rootfs", root, "--read-only=false", "-v", o.dir + "/dir:/data/deep/vol", "-v", o.dir + ":/data/out:ro", "--tmpfs", "/data/ram"}
		script := "cd /; mv data was; for n in data proc2 tmp2; do ln -s " + o.dir + " $n; done; ln -s " + o.dir + " /data/ram/x 2>/dev/null; exit 0"
		if failing {
			args = append(args, "-v", o.dir+"/file:/bin") // a file over a folder: refused
		}
		r := brig(t, append(args, "--", "/bin/sh", "-c", script)...)
		if (r.code != 0) != failing {
			t.Errorf("%+v", r)
		}
		o.unchanged(t)
		if _, err := os.Stat(filepath.Join(root, "attack")); err != nil {
			t.Error(err)
		}
	}
}

// TestCVE_2021_30465 swaps the folder of a mount's target for a link to the host, and back, while sandboxes start.
func TestCVE_2021_30465(t *testing.T) {
	t.Parallel()
	need(t)
	o, root := newOutside(t), newRoot(t)
	folder, link := filepath.Join(root, "data"), filepath.Join(root, "other")
	if err := os.Symlink(o.dir, link); err != nil {
		t.Fatal(err)
	}
	// Where the link leads inside the root: a mount there is no escape.
	if err := os.MkdirAll(filepath.Join(root, o.dir), 0o755); err != nil { //nolint:gosec // a root file system
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var swapper sync.WaitGroup
	swaps := 0
	swapper.Go(func() {
		for ctx.Err() == nil {
			if err := unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
			swaps++
		}
	})
	started := 0
	for i := range 200 {
		target := []string{"/data", "/data/sub", "/data/a/b"}[i%3]
		r := run(t, view{flags: []string{"--rootfs", root}}, []string{"--read-only=false", "-v", bench.dir + "/volume:" + target}, "inside", o.canary)
		holds(t, r)
		if r.code == 0 {
			started++
		}
	}
	stop()
	swapper.Wait()
	o.unchanged(t)
	if _, none := testenv.Differs(t); none {
		started++ // each start that was tried was held to be refused or harmless
	}
	if started == 0 || swaps < 200 {
		t.Errorf("no race was run: %d sandboxes started, %d swaps", started, swaps)
	}
	t.Logf("%d of 200 sandboxes started over %d swaps", started, swaps)
}

// leads opens the host's root several times, for a runtime to inherit, and gives working directories that could lead there: those of
// the first descriptors, and a link of the root file system's.
func leads(t *testing.T, fds int) (root string, top []*os.File, dirs []string) {
	t.Helper()
	for range 6 {
		f, err := os.Open("/")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		top = append(top, f)
	}
	root = newRoot(t)
	replace(t, filepath.Join(root, "data"), linkTo("/proc/self/fd/7"))
	dirs = []string{"/data", "/data/..", "/proc/self/cwd", "/proc/self/root", "/proc/1/root", "/proc/self/cwd/../../..", "/proc/thread-self/cwd", "/dev/fd/7", "/proc/1/cwd"}
	for fd := range fds {
		dirs = append(dirs, fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	return root, top, dirs
}

// TestCVE_2024_21626 asks for working directories that lead to descriptors, with descriptors of the host's root open in
// brig, marked and not marked to be closed.
func TestCVE_2024_21626(t *testing.T) {
	t.Parallel()
	need(t)
	root, top, dirs := leads(t, 32)
	for _, preset := range presets {
		for _, dir := range dirs {
			c := brigCommand(t.Context(), runArgs(view{flags: []string{"--rootfs", root}}, []string{"--preset", preset, "-w", dir}, "cwd", bench.canary)...)
			c.ExtraFiles = top
			if !t.Run(preset+dir, func(t *testing.T) { holds(t, finish(c)) }) {
				return
			}
		}
	}
	c := brigCommand(t.Context(), runArgs(view{flags: []string{"--rootfs", root}}, nil, "fds")...)
	c.ExtraFiles = top
	holds(t, finish(c))
	// The control: the same descriptors without a sandbox.
	c = command(t.Context(), bench.attacker, "fds")
	c.ExtraFiles = top
	if word, reason := finish(c).verdict(); word != "ESCAPED" {
		t.Errorf("control: %s %s", word, reason)
	}
}

// TestFolderAsStream gives a sandbox a folder of the host's as a standard stream, a way to everything beside it.
func TestFolderAsStream(t *testing.T) {
	t.Parallel()
	need(t)
	top, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	for _, v := range views() {
		c := brigCommand(t.Context(), runArgs(v, []string{"-i"}, "cwd", bench.canary)...)
		c.Stdin = top
		r := finish(c)
		if !r.refused() {
			t.Errorf("%s: a folder as standard input was not refused: %+v", v.name, r)
		}
	}
	c := command(t.Context(), bench.attacker, "cwd", bench.canary)
	c.Stdin, c.SysProcAttr = top, &syscall.SysProcAttr{}
	c.SysProcAttr.Chroot, c.Path, c.Dir = bench.rootfs, "/attack", "/"
	if word, reason := finish(c).verdict(); word != "ESCAPED" {
		t.Errorf("control: %s %s", word, reason)
	}
}
