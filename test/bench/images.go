package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"brig/test/bench/fork"
	"brig/test/image/fixture"

	"golang.org/x/sys/unix"
)

// The images that are fetched and run: Debian as debootstrap makes it, in one layer.
const pulled = "debian:1"

// puller is one way to fetch an image from a registry and to run it.
type puller struct {
	key, name, note string
	env             []string
	first           []string // fetches the image, and runs `true` of it; nil where there is nothing to fetch
	second          []string // runs `true` of the image that is here
	forget          []string // takes away the image and all that was made of it
	disk            string   // the folder of all that
	daemon          func() int
	start, stop     func() error
}

// imageResult is what was found of a puller.
type imageResult struct {
	Key     string          `json:"key"`
	Name    string          `json:"name"`
	Note    string          `json:"note"`
	First   []time.Duration `json:"firstNs,omitempty"`
	Second  []time.Duration `json:"secondNs"`
	PeakRSS int64           `json:"peakRssBytes,omitempty"` // of the first run, of the largest process
	Disk    int64           `json:"diskBytes,omitempty"`
}

// images has every puller fetch and run the same image from one registry, in turns.
func (t *tools) images(ctx context.Context, o options, _ []*contender, r *report, bar *progress) (err error) {
	if t.paths["brig-image"] == "" {
		return nil
	}
	bar.say("making the image")
	shop, err := fixture.Make("build/images", pulled)
	if err != nil {
		return fmt.Errorf("the image to fetch: %w", err)
	}
	at := t.path("registry")
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	registry, err := fixture.Start(at, fixture.Options{Storage: shop.Storage})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Stop()) }()
	list, err := t.pullers(registry.Host+"/"+pulled, shop.Images[pulled])
	if err != nil {
		return err
	}
	for _, p := range list {
		r.Images = append(r.Images, &imageResult{Key: p.key, Name: p.name, Note: p.note})
		if p.start != nil {
			if err := p.start(); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			defer func() { err = errors.Join(err, p.stop()) }()
		}
	}
	return t.pullInTurns(ctx, o, list, r, bar)
}

// pullInTurns runs the first runs, and then the second ones.
func (t *tools) pullInTurns(ctx context.Context, o options, list []*puller, r *report, bar *progress) error {
	firsts, seconds := min(15, o.rounds), min(100, o.rounds)
	random := rand.New(rand.NewPCG(o.seed, 2)) //nolint:gosec // an order, not a secret
	for round := -1; round < firsts; round++ {
		bar.say(fmt.Sprintf("first run of an image: %d of %d", max(round+1, 0), firsts))
		for _, i := range random.Perm(len(list)) {
			p := list[i]
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("stopped: %w", err)
			}
			if p.first == nil {
				continue
			}
			if _, err := t.timed(p, p.forget); round > -1 && err != nil {
				return err
			}
			took, err := t.timed(p, p.first)
			if err != nil {
				return err
			}
			if round >= 0 {
				r.Images[i].First = append(r.Images[i].First, took)
			}
		}
	}
	for i, p := range list {
		if err := t.weigh(p, r.Images[i]); err != nil {
			return err
		}
	}
	for round := -warmUp; round < seconds; round++ {
		bar.say(fmt.Sprintf("second run of an image: %d of %d", max(round+1, 0), seconds))
		for _, i := range random.Perm(len(list)) {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("stopped: %w", err)
			}
			took, err := t.timed(list[i], list[i].second)
			if err != nil {
				return err
			}
			if round >= 0 {
				r.Images[i].Second = append(r.Images[i].Second, took)
			}
		}
	}
	return nil
}

