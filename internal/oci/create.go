package oci

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"brig/internal/cgroup"
	"brig/internal/fault"
	"brig/internal/idmap"
	"brig/internal/isolation/gvisor"
	"brig/internal/isolation/native"
	"brig/internal/launch"
	"brig/internal/operator"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cleanTimeout bounds how long the removal of a container waits for its processes.
const cleanTimeout = 20 * time.Second

// creation is what create and run take.
type creation struct {
	bundle, config, pidFile, console, pidfdSocket string

	receiver     string // the annotation pidfdReceiver
	preserve     int
	warn         func(text string)
	detach, keep bool
	relay        *console // of a terminal in the foreground
}

func (o *creation) register(f *flag.FlagSet) {
	f.StringVar(&o.bundle, "bundle", ".", "folder of config.json and the root file system")
	f.StringVar(&o.bundle, "b", ".", "short for --bundle")
	f.StringVar(&o.config, "config", "config.json", "file of the configuration, relative to the bundle")
	f.StringVar(&o.config, "f", "config.json", "short for --config")
	f.StringVar(&o.pidFile, "pid-file", "", "file that takes the process id")
	f.StringVar(&o.console, "console-socket", "", "unix socket that takes the master of the terminal")
	f.StringVar(&o.pidfdSocket, "pidfd-socket", "", "unix socket that takes a pidfd of the process")
	f.IntVar(&o.preserve, "preserve-fds", 0, "pass this many file descriptors, from 3 on")
	var ignored bool
	f.BoolVar(&ignored, "no-pivot", false, "taken for runc's sake: the root is always entered by pivot_root")
	f.BoolVar(&ignored, "no-new-keyring", false, "taken for runc's sake: the session keyring is always new")
	f.BoolVar(&ignored, "no-subreaper", false, "taken for runc's sake")
}

func (a *app) create(f *flag.FlagSet) func([]string) error {
	var o creation
	o.register(f)
	return func(args []string) error {
		o.detach = true
		b, err := a.loadBundle(o.bundle, o.config)
		if err != nil {
			return a.failure("runc create failed", err)
		}
		_, process, err := a.createContainer(args[0], b, &o)
		if err != nil {
			return a.failure("runc create failed", err)
		}
		return process.Release()
	}
}

// createContainer makes a container up to the point where its process waits for the start.
func (a *app) createContainer(id string, b *bundled, o *creation) (c *container, p process, err error) {
	spec := b.spec
	if err := checkTerminal(spec, o.console, o.detach); err != nil {
		return nil, nil, err
	}
	if err := checkAnnotations(spec, a.systemd); err != nil {
		return nil, nil, err
	}
	o.receiver = spec.Annotations[pidfdReceiver]
	policy, isolation, err := demand(spec)
	if err != nil {
		return nil, nil, err
	}
	c, lock, err := a.make(id)
	if err != nil {
		return nil, nil, err
	}
	defer lock.Close() //nolint:errcheck // which unlocks
	c.held = lock
	var group *cgroup.Cgroup
	made := c // a return with an error sets c to nil
	defer func() {
		if err != nil {
			err = errors.Join(err, made.undo(group, lock))
			a.poststopHooks(spec, made) // also of a container that came to nothing (runtime-spec runtime.md, "Lifecycle", step 12)
		}
	}()
	if c.Isolation = isolation; c.onGVisor() {
		if err = a.joinPod(c, spec); err != nil {
			return nil, nil, err
		}
	}
	if group, err = c.begin(a, b, policy); err != nil {
		return nil, nil, err
	}
	a.debugf("nsexec container setup: the child of one clone3 runs a launch program in the container's namespaces")
	o.warn = func(text string) { a.warnf("%s", text) }
	if p, err = a.launch(c, spec, group, lock, o); err != nil {
		return c, nil, programError(c.Rootfs, spec.Process, err)
	}
	a.debugf("child process in init(): process %d has set itself up and waits for the start", c.PID)
	a.debugf("init: closing the pipe to signal completion: the child no longer depends on this process")
	return c, p, nil
}

