package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"brig/internal/testenv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The same against brig-oci: a bundle whose root file system, or whose mounts' sources, belong to somebody who wants out. What a
// bundle does not ask for (a filter, a user namespace) it does not have, so root inside is the host's; what is held here
// is held by how a container is set up.

var bundles struct {
	once     sync.Once
	oci      string
	template []byte // config.json, as `brig-oci spec` gives it
	err      error
}

func ociBuilt(t *testing.T) {
	t.Helper()
	need(t)
	bundles.once.Do(func() {
		bundles.oci = filepath.Join(bench.dir, "brig-oci")
		if bundles.err = testenv.Build(bundles.oci, "brig/cmd/brig-oci"); bundles.err != nil {
			return
		}
		dir := filepath.Join(bench.dir, "template")
		if bundles.err = os.Mkdir(dir, 0o700); bundles.err != nil {
			return
		}
		if r := finish(command(context.Background(), bundles.oci, "spec", "--bundle", dir)); r.code != 0 {
			bundles.err = fmt.Errorf("brig-oci spec: %+v", r)
			return
		}
		bundles.template, bundles.err = os.ReadFile(filepath.Join(dir, "config.json"))
	})
	if bundles.err != nil {
		t.Fatal(bundles.err)
	}
}

// container is a bundle and the id of what runs it.
type container struct {
	t          *testing.T
	id, bundle string
}