// timed is one call. What it says is in the error of one that fails.
func (t *tools) timed(p *puller, argv []string) (_ time.Duration, err error) {
	out, err := os.CreateTemp(t.dir, "output-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close(), os.Remove(out.Name())) }()
	var u fork.Usage
	t.main.do(func() {
		u, err = fork.Run(argv, &syscall.ProcAttr{Dir: t.dir, Env: append(environment(), p.env...), Files: []uintptr{t.null.Fd(), out.Fd(), out.Fd()}})
	})
	if err != nil {
		text, _ := os.ReadFile(out.Name())
		return 0, fmt.Errorf("%s: %w; by hand: %s: %s", p.name, err, strings.Join(argv, " "), lastLine(string(text)))
	}
	return u.Wall, nil
}

// weigh measures one more first run: the largest process, and what is on the disk afterwards.
func (t *tools) weigh(p *puller, r *imageResult) error {
	if p.first == nil {
		return nil
	}
	if _, err := t.timed(p, p.forget); err != nil {
		return err
	}
	scale, err := t.peakScale()
	if err != nil {
		return err
	}
	if p.daemon != nil { // proc(5): 5 resets the high-water mark
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.daemon()), []byte("5"), 0); err != nil {
			return err
		}
	}
	argv := append([]string{filepath.Join(t.root, "bin/busybox"), "env"}, p.env...)
	rss, err := t.peak(t.main, append(argv, p.first...))
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	r.PeakRSS = rss / scale
	if p.daemon != nil {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.daemon()))
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		kib, err := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64)
		if err != nil {
			return err
		}
		r.PeakRSS = max(r.PeakRSS, kib<<10)
	}
	r.Disk, err = onDisk(p.disk)
	return err
}

// onDisk is what the files of a folder take, those with several names once. What is mounted below it is not of it.
func onDisk(dir string) (size int64, err error) {
	seen := map[uint64]bool{}
	var top unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		return 0, err
	}
	return size, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if errors.Is(err, fs.ErrNotExist) { // a daemon's
			return nil
		}
		if err == nil && st.Dev != top.Dev {
			return filepath.SkipDir
		}
		if err == nil && !seen[st.Ino] {
			seen[st.Ino] = true
			size += st.Blocks * 512
		}
		return err
	})
}

func (t *tools) pullers(ref string, image fixture.Image) ([]*puller, error) {
	root, err := image.Unpack(t.path("unpacked"))
	if err != nil {
		return nil, err
	}
	store, state := t.path("images-brig"), []string{"--root", t.path("state-brig")}
	run := append([]string{t.paths["brig"], "run"}, state...)
	list := []*puller{{
		key: "brig", name: "brig run IMAGE", note: "every layer of defence on: the default policy; the whole image is verified, merged into one EROFS file, and its digest computed",
		env: []string{"BRIG_STORE=" + store}, disk: store,
		first: with(run, ref, "/bin/true"), second: with(run, ref, "/bin/true"),
		forget: []string{t.paths["brig"], "image", "prune", "--all"},
		stop:   t.command(t.main, []string{t.paths["brig-image"], "--store", store, "prune", "--all"}), start: func() error { return nil },
	}, {
		key: "brig-rootfs", name: "brig run --rootfs", note: "the same files in a folder, unpacked before anything was measured",
		second: with(run, "--rootfs", root, "--", "/bin/true"),
	}}
	if t.paths["podman"] != "" && t.paths["runc"] != "" {
		list = append(list, t.podman(ref))
	}
	for _, name := range []string{"runc", "brig-oci"} {
		if t.paths["containerd"] != "" && t.paths[name] != "" {
			list = append(list, t.containerd(name, ref))
		}
	}
	return list, nil
}