// begin writes down what is to be made before any of it is, so that a create that is killed leaves nothing unknown, and makes
// the cgroup.
func (c *container) begin(a *app, b *bundled, policy *operator.Policy) (*cgroup.Cgroup, error) {
	spec := b.spec
	var group *cgroup.Cgroup
	var err error
	var pooled *limits
	if c.Pod != "" {
		pooled = &limits{}
		pooled.take(spec.Linux.Resources)
	} else if group, err = a.locateGroup(c.id, spec, c.onGVisor()); err != nil {
		return nil, err
	}
	c.record = record{
		Version: specs.Version, ID: c.id, Bundle: b.dir, Created: time.Now().UTC(), Owner: owner(),
		Creating: true, Isolation: c.Isolation, Pod: c.Pod, PIDs: c.PIDs, Limits: pooled, Terminal: spec.Process != nil && spec.Process.Terminal,
	}
	if spec.Root != nil {
		c.Rootfs = spec.Root.Path
	}
	if group != nil {
		c.Cgroups = group.Paths()
	}
	if err := c.takeIDs(spec); err != nil {
		return nil, err
	}
	if err := errors.Join(c.noteMounts(spec), c.planClass(spec)); err != nil {
		return nil, err
	}
	// As the bundle has it, where nobody changed it: encoding it anew would take longer than making the namespaces.
	if policy != nil || c.IDs != nil && len(spec.Linux.UIDMappings) > 0 {
		if b.text, err = json.Marshal(spec); err != nil {
			return nil, err
		}
	}
	if err := c.keepSpec(b.text); err != nil {
		return nil, err
	}
	fault.Point("spec kept")
	if err := c.save(); err != nil {
		return nil, err
	}
	fault.Point("state begun")
	if err := c.makeClass(spec); err != nil {
		return nil, err
	}
	if group == nil {
		return nil, nil
	}
	if err := group.Make(); err != nil {
		c.Cgroups = nil
		return nil, a.withoutGroup(spec, err)
	}
	c.Cgroups = group.Paths()
	return group, lacking(group)
}

func (c *container) keepSpec(text []byte) error {
	if err := os.WriteFile(filepath.Join(c.dir, configFile), text, 0o600); err != nil {
		return fmt.Errorf("keep the spec of container %s: %w", c.id, err)
	}
	return nil
}

func owner() string {
	if u, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
		return u.Username
	}
	return "#" + strconv.Itoa(os.Geteuid()) // as runc has it
}

// groupID names the cgroup of a container whose bundle names none. An id is one in its state folder only, and a group is the
// machine's: under another folder than the default one, the name has that, too.
func (a *app) groupID(id string) string {
	if a.root == defaultRoot() {
		return id
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(a.root))
	name := fmt.Sprintf("%08x-%s", h.Sum32(), id)
	if !a.systemd {
		name += ".scope" // as the other driver's name ends: suites look for "*-ID.scope"
	}
	return name
}

// locateGroup decides on the container's cgroup, nil for none, and makes nothing.
func (a *app) locateGroup(id string, spec *specs.Spec, onGVisor bool) (*cgroup.Cgroup, error) {
	if a.noCgroup {
		return nil, a.withoutGroup(spec, errNoGroups)
	}
	asked := spec.Linux.Resources
	if onGVisor {
		asked = gvisor.Resources(asked)
	}
	g, err := cgroup.Locate(asked, cgroup.Options{ID: a.groupID(id), Path: spec.Linux.CgroupsPath, Systemd: a.systemd, All: true, AllowMissing: a.rootless})
	if err == nil {
		err = g.Free()
	}
	if err != nil {
		return nil, a.withoutGroup(spec, err)
	}
	return g, nil
}

// undo takes away what a failed create made. A forced delete may have gone before, and another container may have the id and
// the cgroup's path by now: that one is not touched.
func (c *container) undo(group *cgroup.Cgroup, lock *os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	if !c.owns(lock) {
		if _, err := os.Lstat(c.dir); !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		err := c.releaseIDs() // taken, and a group made, after it was deleted
		if group != nil {
			err = errors.Join(err, group.Delete(ctx))
		}
		return err
	}
	var err error
	if group != nil {
		err = errors.Join(group.Kill(ctx), group.Delete(ctx))
	}
	if err != nil {
		return err // the folder stays, and with it the way to delete the rest
	}
	if err := errors.Join(c.unmount(), c.removeClass()); err != nil {
		return err
	}
	return c.removeFolder()
}

// launch starts the process and leaves it waiting.
func (a *app) launch(c *container, spec *specs.Spec, group *cgroup.Cgroup, lock *os.File, o *creation) (process, error) {
	if err := c.mine(); err != nil {
		return nil, err
	}
	if spec.Root != nil {
		setHome(spec.Process, spec.Root.Path)
	}
	if err := c.mountNotify(spec); err != nil {
		return nil, err
	}
	if err := giveStreams(spec); err != nil {
		return nil, err
	}
	passed, err := passedFiles(listenFDs(spec) + o.preserve)
	if err != nil {
		return nil, err
	}
	options := native.Options{
		Cgroup: group, Maps: idmap.Maps{UID: spec.Linux.UIDMappings, GID: spec.Linux.GIDMappings},
		Stdio: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, Lock: lock, Warn: o.warn,
		Ready: func(p *native.Process) error { return c.ready(p, o) },
		Agent: c.agent(spec, "creating"),
	}
	options.PassFDs = passed
	if createsWithHooks(spec.Hooks) {
		options.Created = func(p *native.Process) error {
			// Written down first: a hook may hang, and a forced delete has to find the process then.
			if err := c.know(p.PID); err != nil {
				return err
			}
			return c.createHooks(spec, p)
		}
	}
	var p process
	switch {
	case c.Pod != "":
		p, err = a.bootMember(c, spec, options, o)
	case c.onGVisor():
		p, err = a.boot(c, spec, options)
	default:
		p, err = a.hold(c, spec, options)
	}
	if err != nil {
		return nil, err
	}
	fault.Point("process waits for its start")
	if group != nil {
		err = group.Settled()
	}
	return p, err
}

