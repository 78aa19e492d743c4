package oci

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"brig/internal/cgroup"
	"brig/internal/idmap"
	"brig/internal/isolation/native"
	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cleanTimeout bounds how long the removal of a container waits for its processes.
const cleanTimeout = 20 * time.Second

// creation is what create and run take.
type creation struct {
	bundle, pidFile, console, pidfdSocket string
	preserve                              int
	warn                                  func(text string)
	detach                                bool
	relay                                 *console // of a terminal in the foreground
}

func (o *creation) register(f *flag.FlagSet) {
	f.StringVar(&o.bundle, "bundle", ".", "folder of config.json and the root file system")
	f.StringVar(&o.bundle, "b", ".", "short for --bundle")
	f.StringVar(&o.pidFile, "pid-file", "", "file that takes the process id")
	f.StringVar(&o.console, "console-socket", "", "unix socket that takes the master of the terminal")
	f.StringVar(&o.pidfdSocket, "pidfd-socket", "", "unix socket that takes a pidfd of the process")
	f.IntVar(&o.preserve, "preserve-fds", 0, "pass this many file descriptors, from 3 on")
	var ignored bool
	f.BoolVar(&ignored, "no-pivot", false, "taken for runc's sake: the root is always entered by pivot_root")
	f.BoolVar(&ignored, "no-new-keyring", false, "taken for runc's sake: the session keyring is always new")
	f.BoolVar(&ignored, "no-subreaper", false, "taken for runc's sake")
	f.BoolVar(&ignored, "keep", false, "taken for runc's sake")
}

func (a *app) create(f *flag.FlagSet) func([]string) error {
	var o creation
	o.register(f)
	return func(args []string) error {
		id := args[0]
		b, err := loadBundle(o.bundle)
		if err != nil {
			return err
		}
		o.detach = true
		_, process, err := a.createContainer(id, b, &o)
		if err != nil {
			return err
		}
		return process.Release()
	}
}

// createContainer makes a container up to the point where its process waits for the start.
func (a *app) createContainer(id string, b *bundled, o *creation) (c *container, p *native.Process, err error) {
	spec := b.spec
	if err := checkTerminal(spec, o.console, o.detach); err != nil {
		return nil, nil, err
	}
	if c, err = a.make(id); err != nil {
		return nil, nil, err
	}
	var group *cgroup.Cgroup
	made := c // a return with an error sets c to nil
	defer func() {
		if err != nil {
			err = errors.Join(err, made.undo(group))
			a.poststopHooks(spec, made) // also of a container that came to nothing (runtime-spec runtime.md, "Lifecycle", step 12)
		}
	}()
	lock, err := c.lock(lockTimeout)
	if err != nil {
		return nil, nil, err
	}
	defer lock.Close() //nolint:errcheck // which unlocks
	if group, err = a.makeGroup(id, spec); err != nil {
		return nil, nil, err
	}
	c.record = record{Version: specs.Version, ID: id, Bundle: b.dir, Created: time.Now().UTC(), Owner: owner(), Terminal: spec.Process != nil && spec.Process.Terminal}
	if spec.Root != nil {
		c.Rootfs = spec.Root.Path
	}
	if group != nil {
		c.Cgroups = group.Paths()
	}
	// As the bundle has it: encoding it anew would take longer than making the namespaces.
	if err := os.WriteFile(filepath.Join(c.dir, configFile), b.text, 0o600); err != nil {
		return nil, nil, fmt.Errorf("keep the spec of container %s: %w", id, err)
	}
	a.debugf("nsexec container setup: the child of one clone3 runs a launch program in the container's namespaces")
	o.warn = func(text string) { a.warnf("%s", text) }
	if p, err = c.launch(spec, group, lock, o); err != nil {
		err = programError(spec.Process.Args, err)
	} else {
		a.debugf("child process in init(): process %d has set itself up and waits for the start", p.PID)
		a.debugf("init: closing the pipe to signal completion: the child no longer depends on this process")
	}
	return c, p, err
}