func newContainer(t *testing.T, root string, change func(*specs.Spec), program ...string) *container {
	t.Helper()
	ociBuilt(t)
	var spec specs.Spec
	err := json.Unmarshal(bundles.template, &spec)
	spec.Root = &specs.Root{Path: root}
	spec.Process.Terminal, spec.Process.Args = false, program
	spec.Process.Env = append(spec.Process.Env, bench.mark)
	// As Docker and containerd have it since 2023; runc's own template is older.
	spec.Linux.MaskedPaths = append(spec.Linux.MaskedPaths, "/proc/kallsyms", "/proc/keys", "/proc/timer_list", "/sys/firmware")
	if change != nil {
		change(&spec)
	}
	c := &container{t: t, id: "attack-" + random()}
	c.bundle = filepath.Join(bench.dir, c.id)
	var text []byte
	if err == nil {
		text, err = json.Marshal(&spec)
	}
	if err == nil {
		err = os.Mkdir(c.bundle, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(c.bundle, "config.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// call runs one of brig-oci's verbs.
func (c *container) call(args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	return finish(command(ctx, bundles.oci, append([]string{"--root", c.state()}, args...)...))
}

func (c *container) state() string { return filepath.Join(bench.dir, "oci-state") }

// run runs the container to its end, and demands that nothing is left of it.
func (c *container) run() result {
	c.t.Helper()
	r := c.call("run", "--bundle", c.bundle, c.id)
	r.out = strings.ReplaceAll(r.out, "\r", "")
	c.gone()
	return r
}

func (c *container) gone() {
	c.t.Helper()
	var left []string
	for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		left, _ = filepath.Glob(filepath.Join(c.state(), c.id))
		for _, pattern := range []string{"/sys/fs/cgroup/brig/", "/sys/fs/cgroup/*/brig/"} {
			groups, _ := filepath.Glob(pattern + c.id + "*")
			left = append(left, groups...)
		}
		if left == nil {
			return
		}
	}
	c.t.Errorf("left: %q", left)
}

// ociHolds demands that a container was refused in one line, or that it ran and held.
func ociHolds(t *testing.T, r result) {
	t.Helper()
	if text := strings.TrimSpace(r.errors); r.code == 1 && strings.Contains(text, "level=error") && strings.Count(text, "\n") == 0 && !strings.Contains(r.out, "ESCAPED") {
		t.Logf("refused: %s", text)
		count("bundles", "refused")
		return
	}
	word, reason := r.verdict()
	if word != "HELD" {
		t.Errorf("%s: %s", word, reason)
		return
	}
	count("bundles", "HELD")
}

func bind(source, target string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: target, Options: append([]string{"rbind"}, options...)}
}

// TestBundleHostilePlaces is TestHostilePlaces for bundles: also for /etc/passwd, where the home of a user is looked up.
func TestBundleHostilePlaces(t *testing.T) {
	t.Parallel()
	ociBuilt(t)
	for _, place := range []string{"proc", "sys", "dev", "tmp", "run", "dev/pts", "dev/shm", "dev/null", "dev/console", "dev/mqueue", "proc/sys", "etc/passwd", "etc", "sys/fs/cgroup"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			o := newOutside(t)
			for name, put := range hostile(o, place) {
				root := newRoot(t)
				at := filepath.Join(root, place)
				if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil { //nolint:gosec // a root file system
					t.Fatal(err)
				}
				replace(t, at, put)
				t.Run(name, func(t *testing.T) {
					ociHolds(t, newContainer(t, root, func(s *specs.Spec) {
						s.Process.Terminal = strings.HasPrefix(place, "dev")
						s.Process.Env = slices.DeleteFunc(s.Process.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") })
					}, "/attack", "inside", o.canary).run())
				})
			}
			o.unchanged(t)
		})
	}
}

// TestBundleHostileTargets mounts, masks and makes devices at places that lead out of the root.
func TestBundleHostileTargets(t *testing.T) {
	t.Parallel()
	ociBuilt(t)
	for kind, add := range map[string]func(s *specs.Spec, o *outside, target string){
		"folder": func(s *specs.Spec, _ *outside, target string) {
			s.Mounts = append(s.Mounts, bind(bench.dir+"/volume", target))
		},
		"file": func(s *specs.Spec, _ *outside, target string) {
			s.Mounts = append(s.Mounts, bind(bench.dir+"/volume/file", target))
		},
		"tmpfs": func(s *specs.Spec, _ *outside, target string) {
			s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: target})
		},
		"tmpcopyup": func(s *specs.Spec, _ *outside, target string) {
			s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: target, Options: []string{"tmpcopyup"}})
		},
		"device": func(s *specs.Spec, _ *outside, target string) {
			s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: target, Type: "c", Major: 1, Minor: 7})
		},
		"masked": func(s *specs.Spec, _ *outside, target string) {
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, target)
		},
		"read-only": func(s *specs.Spec, _ *outside, target string) {
			s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, target)
		},
		"cwd": func(s *specs.Spec, _ *outside, target string) { s.Process.Cwd = target },
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for _, target := range []string{"/data", "/data/sub", "/data/a/b/c", "/data/dir", "/data/file"} {
				o := newOutside(t)
				for name, to := range targets(o) {
					root := newRoot(t)
					replace(t, filepath.Join(root, "data"), linkTo(to))
					t.Run(target[1:]+" "+name, func(t *testing.T) {
						ociHolds(t, newContainer(t, root, func(s *specs.Spec) { add(s, o, target) }, "/attack", "inside", o.canary).run())
					})
				}
				o.unchanged(t)
			}
		})
	}
}