// hold starts a process of the host's kernel, which waits for the start at a socket in the container's folder.
func (a *app) hold(c *container, spec *specs.Spec, options native.Options) (process, error) {
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
	fault.Point("start socket made")
	options.Start = listener
	p, err := native.Start(spec, options)
	if err != nil {
		return nil, err
	}
	if f := p.Plan.Filter; f != nil {
		a.debugf("seccomp filter flags: %d", f.Flags)
	}
	return p, nil
}

// ready is called when the process is about to wait: everything that create promises is done here, so that a failure still
// ends it.
func (c *container) ready(p *native.Process, o *creation) error {
	_, start, err := processStat(p.PID)
	if err != nil {
		return err
	}
	c.PID, c.StartTime, c.Steps, c.Agent = p.PID, start, p.Plan.Program.Steps(launch.PointReady), p.Plan.AgentLast
	fault.Point("process ready")
	if err := errors.Join(c.noteRoot(), c.enterClass(p.PID)); err != nil {
		return err
	}
	return c.promise(p.Terminal, p.PIDFD(), o)
}

// promise does what create does with the process that it has made.
func (c *container) promise(terminal, pidfd *os.File, o *creation) error {
	if terminal != nil {
		if err := o.holdTerminal(terminal); err != nil {
			return err
		}
		fault.Point("terminal given away")
	}
	if o.pidfdSocket != "" {
		if err := sendFD(o.pidfdSocket, pidfd, []byte(ptmx)); err != nil {
			return fmt.Errorf("--pidfd-socket %s: %w", o.pidfdSocket, err)
		}
	}
	if o.receiver != "" {
		if err := sendFD(o.receiver, pidfd, []byte(c.id)); err != nil {
			return fmt.Errorf("annotation %s=%s: %w", pidfdReceiver, o.receiver, err)
		}
	}
	if o.pidFile != "" {
		if err := writePIDFile(o.pidFile, c.PID); err != nil {
			return err
		}
	}
	fault.Point("pid file written")
	c.Creating = false
	if err := c.save(); err != nil {
		return err
	}
	fault.Point("state written")
	return nil
}

// know writes the process of a container under way down.
func (c *container) know(pid int) error {
	_, start, err := processStat(pid)
	if err != nil {
		return err
	}
	c.PID, c.StartTime = pid, start
	return c.save()
}

// writePIDFile writes it whole or not at all: engines watch for it.
func writePIDFile(name string, pid int) error {
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name))
	_ = os.Remove(tmp) // of one that was killed
	// Made anew: in a folder that others may write to, it could be a link of theirs.
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // engines of other users read it
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(pid))
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(tmp) // a full file system needs the room
		}
	}
	if err != nil {
		return fmt.Errorf("write the pid file: %w", err)
	}
	fault.Point("pid file half written")
	if err := os.Rename(tmp, name); err != nil {
		return errors.Join(fmt.Errorf("write the pid file: %w", err), os.Remove(tmp))
	}
	return nil
}

// ptmx is the data that goes with a terminal or a pidfd: its name in runc's protocol.
const ptmx = "/dev/ptmx"

// socketTimeout is how long a caller's socket may leave the runtime waiting.
const socketTimeout = 10 * time.Second

// sendFD passes a file over a unix socket, with data.
func sendFD(socket string, f *os.File, data []byte) error {
	// unix(7): sun_path has 108 bytes, and the last one is zero. The kernel would say "invalid argument".
	if len(socket) >= len(unix.RawSockaddrUnix{}.Path) {
		return fmt.Errorf("the path of a unix socket has at most 107 bytes, and this one %d: %w", len(socket), unix.ENAMETOOLONG)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is buffered
	// A socket that nobody accepts from and whose backlog is full would keep connect(2) waiting for good.
	patience := unix.NsecToTimeval(socketTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
		return err
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
	if err == nil {
		err = unix.Sendmsg(fd, data, unix.UnixRights(int(f.Fd())), nil, unix.MSG_NOSIGNAL) //nolint:gosec // a file descriptor
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w: the caller has to listen at this unix socket", err)
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("nobody has taken the connection for %s: %w", socketTimeout, err)
	}
	return err
}