func owner() string {
	if u, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Geteuid())
}

func (a *app) makeGroup(id string, spec *specs.Spec) (*cgroup.Cgroup, error) {
	if a.noCgroup {
		return nil, a.withoutGroup(spec, errNoGroups)
	}
	g, err := cgroup.Create(spec.Linux.Resources, cgroup.Options{ID: id, Path: spec.Linux.CgroupsPath, Systemd: a.systemd, All: true, AllowMissing: a.rootless})
	if err != nil {
		return nil, a.withoutGroup(spec, err)
	}
	return g, nil
}

// undo takes away what a failed create made.
func (c *container) undo(group *cgroup.Cgroup) error {
	var err error
	if group != nil {
		ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
		defer cancel()
		err = errors.Join(group.Kill(ctx), group.Delete(ctx))
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

// launch starts the process and leaves it waiting.
func (c *container) launch(spec *specs.Spec, group *cgroup.Cgroup, lock *os.File, o *creation) (*native.Process, error) {
	if spec.Root != nil {
		setHome(spec.Process, spec.Root.Path)
	}
	if err := giveStreams(spec); err != nil {
		return nil, err
	}
	dir, err := os.Open(c.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close() //nolint:errcheck // read only
	listener, err := launch.Listen(dir, startSock)
	if err != nil {
		return nil, err
	}
	defer listener.Close() //nolint:errcheck // the child has its own
	options := native.Options{
		Cgroup: group, Maps: idmap.Maps{UID: spec.Linux.UIDMappings, GID: spec.Linux.GIDMappings},
		Stdio: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, Start: listener, Lock: lock, Warn: o.warn,
		Ready: func(p *native.Process) error { return c.ready(p, o) },
		Agent: c.agent(spec, "creating"),
	}
	for i := range o.preserve {
		options.PassFDs = append(options.PassFDs, os.NewFile(uintptr(3+i), fmt.Sprintf("file descriptor %d", 3+i))) //nolint:gosec // small
	}
	if createsWithHooks(spec.Hooks) {
		options.Created = func(p *native.Process) error { return c.createHooks(spec, p) }
	}
	p, err := native.Start(spec, options)
	if err != nil {
		return nil, err
	}
	if group != nil {
		err = group.Settled()
	}
	return p, err
}

// ready is called when the process is about to wait: everything that create promises is done here, so that a failure still
// ends it.
func (c *container) ready(p *native.Process, o *creation) error {
	_, start, err := processStat(p.PID)
	if err != nil {
		return err
	}
	c.PID, c.StartTime, c.Steps, c.Agent = p.PID, start, p.Plan.Program.Steps(launch.PointReady), p.Plan.AgentLast
	if p.Terminal != nil {
		if err := o.holdTerminal(p.Terminal); err != nil {
			return err
		}
	}
	if o.pidfdSocket != "" {
		if err := sendFD(o.pidfdSocket, p.PIDFD(), []byte(ptmx)); err != nil {
			return fmt.Errorf("--pidfd-socket %s: %w", o.pidfdSocket, err)
		}
	}
	if o.pidFile != "" {
		if err := writePIDFile(o.pidFile, p.PID); err != nil {
			return err
		}
	}
	return c.save()
}

// writePIDFile writes it whole or not at all: engines watch for it.
func writePIDFile(name string, pid int) error {
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name))
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o644); err != nil { //nolint:gosec // engines of other users read it
		return fmt.Errorf("write the pid file: %w", err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("write the pid file: %w", err)
	}
	return nil
}

// ptmx is the data that goes with a terminal or a pidfd: its name in runc's protocol.
const ptmx = "/dev/ptmx"

// sendFD passes a file over a unix socket, with data.
func sendFD(socket string, f *os.File, data []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is buffered
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return err
	}
	return unix.Sendmsg(fd, data, unix.UnixRights(int(f.Fd())), nil, 0) //nolint:gosec // a file descriptor
}