// created runs the container to its end. The names are swapped until it is created and stand still at their own places when
// the program starts: nothing can keep who may write to a root file system from moving what is mounted there later on.
func (c *container) created(stop func() int, swaps *int) result {
	c.t.Helper()
	out, err := os.Create(filepath.Join(c.bundle, "out"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Close()
	args := []string{"--root", c.state(), "create", "--bundle", c.bundle, c.id}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	cmd := command(ctx, bundles.oci, args...)
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, out // no pipe, which the container would hold
	err = cmd.Run()
	*swaps += stop()
	if err == nil {
		if r := c.call("start", c.id); r.code != 0 {
			errs.WriteString(r.errors)
		}
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
			if r := c.call("state", c.id); !strings.Contains(r.out, `"running"`) {
				break
			}
		}
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		c.t.Fatal(err)
	}
	if r := c.call("delete", "--force", c.id); r.code != 0 {
		c.t.Errorf("%+v", r)
	}
	c.gone()
	r := result{code: 1, out: string(text), errors: errs.String() + string(text)}
	for word, code := range map[string]int{"HELD": 0, "ESCAPED": 42, "BROKEN": 3} {
		if strings.HasPrefix(r.out, word) {
			r.code = code
		}
	}
	return r
}

// swap exchanges two names as fast as it can until the function it gives is called, which puts them back and tells how often.
func swap(t *testing.T, a, b string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var swapper sync.WaitGroup
	swaps := 0
	swapper.Go(func() {
		for ctx.Err() == nil || swaps%2 == 1 {
			if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
			swaps++
		}
	})
	return func() int {
		cancel()
		swapper.Wait()
		return swaps
	}
}

// TestBundleRaces swaps places of the root file system for links to the host, and back, while containers start: the folder of
// a mount's target (CVE-2021-30465), of what is masked (CVE-2025-31133), /dev and /dev/pts (CVE-2025-52565), /proc
// (CVE-2019-19921, CVE-2025-52881), the working directory, the file of the users.
func TestBundleRaces(t *testing.T) {
	t.Parallel()
	ociBuilt(t)
	for _, c := range []struct {
		place  string
		change func(s *specs.Spec, n int)
	}{
		{"data", func(s *specs.Spec, n int) {
			s.Mounts = append(s.Mounts, bind(bench.dir+"/volume", []string{"/data", "/data/sub", "/data/a/b"}[n%3]))
		}},
		{"data", func(s *specs.Spec, n int) {
			s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: []string{"/data", "/data/sub"}[n%2], Options: [][]string{nil, {"tmpcopyup"}}[n%2]})
		}},
		{"data", func(s *specs.Spec, _ int) {
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/data", "/data/dir", "/data/file")
			s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/data/self", "/data/fd")
		}},
		{"data", func(s *specs.Spec, n int) { s.Process.Cwd = []string{"/data", "/data/new"}[n%2] }},
		{"proc", func(*specs.Spec, int) {}},
		{"sys", func(*specs.Spec, int) {}},
		{"dev", func(*specs.Spec, int) {}},
		{"etc", func(s *specs.Spec, _ int) {
			s.Process.Env = slices.DeleteFunc(s.Process.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") })
			s.Mounts = append(s.Mounts, bind(bench.dir+"/volume/file", "/etc/resolv.conf"))
		}},
	} {
		t.Run(c.place, func(t *testing.T) {
			t.Parallel()
			o, root := newOutside(t), newRoot(t)
			link := filepath.Join(root, "other")
			replace(t, link, linkTo(o.dir))
			// Where the link leads inside the root: a mount there is no escape.
			if err := os.MkdirAll(filepath.Join(root, o.dir), 0o755); err != nil { //nolint:gosec // a root file system
				t.Fatal(err)
			}
			const runs = 60
			started, swaps := 0, 0
			for n := range runs {
				k := newContainer(t, root, func(s *specs.Spec) { c.change(s, n) }, "/attack", "inside", o.canary)
				r := k.created(swap(t, filepath.Join(root, c.place), link), &swaps)
				ociHolds(t, r)
				if r.code == 0 {
					started++
				}
			}
			o.unchanged(t)
			if started == 0 || swaps < runs {
				t.Errorf("no race was run: %d containers started, %d swaps", started, swaps)
			}
			t.Logf("%d of %d containers started over %d swaps", started, runs, swaps)
		})
	}
	t.Run("control", naiveRace)
}

// naiveRace is the control: a set-up that looks before it makes a folder, by path strings, makes one on the host.
func naiveRace(t *testing.T) {
	o, root := newOutside(t), newRoot(t)
	link, folder := filepath.Join(root, "other"), filepath.Join(root, "data")
	replace(t, link, linkTo(o.dir))
	stop := swap(t, folder, link)
	defer stop()
	for deadline := time.Now().Add(testenv.Patience(30 * time.Second)); time.Now().Before(deadline); {
		if info, err := os.Lstat(folder); err != nil || !info.IsDir() {
			continue
		}
		_ = os.Mkdir(filepath.Join(folder, "made"), 0o755)
		if _, err := os.Lstat(filepath.Join(o.dir, "made")); err == nil {
			count("control", "ESCAPED")
			return
		}
		_ = os.Remove(filepath.Join(folder, "made"))
	}
	t.Error("the race was never won by a naive set-up either")
}

