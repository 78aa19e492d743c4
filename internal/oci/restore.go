package oci

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"brig/internal/cgroup"
	"brig/internal/host"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (a *app) restore(f *flag.FlagSet) func([]string) error {
	o := restoring{}
	o.creation.register(f)
	o.criuOptions.register(f)
	f.BoolVar(&o.detach, "detach", false, "leave the container running and return")
	f.BoolVar(&o.detach, "d", false, "short for --detach")
	f.StringVar(&o.lsmProfile, "lsm-profile", "", "another profile than the processes had: apparmor:NAME or selinux:LABEL")
	f.StringVar(&o.lsmMount, "lsm-mount-context", "", "another SELinux context than the mounts had")
	return func(args []string) error { return a.failure("runc restore failed", a.restoreContainer(args[0], &o)) }
}

// restoring is what restore takes.
type restoring struct {
	creation
	criuOptions
}

func (a *app) restoreContainer(id string, o *restoring) error {
	if err := o.criuOptions.check(); err != nil {
		return err
	}
	if o.preserve > 0 {
		return errors.New("--preserve-fds is not supported with restore: the open files are the images'")
	}
	criu, err := a.findCRIU("restore")
	if err != nil {
		return err
	}
	b, err := a.loadBundle(o.bundle, o.config)
	if err != nil {
		return err
	}
	if err := errors.Join(checkTerminal(b.spec, o.console, o.detach), checkAnnotations(b.spec, a.systemd)); err != nil {
		return err
	}
	defer func() { o.relay.close() }()
	c, err := a.remake(id, criu, b, o)
	if err != nil || o.detach {
		return err
	}
	pidfd, err := c.pidfd()
	if err == nil {
		defer pidfd.Close() //nolint:errcheck // read only
		stop := forward(func(s unix.Signal) error { return unix.PidfdSendSignal(int(pidfd.Fd()), s, nil, 0) })
		defer stop()
	}
	var status unix.WaitStatus
	for {
		if _, err = unix.Wait4(c.PID, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", c.PID, err)
	}
	a.code = exitCode(status)
	o.relay.close()
	o.relay = nil
	return a.destroy(id, true, c)
}

// remake makes a container whose processes come from images.
func (a *app) remake(id, criu string, b *bundled, o *restoring) (c *container, err error) {
	policy, isolation, err := demand(b.spec)
	if err == nil && isolation != "native" {
		err = fmt.Errorf("isolation %s is asked for, and restore has criu, which restores processes of the host's kernel", isolation)
	}
	if err != nil {
		return nil, err
	}
	c, lock, err := a.make(id)
	if err != nil {
		return nil, err
	}
	defer lock.Close() //nolint:errcheck // which unlocks
	c.held = lock
	var group *cgroup.Cgroup
	defer func() {
		if err != nil {
			err = errors.Join(err, c.undo(group, lock))
			a.poststopHooks(b.spec, c)
		}
	}()
	if group, err = c.begin(a, b, policy); err != nil {
		return c, err
	}
	if err := checkpointable(b.spec, c.Cgroups); err != nil {
		return c, err
	}
	if _, err := passedFiles(0); err != nil {
		return c, err
	}
	if err := makeMountPoints(b.spec); err != nil {
		return c, err
	}
	// The mount of the root file system that criu needs, and a session keyring that is not the caller's, are of a thread of their
	// own and what it starts. Nothing of them is left when this program dies.
	err = apart(func() error { return c.callRestore(criu, b.spec, group, o) })
	if err == nil && o.pidfdSocket != "" {
		err = c.sendPIDFD(o.pidfdSocket)
	}
	if err == nil && o.pidFile != "" {
		err = writePIDFile(o.pidFile, c.PID)
	}
	return c, err
}

func (c *container) sendPIDFD(socket string) error {
	pidfd, err := c.pidfd()
	if err != nil {
		return err
	}
	defer pidfd.Close() //nolint:errcheck // read only
	if err := sendFD(socket, pidfd, []byte(ptmx)); err != nil {
		return fmt.Errorf("--pidfd-socket %s: %w", socket, err)
	}
	return nil
}

// callRestore runs on a thread of its own.
func (c *container) callRestore(criu string, spec *specs.Spec, group *cgroup.Cgroup, o *restoring) error {
	if _, err := unix.KeyctlJoinSessionKeyring("_brig"); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("new session keyring: %w", err)
	}
	if spec.Process.NoNewPrivileges {
		// criu (3.17) does not restore it. What it restores are its children, and have it from here (prctl(2)).
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no new privileges: %w", err)
		}
	}
	root := filepath.Join(c.dir, "root")
	if err := mountRoot(spec.Root.Path, root); err != nil {
		return err
	}
	// Opened now: where criu mounts something below them, it has to be in its own mount namespace.
	images, work, err := o.criuOptions.open(false)
	if err != nil {
		return err
	}
	defer images.Close() //nolint:errcheck // read only
	defer work.Close()   //nolint:errcheck // read only
	into, _, err := group.Attach()
	if err != nil {
		return err
	}
	defer into.Close() //nolint:errcheck // a path only
	call := &criuCall{program: criu, kind: criuRestore, workDir: o.work, log: "restore.log", group: into, streams: true}
	call.options = o.encode(spec, images, work, call.log)
	if err := c.encodeRestore(call, spec, root, o); err != nil {
		return err
	}
	call.notify = func(stage string, pid int, passed *os.File) error {
		return c.restoreStage(stage, pid, passed, spec, group, o)
	}
	pid, err := call.run()
	for _, f := range call.files {
		_ = f.Close()
	}
	if err == nil && (c.Creating || pid != c.PID) {
		err = errors.New("criu has restored the container without asking whether it is as its configuration wants it")
	}
	return err
}

