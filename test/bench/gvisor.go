package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"brig/internal/sandbox"
	"brig/test/image/fixture"

	"golang.org/x/sys/unix"
)

// gvisorRounds is how many rounds the sandboxes on gVisor's kernel have, which take a hundred times as long as the others.
const gvisorRounds = 100

// gvisorImage is the small root file system as an image.
const gvisorImage = "small:1"

// findGVisor builds gVisor's kernel and, of the same release, runsc, which is its peer. They are of Go modules of their own.
func (t *tools) findGVisor(bin string) error {
	kernel := filepath.Join(filepath.Dir(t.paths["brig"]), "brig-gvisor") // where brig and brig-oci look for it
	var ours, theirs string
	var err error
	if ours, err = release("gvisor"); err == nil {
		theirs, err = release("test/bench/runsc")
	}
	if err != nil {
		return err
	}
	if ours != theirs {
		return fmt.Errorf("gvisor/go.mod has the release %s of gVisor, and test/bench/runsc/go.mod has %s: they are compared, and have to be the same", ours, theirs)
	}
	if bin == "" {
		if err := buildModule("gvisor", kernel); err != nil {
			return err
		}
	} else if !executable(kernel) {
		t.missing = append(t.missing, "brig-gvisor")
		return nil
	}
	t.paths["brig-gvisor"], t.paths["runsc"] = kernel, t.path("runsc")
	return buildModule("test/bench/runsc", t.paths["runsc"])
}

func release(module string) (string, error) {
	c := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "gvisor.dev/gvisor")
	c.Dir = module
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("the release of gVisor in %s: %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func buildModule(module, to string) error {
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", to, ".") //nolint:gosec // the tree's own
	c.Dir, c.Env = module, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", module, err, out)
	}
	return nil
}

// onGVisor are the ways to have one sandbox on gVisor's kernel.
func (t *tools) onGVisor(bundle string) ([]*contender, error) {
	if t.paths["brig-gvisor"] == "" {
		return nil, nil
	}
	store, err := sandbox.Open(t.path("state-brig"))
	if err != nil {
		return nil, err
	}
	images := t.path("images-gvisor")
	if err := fixture.Stored(images, gvisorImage, t.root, []byte("{}")); err != nil {
		return nil, fmt.Errorf("the image for gVisor: %w", err)
	}
	prune := t.command(t.main, []string{t.paths["brig-image"], "--store", images, "prune", "--all"})
	brig := func(verb string, args ...string) []string {
		return append([]string{t.paths["brig"], verb, "--root", t.path("state-brig")}, args...)
	}
	folder, image := []string{"--isolation", "gvisor", "--rootfs", t.root}, []string{"--isolation", "gvisor", gvisorImage}
	env := []string{"BRIG_STORE=" + images}
	full := func() error { return waitForPools(store) }
	warm := func(more ...string) []string {
		return brig("warm", append([]string{"-d", "--memory", warmMemory}, more...)...)
	}
	t.pools = func() error {
		return errors.Join(t.command(t.main, warm("--rootfs", t.root))(), t.commandIn(t.main, env, warm(gvisorImage))())
	}
	list := []*contender{{
		key: "brig-gvisor", name: "brig run --isolation gvisor --rootfs",
		note: "every layer on: the default policy; two processes, of which one serves the files of the folder",
		argv: func(int64) []string { return with(brig("run", folder...), "--", "/bin/true") },
	}, {
		key: "brig-gvisor-image", name: "brig run --isolation gvisor IMAGE", env: env, stop: prune,
		note: "the image is handed over as a file: one process",
		argv: func(int64) []string { return with(brig("run", image...), "/bin/true") },
	}, {
		key: "brig-gvisor-warm", name: "brig run --rootfs, warm",
		note: "a sandbox with the same policy has been made ready by `brig warm` before",
		argv: func(int64) []string {
			return with(with(brig("run", "--memory", warmMemory), folder...), "--", "/bin/true")
		},
	}, {
		key: "brig-gvisor-image-warm", name: "brig run IMAGE, warm", env: env,
		argv: func(int64) []string { return with(with(brig("run", "--memory", warmMemory), image...), "/bin/true") },
	}}
	if t.paths["brig-oci"] != "" {
		handler := t.path("brig-gvisor-handler")
		if err := os.Symlink(t.paths["brig-oci"], handler); err != nil {
			return nil, err
		}
		list = append(list, t.gvisorOCI("brig-oci-gvisor", "brig-oci run", []string{handler, "--root", t.path("state-brig-oci")}, bundle,
			"the same bundle: namespaces, both filters, masks, mounts, limits"))
	}
	list = append(list, t.gvisorOCI("runsc", "runsc run", t.runsc(), bundle,
		"the same bundle and release, --directfs=false, --platform=systrap, --overlay2=none, --oci-seccomp, a network of a loopback alone; it makes no cgroup (--ignore-cgroups), which saves it work"))
	list[len(list)-1].stop = t.unmountRunsc
	for _, c := range list {
		c.kind, c.lane, c.before = kindGVisor, t.main, full
	}
	return list, nil
}

