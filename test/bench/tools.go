package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"brig/internal/sandbox"
	"brig/test/bench/fork"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// probeScript prints what confines it, as the kernel says. It runs in every contender before anything is measured.
const probeScript = "cat /proc/self/status; ls -l /proc/self/ns; cat /proc/self/mountinfo; cat /proc/self/cgroup"

// tools makes the contenders of one run.
type tools struct {
	*stage
	main    *lane // this process's mounts
	unified *lane // cgroup version 2 on /sys/fs/cgroup
	missing []string
	paths   map[string]string
	pools   func() error // starts the pools of warm sandboxes on gVisor's kernel; nil without that kernel
}

// find builds Brig, or takes the one in a folder, and looks for the peers; one that is missing is named and left out.
func (t *tools) find(bin string) (err error) {
	t.paths = map[string]string{}
	for _, name := range []string{"brig", "brig-image", "brig-oci"} {
		if bin != "" {
			if path := filepath.Join(bin, name); executable(path) {
				t.paths[name] = path
			}
			continue
		}
		if _, err := os.Stat("cmd/" + name); err != nil {
			continue
		}
		if t.paths[name], err = t.build("brig/cmd/" + name); err != nil {
			return err
		}
	}
	if t.paths["brig"] == "" {
		return errors.New("there is no brig to measure; run this in Brig's source tree, or give a folder with -bin")
	}
	for _, name := range []string{"bwrap", "crun", "runc", "containerd", "ctr", "podman"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.missing = append(t.missing, name)
			continue
		}
		t.paths[name] = path
	}
	return t.findGVisor(bin)
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode()&0o111 != 0
}

// contenders are all of them, in the order of the tables.
func (t *tools) contenders() ([]*contender, error) {
	bundle, err := t.bundle("bundle", "/bin/true")
	if err != nil {
		return nil, err
	}
	probe, err := t.bundle("probe", "/bin/sh", "-c", probeScript)
	if err != nil {
		return nil, err
	}
	list := append(t.bareOnes(), t.brigs()...)
	if t.paths["bwrap"] != "" {
		list = append(list, t.bubblewrap()...)
	}
	for _, name := range []string{"brig-oci", "crun", "runc"} {
		if t.paths[name] != "" {
			list = append(list, t.oci(name, bundle, probe))
		}
	}
	execs, err := t.execs()
	if err != nil {
		return nil, err
	}
	inside, err := t.inside()
	if err != nil {
		return nil, err
	}
	engines, err := t.engines()
	if err != nil {
		return nil, err
	}
	gvisor, err := t.onGVisor(bundle)
	if err != nil {
		return nil, err
	}
	return slices.Concat(list, t.lives(bundle), execs, inside, engines, gvisor), nil
}

func (t *tools) bareOnes() []*contender {
	return []*contender{{
		key: "bare", name: "bare helper", kind: kindRun, lane: t.main,
		note: "a static Go program that makes one clone with the same namespaces, writes the id maps, and calls chroot and execve; nothing is mounted, filtered or limited",
		argv: func(int64) []string { return []string{t.bare, t.root, "/bin/true"} },
	}, {
		key: "bare-inside", name: "bare, in this process", kind: kindInside, lane: t.main,
		note: "the same without the start of a process for the tool itself",
		prepare: func() (func() error, error) {
			attr := fork.Bare(t.root, t.files())
			return func() error {
				_, err := fork.Run([]string{"/bin/true"}, attr)
				return err
			}, nil
		},
	}}
}

func (t *tools) brigs() []*contender {
	brig := t.paths["brig"]
	run := []string{brig, "run", "--root", t.path("state-brig")}
	rootfs := append(run[:len(run):len(run)], "--rootfs", t.root, "--")
	view := append(run[:len(run):len(run)], "--")
	return []*contender{{
		key: "brig", name: "brig run --rootfs", kind: kindRun, lane: t.main,
		note:  "every layer on: the default policy",
		argv:  func(int64) []string { return with(rootfs, "/bin/true") },
		probe: with(rootfs, "/bin/sh", "-c", probeScript),
	}, {
		key: "brig-view", name: "brig run (host view)", kind: kindRun, lane: t.main,
		note:  "every layer on; the root is a read-only view of the host's programs, with some 30 mounts more",
		argv:  func(int64) []string { return with(view, "/usr/bin/true") },
		probe: with(view, "/bin/sh", "-c", probeScript),
	}}
}

func with(argv []string, more ...string) []string { return append(argv[:len(argv):len(argv)], more...) }