// mountRoot gives criu a root that is a mount point, in a mount namespace of this thread's own.
func mountRoot(from, to string) error {
	err := os.Mkdir(to, 0o700)
	if err == nil {
		err = unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	}
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	}
	if err == nil {
		err = unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err == nil {
		err = unix.Mount("", to, "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err != nil {
		return fmt.Errorf("mount the root file system %s for criu: %w", from, err)
	}
	return nil
}

// encodeRestore adds what only a restore needs.
func (c *container) encodeRestore(call *criuCall, spec *specs.Spec, root string, o *restoring) error {
	w := &call.options
	w.flag(6, true)  // any name of a device that the one of the images is not there for
	w.flag(12, true) // notify
	w.text(13, root)
	w.flag(26, true) // our child
	inherit := func(key string, fd int) {
		w.pair(27, key, func(w *wire) { w.number(2, uint64(fd)) }) //nolint:gosec // small
	}
	for place, source := range externalMounts(spec) {
		w.text(37, fmt.Sprintf("mnt[%s]:%s", place, source))
	}
	tree, err := host.Cgroups()
	if err != nil {
		return err
	}
	var cg wire
	cg.text(2, strings.TrimPrefix(c.Cgroups[""], tree.Unified))
	w.bytes(25, cg)
	if p, _ := plan.Namespace(spec, specs.NetworkNamespace); p != "" {
		f, err := os.Open(p)
		if err != nil {
			return fmt.Errorf("linux.namespaces: %w", err)
		}
		call.files = append(call.files, f)
		inherit(networkKey, 3+len(call.files))
	}
	text, err := os.ReadFile(filepath.Join(o.images, descriptors))
	if err != nil {
		return fmt.Errorf("--image-path: %w: there is no whole checkpoint", err)
	}
	var streams []string
	if err := json.Unmarshal(text, &streams); err != nil || len(streams) > 3 {
		return fmt.Errorf("%s of the images: it does not name three streams: %w", descriptors, err)
	}
	for fd, s := range streams {
		if strings.HasPrefix(s, "pipe:[") || strings.HasPrefix(s, "file[") {
			inherit(s, fd)
		}
	}
	return nil
}

// makeMountPoints makes those that the root file system lacks: another machine may have made it anew. What lies below another mount
// comes with that.
func makeMountPoints(spec *specs.Spec) error {
	root, err := os.OpenRoot(spec.Root.Path) // no path leads out of it
	if err != nil {
		return fmt.Errorf("root.path: %w", err)
	}
	defer root.Close() //nolint:errcheck // read only
	var above []string
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		place := strings.TrimPrefix(path.Clean(m.Destination), "/")
		below := slices.ContainsFunc(above, func(a string) bool { return strings.HasPrefix(place, a+"/") })
		above = append(above, place)
		if _, err := root.Stat(place); below || place == "" || err == nil {
			continue
		}
		if info, err := os.Stat(m.Source); bindMount(m) && err == nil && !info.IsDir() {
			if err := root.MkdirAll(path.Dir(place), 0o755); err != nil {
				return fmt.Errorf("make the mount point %s: %w", m.Destination, err)
			}
			f, err := root.OpenFile(place, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return fmt.Errorf("make the mount point %s: %w", m.Destination, err)
			}
			_ = f.Close()
			continue
		}
		if err := root.MkdirAll(place, 0o755); err != nil {
			return fmt.Errorf("make the mount point %s: %w", m.Destination, err)
		}
	}
	return nil
}