// warmMemory is a limit that only those have that are to be warm: with it a policy is another.
const warmMemory = "250m"

func (t *tools) runsc() []string {
	return []string{t.paths["runsc"], "--root", t.path("state-runsc"), "--directfs=false", "--platform=systrap", "--overlay2=none", "--network=none",
		"--oci-seccomp", "--ignore-cgroups"}
}

// unmountRunsc takes away a network namespace that runsc keeps below its state.
func (t *tools) unmountRunsc() error {
	err := unix.Unmount(t.path("state-runsc/null-netns"), unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil // it has not been made
	}
	return err
}

func (t *tools) gvisorOCI(key, name string, argv []string, bundle, note string) *contender {
	return &contender{key: key, name: name, note: note, argv: func(n int64) []string {
		return with(argv, "run", "--bundle", bundle, "gvisor"+strconv.FormatInt(n, 10))
	}}
}

// waitForPools waits until every pool of warm sandboxes is full, so that none is made while others are measured.
func waitForPools(store *sandbox.Store) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		pools, ready, err := store.Pools()
		if err != nil {
			return err
		}
		wanted := 0
		for _, p := range pools {
			wanted += p.Count
		}
		if len(ready) >= wanted {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d sandboxes are warm after a minute", len(ready), wanted)
		}
	}
}

// gvisorTurns has each of them run once a round, with pools of warm sandboxes for that time alone: they share memory with what is weighed.
func (t *tools) gvisorTurns(ctx context.Context, o options, list []*contender, r *report, bar *progress) (err error) {
	if t.pools == nil {
		return nil
	}
	if err := t.pools(); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, t.command(t.main, []string{t.paths["brig"], "warm", "--root", t.path("state-brig"), "--stop"})())
	}()
	return t.turnsOf(ctx, o, kindGVisor, min(o.rounds, gvisorRounds), list, r, func(round, rounds int) {
		bar.say(fmt.Sprintf("on gVisor's kernel: %d of %d", round, rounds))
	})
}

// judgeGVisor compares with runsc.
func (r *report) judgeGVisor() {
	for _, g := range []struct {
		ours  string
		limit float64
	}{{"brig-oci-gvisor", 1.05}, {"brig-gvisor-warm", .4}, {"brig-gvisor-image-warm", .4}} {
		if a, b := r.find(g.ours), r.find("runsc"); a != nil && b != nil {
			r.addGoal(&goal{What: "on gVisor's kernel: " + a.Name + " / " + b.Name, Unit: "times", Limit: g.limit, Found: ratio(a.Wall, b.Wall)})
		}
	}
	found := map[string]*idleSandbox{}
	for _, i := range r.Idle {
		found[i.Key] = i
	}
	if theirs := found["runsc"]; theirs != nil {
		for _, key := range []string{"brig-gvisor", "brig-oci-gvisor"} {
			if ours := found[key]; ours != nil {
				times := float64(ours.PSS) / float64(theirs.PSS)
				r.addGoal(&goal{What: "memory (PSS) of an idle sandbox on gVisor's kernel: " + ours.Name + " / " + theirs.Name, Unit: "times", Limit: 1, Found: interval{times, times, times}})
			}
		}
	}
}