// TestBundleSourceRaces swaps the source of a bind mount, in a volume that an attacker shares, for a link to the host: with
// src-nofollow what is mounted is never what the link leads to; and a folder for a file, a file for a folder, where nothing is
// left half made.
func TestBundleSourceRaces(t *testing.T) {
	t.Parallel()
	ociBuilt(t)
	for name, other := range map[string]func(o *outside) func(string) error{
		"link": func(o *outside) func(string) error { return linkTo(o.dir) },
		"file": func(*outside) func(string) error {
			return func(p string) error { return os.WriteFile(p, []byte("x"), 0o644) } //nolint:gosec // a volume
		},
		"fifo": func(*outside) func(string) error { return func(p string) error { return unix.Mkfifo(p, 0o666) } },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, root, volume := newOutside(t), newRoot(t), newRoot(t)
			source, swapped := filepath.Join(volume, "data"), filepath.Join(volume, "other")
			replace(t, swapped, other(o))
			stop := swap(t, source, swapped)
			const runs = 60
			started := 0
			for range runs {
				r := newContainer(t, root, func(s *specs.Spec) {
					s.Mounts = append(s.Mounts, bind(source, "/data", "src-nofollow", "rw"))
				}, "/attack", "inside", o.canary, "/data/"+filepath.Base(o.canary)).run()
				ociHolds(t, r)
				if r.code == 0 {
					started++
				}
			}
			swaps := stop()
			o.unchanged(t)
			if started == 0 || swaps < runs {
				t.Errorf("no race was run: %d containers started, %d swaps", started, swaps)
			}
			t.Logf("%d of %d containers started over %d swaps", started, runs, swaps)
		})
	}
	t.Run("control", func(t *testing.T) {
		// Followed, the link brings the folder in: it is what src-nofollow is for.
		o, root, volume := newOutside(t), newRoot(t), newRoot(t)
		replace(t, filepath.Join(volume, "data"), linkTo(o.dir))
		r := newContainer(t, root, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, bind(filepath.Join(volume, "data"), "/data"))
		}, "/attack", "read", "/data/"+filepath.Base(o.canary)).run()
		if word, reason := r.verdict(); word != "ESCAPED" {
			t.Errorf("%s: %s", word, reason)
		}
		count("control", "ESCAPED")
	})
}

// TestBundleCVE_2024_21626 has descriptors of the host's root open in brig-oci, and asks for working directories that lead to
// them.
func TestBundleCVE_2024_21626(t *testing.T) {
	t.Parallel()
	ociBuilt(t)
	root, top, dirs := leads(t, 24)
	for _, dir := range dirs {
		c := newContainer(t, root, func(s *specs.Spec) { s.Process.Cwd = dir }, "/attack", "cwd", bench.canary)
		cmd := command(t.Context(), bundles.oci, "--root", c.state(), "run", "--bundle", c.bundle, c.id)
		cmd.ExtraFiles = top
		t.Run(dir, func(t *testing.T) { ociHolds(t, finish(cmd)) })
		c.gone()
	}
	c := newContainer(t, root, nil, "/attack", "fds")
	cmd := command(t.Context(), bundles.oci, "--root", c.state(), "run", "--bundle", c.bundle, c.id)
	cmd.ExtraFiles = top
	ociHolds(t, finish(cmd))
}

// TestBundleCVE_2016_9962 watches, from inside, every process that enters by exec: as root of the host without CAP_SYS_PTRACE, as
// Docker's containers are, and with every capability in a user namespace.
func TestBundleCVE_2016_9962(t *testing.T) {
	t.Parallel()
	ociBuilt(t)
	for name, change := range map[string]func(s *specs.Spec){
		"root of the host": nil,
		"every capability": func(s *specs.Spec) {
			ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 65536}}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
			all := []string{"CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SYS_CHROOT"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newContainer(t, bench.rootfs, change, "/attack", "watch", identity(t, bundles.oci))
			p, err := start(command(t.Context(), bundles.oci, "--root", c.state(), "run", "--bundle", c.bundle, c.id))
			if err != nil {
				t.Fatal(err)
			}
			for range 40 {
				if r := c.call("exec", c.id, "/attack", "ids"); r.code != 0 {
					t.Fatalf("%+v; the watcher: %+v", r, p.end())
				}
			}
			word, reason := p.end().verdict()
			if word != "HELD" {
				t.Errorf("%s: %s", word, reason)
			}
			t.Log(reason)
			c.gone()
		})
	}
}