// podman runs its containers on runc: crun 1.8 refuses a host with both versions of cgroups. Limits are given because Podman raises two by default,
// which needs CAP_SYS_RESOURCE.
func (t *tools) podman(ref string) *puller {
	dir, group := t.path("podman"), "/"+filepath.Base(t.dir)+"-podman"
	base := []string{t.paths["podman"], "--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp", "--cgroup-manager=cgroupfs",
		"--storage-driver=overlay", "--events-backend=none", "--runtime", t.paths["runc"]}
	run := with(base, "run", "--rm", "--tls-verify=false", "--network=none", "--cgroup-parent="+group, "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", ref, "/bin/true")
	return &puller{
		key: "podman", name: "podman run", note: "on runc, with the overlay driver and no network", disk: dir + "/root",
		first: run, second: run, forget: with(base, "rmi", "--all", "--force"),
		env: []string{"CONTAINERS_CONF=" + dir + "/containers.conf"},
		start: func() error {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			return os.WriteFile(dir+"/containers.conf", []byte("[engine]\nlock_type = \"file\"\n"), 0o600) // else it leaves one in /dev/shm
		},
		stop: func() error {
			_ = unix.Unmount(dir+"/root/overlay", unix.MNT_DETACH) // its mount to make it private
			removeGroups(group)
			return os.RemoveAll(dir)
		},
	}
}

func removeGroups(name string) {
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + name)
	for _, top := range append(groups, "/sys/fs/cgroup"+name) {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			_ = os.Remove(d) // empty: an engine leaves it
		}
	}
}

// containerd has a daemon of its own, as for the containers in a row.
func (t *tools) containerd(name, ref string) *puller {
	e := &engine{t: t, lane: t.main, dir: t.path("images-" + name), binary: t.paths[name]}
	ctr := []string{t.paths["ctr"], "-a", e.socket(), "-n", e.namespace()}
	run := with(ctr, "run", "--rm", "--runc-binary", e.binary, "--runc-root", e.dir+"/runtime", ref, "one", "/bin/true")
	pull := with(ctr, "images", "pull", "--plain-http", ref)
	both := []string{"/bin/sh", "-c", strings.Join(pull, " ") + " && exec " + strings.Join(run, " ")}
	return &puller{
		key: "containerd-" + name, name: "ctr pull, ctr run on " + name, disk: e.dir + "/root", note: "containerd with its overlay snapshotter; memory is that of the daemon, where it is more",
		first: both, second: run, forget: with(ctr, "images", "rm", "--sync", ref),
		daemon: func() int { return e.daemon.Process.Pid }, start: e.start, stop: e.stop,
	}
}

// imagesGrid compares them.
func (r *report) imagesGrid() grid {
	g := grid{title: imagesTitle, header: []string{"", "first run", "95 of 100 below", "second run", "95 of 100 below", "memory at most", "disk"}}
	for _, i := range r.Images {
		row := []string{i.Name, "", "", ms(median(i.Second)), ms(quantile(i.Second, .95)), "", ""}
		if i.First != nil {
			row[1], row[2] = seconds(median(i.First)), seconds(quantile(i.First, .95))
			row[5], row[6] = fmt.Sprintf("%.1f MiB", float64(i.PeakRSS)/(1<<20)), fmt.Sprintf("%.0f MiB", float64(i.Disk)/(1<<20))
		}
		g.rows = append(g.rows, row)
	}
	return g
}

const imagesTitle = "An image fetched and run, and run again"

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// judgeImages compares with what images have to hold: the first run not slower than the faster of the others, the second as fast as a folder.
func (r *report) judgeImages() {
	found := map[string]*imageResult{}
	var fastest *imageResult
	for _, i := range r.Images {
		found[i.Key] = i
		if i.Key != "brig" && i.First != nil && (fastest == nil || median(i.First) < median(fastest.First)) {
			fastest = i
		}
	}
	ours, folder := found["brig"], found["brig-rootfs"]
	if ours == nil || folder == nil {
		return
	}
	if fastest != nil {
		r.addGoal(&goal{What: "first run of an image: " + ours.Name + " / " + fastest.Name, Unit: "times", Limit: 1, Found: ratio(ours.First, fastest.First)})
	}
	r.addGoal(&goal{What: "second run of an image: " + ours.Name + " / " + folder.Name, Unit: "times", Limit: 1.1, Found: ratio(ours.Second, folder.Second)})
}