func (t *tools) bubblewrap() []*contender {
	argv := []string{t.paths["bwrap"], "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-pid", "--unshare-net", "--unshare-ipc",
		"--unshare-uts", "--unshare-cgroup", "--ro-bind", t.root, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"}
	alone := with(argv, "--as-pid-1")
	return []*contender{{
		key: "bwrap", name: "bubblewrap", kind: kindRun, lane: t.main,
		note:  "the same namespaces, one id in the map, /proc, /dev and /tmp; no filter, no limits, no masks; it ends before its child, the first process of the sandbox, does, so neither the end of the namespaces nor their processor time is counted",
		argv:  func(int64) []string { return with(argv, "/bin/true") },
		probe: with(argv, "/bin/sh", "-c", probeScript),
	}, {
		key: "bwrap-alone", name: "bubblewrap --as-pid-1", kind: kindRun, lane: t.main,
		note:  "the program is the sandbox's first process, as in Brig's, and bubblewrap waits for its end",
		argv:  func(int64) []string { return with(alone, "/bin/true") },
		probe: with(alone, "/bin/sh", "-c", probeScript),
	}}
}

// ociLane gives the lane of an OCI runtime and the options that all its commands need.
func (t *tools) ociLane(name string) (*lane, []string) {
	argv := []string{t.paths[name], "--root", t.path("state-" + name)}
	if name == "crun" && t.unified != nil {
		return t.unified, append(argv, "--cgroup-manager=disabled")
	}
	return t.main, argv
}

func (t *tools) oci(name, bundle, probe string) *contender {
	l, argv := t.ociLane(name)
	c := &contender{
		key: name, name: name + " run", kind: kindRun, lane: l,
		note:  "the same bundle: namespaces, filter, masks, mounts, limits",
		argv:  func(n int64) []string { return with(argv, "run", "--bundle", bundle, "bench"+strconv.FormatInt(n, 10)) },
		probe: with(argv, "run", "--bundle", probe, "probe"),
	}
	if l != t.main {
		c.note += "; it refuses this host's cgroups, so it makes none and sets no limits, which saves it work"
	}
	return c
}

// execs are the ways to run one more program in a running sandbox.
func (t *tools) execs() ([]*contender, error) {
	bundle, err := t.bundle("idle", "/bin/sleep", "1000000")
	if err != nil {
		return nil, err
	}
	state := []string{"--root", t.path("state-brig")}
	brig := func(verb string, args ...string) []string {
		return append(append([]string{t.paths["brig"], verb}, state...), args...)
	}
	list := []*contender{{
		key: "brig-exec", name: "brig exec", kind: kindExec, lane: t.main,
		note:  "behind the same layers as the sandbox's first program",
		start: t.command(t.main, brig("run", "-d", "--rm", "--name", "idle", "--rootfs", t.root, "--", "/bin/sleep", "1000000")),
		argv:  func(int64) []string { return brig("exec", "idle", "/bin/true") },
		stop:  t.command(t.main, brig("rm", "--force", "idle")),
	}}
	for _, name := range []string{"brig-oci", "crun", "runc"} {
		if t.paths[name] == "" {
			continue
		}
		l, argv := t.ociLane(name)
		list = append(list, &contender{
			key: name + "-exec", name: name + " exec", kind: kindExec, lane: l,
			start: t.command(l, with(argv, "run", "--detach", "--bundle", bundle, "idle")),
			argv:  func(int64) []string { return with(argv, "exec", "idle", "/bin/true") },
			stop:  t.command(l, with(argv, "delete", "--force", "idle")),
		})
	}
	return list, nil
}

// command is a call of a tool outside of what is measured.
func (t *tools) command(l *lane, argv []string) func() error {
	return t.commandIn(l, nil, argv)
}

// commandIn is command with more words of the environment.
func (t *tools) commandIn(l *lane, env, argv []string) func() error {
	return func() error {
		_, err := outputIn(l, t.stage, env, argv)
		return err
	}
}

// inside are the calls of the package below the command line: what a program that embeds Brig would pay.
func (t *tools) inside() ([]*contender, error) {
	spec, err := t.spec("/bin/true")
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	var list []*contender
	for _, place := range []struct{ key, name, dir string }{
		{"brig-inside", "brig, in this process", t.path("state-inside")},
		{"brig-inside-ram", "brig, in this process, state in RAM", filepath.Join("/dev/shm", filepath.Base(t.dir))},
	} {
		store, err := sandbox.Open(place.dir)
		if err != nil {
			return nil, err
		}
		list = append(list, &contender{
			key: place.key, name: place.name, kind: kindInside, lane: t.main,
			note:    "sandbox.Store.Run with the spec of `brig run --rootfs`",
			prepare: func() (func() error, error) { return t.storeRun(store, text) },
		})
	}
	return list, nil
}

// storeRun readies a run with a spec of its own, as the run fills it in.
func (t *tools) storeRun(store *sandbox.Store, text []byte) (func() error, error) {
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, err
	}
	return func() error {
		r, err := store.Run(&sandbox.Request{Spec: &spec}, sandbox.Streams{Out: t.null, Err: t.null})
		if err == nil && r.ExitCode != 0 {
			err = fmt.Errorf("exit code %d", r.ExitCode)
		}
		return err
	}, nil
}

// close removes what the tools leave.
func (t *tools) close() error {
	t.main.close()
	t.unified.close()
	return errors.Join(os.RemoveAll(filepath.Join("/dev/shm", filepath.Base(t.dir))), t.stage.close())
}

func joined(words []string) string { return strings.Join(words, ", ") }