// TestBundleCVE_2024_23652 ends containers whose program has put links where mounts were made, by its own end and by
// delete --force, and a set-up that fails half way.
func TestBundleCVE_2024_23652(t *testing.T) {
	t.Parallel()
	ociBuilt(t)
	for _, how := range []string{"ends", "forced", "fails"} {
		o, root := newOutside(t), newRoot(t)
		script := "cd /; mv data was; for n in data proc2 tmp2; do ln -s " + o.dir + " $n; done; ln -s " + o.dir + " /data/ram/x 2>/dev/null; exit 0"
		if how == "forced" {
			script = strings.Replace(script, "exit 0", "exec /attack sleep", 1)
		}
		c := newContainer(t, root, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, bind(o.dir+"/dir", "/data/deep/vol"), bind(o.dir, "/data/out", "ro"),
				specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/data/ram"})
			if how == "fails" {
				s.Mounts = append(s.Mounts, bind(o.dir+"/file", "/bin"))
			}
		}, "/bin/sh", "-c", script)
		args := []string{"run", "--bundle", c.bundle, c.id}
		if how == "forced" {
			args = []string{"run", "--detach", "--bundle", c.bundle, c.id}
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		cmd := command(ctx, bundles.oci, append([]string{"--root", c.state()}, args...)...)
		err := cmd.Run() // without pipes, which a container in the background would hold
		cancel()
		if (err != nil) != (how == "fails") {
			t.Errorf("%s: %v", how, err)
		}
		if how == "forced" {
			if r := c.call("delete", "--force", c.id); r.code != 0 {
				t.Errorf("%+v", r)
			}
		}
		c.gone()
		o.unchanged(t)
		if _, err := os.Stat(filepath.Join(root, "attack")); err != nil {
			t.Error(err)
		}
	}
}

// structural are the rows of the table that a bundle without a filter, a user namespace or Landlock must hold too: by
// namespaces, by the capabilities that it has, by what is mounted.
var structural = []string{
	"breakout", "chroot", "mount-tmpfs", "mount-proc", "mount-bind", "remount-writable", "umount-proc", "fsopen", "open-tree", "move-mount", "pivot-root",
	"CVE-2022-0492-cgroup", "open-by-handle", "CVE-2022-29162-inheritable", "no-new-privs",
	"signal-host", "ptrace-host", "vm-read-host", "pidfd-open-host", "see-host", "pry-host",
	"sethostname", "reboot", "acct", "swapoff", "clock-settime", "sysrq", "list-/sys/firmware", "read-/proc/kcore",
	"device-kmsg", "device-disk", "device-loop", "mknod-block", "mknod-char", "devices",
	"CVE-2020-15257-abstract", "sysctl-kernel/core_pattern", "own-exe",
}

// TestBundleRows runs those rows in a container, and by exec in one that is up. Their controls are run by TestAttacks.
func TestBundleRows(t *testing.T) {
	t.Parallel()
	ociBuilt(t)
	up := newContainer(t, bench.rootfs, nil, "/attack", "sleep")
	cmd := command(t.Context(), bundles.oci, "--root", up.state(), "run", "--detach", "--bundle", up.bundle, up.id)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command(context.Background(), bundles.oci, "--root", up.state(), "delete", "--force", up.id).Run()
		up.gone()
	})
	ran := 0
	for _, r := range rows() {
		if !slices.Contains(structural, r.name) {
			continue
		}
		ran++
		t.Run(r.name, func(t *testing.T) {
			attack := append([]string{"/attack"}, fill(t, r.attack)...)
			if r.name == "own-exe" {
				attack = []string{"/attack", "own-exe", identity(t, bundles.oci)}
			}
			ociHolds(t, newContainer(t, bench.rootfs, nil, attack...).run())
			ociHolds(t, up.call(append([]string{"exec", up.id}, attack...)...))
		})
	}
	t.Logf("%d of the rows", ran)
}
