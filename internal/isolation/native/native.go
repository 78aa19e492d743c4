// Package native runs sandboxes on the host's own kernel: it gathers the facts that package plan needs, opens the inputs
// of the launch program, starts it, and does the parent's part at every stop.
//
// Its place on the road: package sandbox has made the cgroup, the id range and the state folder, and calls Start; what
// comes back is a running process.
package native

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"

	"brig/internal/cgroup"
	"brig/internal/fault"
	"brig/internal/idmap"
	"brig/internal/launch"
	"brig/internal/netdev"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options are what a start needs beside the spec. Files stay the caller's.
type Options struct {
	// Cgroup is the sandbox's group; nil for none.
	Cgroup *cgroup.Cgroup
	// Maps are the id maps of a new user namespace.
	Maps idmap.Maps
	// Stdio are the three standard streams. Ignored with a terminal.
	Stdio [3]*os.File
	// PassFDs become file descriptors 3 and up; nil leaves a number free.
	PassFDs []*os.File
	// Program is executed instead of the path in process.args, whose words are its arguments; nil for the path.
	Program *os.File
	// Workdir is made like process.cwd where it is missing, for a guest whose kernel Program is; "" for none.
	Workdir string
	// WithoutProc gives a further process a mount namespace of its own, with what is mounted in the sandbox's but no procfs and no
	// sysfs: it may be one that shows to others what it sees.
	WithoutProc bool
	// Supervised: the sandbox dies with the calling thread. The caller has locked its goroutine to it
	// (runtime.LockOSThread) for as long as the sandbox is to live.
	Supervised bool
	// Lock tells others that the caller lives: the child lets go of it first. Nil for none.
	Lock *os.File
	// Start is the listening socket at which the child is to wait on its own (launch.Listen); nil for no such wait.
	Start *os.File
	// Created is called when the mounts are made and before the root is entered; nil for no such stop.
	Created func(*Process) error
	// Agent is called with the listener of a seccomp filter that asks an agent, and owns it. With Start and a filter that is
	// loaded last (plan.Plan.AgentLast), it is for whoever gives the start.
	Agent func(*Process, *os.File) error
	// Meanwhile is called while the child sets itself up, for work that need not come before. An error ends the launch.
	Meanwhile func() error
	// Warn is told what was passed over because runtime-spec lets it be; nil refuses it.
	Warn func(text string)
	// Ready is called when everything is in place, just before the start is given. An error ends the launch.
	Ready func(*Process) error
}

// Process is a running first process of a sandbox, or one that was executed in it. It is a child of the caller.
type Process struct {
	PID      int
	Plan     *plan.Plan
	Terminal *os.File // the master of its terminal, or nil; the caller's to close

	child *launch.Child
}

// Start launches the sandbox that spec describes. Everything that was made is gone again on an error.
func Start(spec *specs.Spec, o Options) (*Process, error) {
	return start(spec, nil, &o, func(f *plan.Facts) (*plan.Plan, error) { return plan.Compile(spec, f) })
}

// Exec runs spec.Process in the sandbox whose first process is pid; pidfd refers to it. The rest of spec is the
// sandbox's own.
func Exec(spec *specs.Spec, pidfd *os.File, o Options) (*Process, error) {
	return start(spec, pidfd, &o, func(f *plan.Facts) (*plan.Plan, error) { return plan.CompileExec(spec, f) })
}

// start makes the plan and runs it. pidfd is the sandbox that a further process joins, nil for a first one.
func start(spec *specs.Spec, pidfd *os.File, o *Options, compile func(*plan.Facts) (*plan.Plan, error)) (*Process, error) {
	if err := launch.CheckKernel(); err != nil {
		return nil, err
	}
	p, err := try(&launching{spec: spec, options: o}, pidfd, compile)
	if errors.Is(err, launch.ErrNotBornInCgroup) {
		// Nothing has been made. The child goes into the group itself before anything else: as safe, and some milliseconds slower.
		p, err = try(&launching{spec: spec, options: o, written: true}, pidfd, compile)
	}
	return p, err
}

func try(l *launching, pidfd *os.File, compile func(*plan.Facts) (*plan.Plan, error)) (*Process, error) {
	defer l.close()
	if err := l.inputs(compile); err != nil {
		return nil, err
	}
	if pidfd != nil {
		if err := l.joinProcess(pidfd); err != nil {
			return nil, err
		}
	}
	return l.run()
}

// launching is one start in progress.
type launching struct {
	spec    *specs.Spec
	options *Options
	plan    *plan.Plan
	into    *os.File
	written bool // the child writes itself into cgroup.procs of version 2 instead of being born there
	files   map[launch.Reg]*os.File
	opened  []*os.File // ours to close
	copies  *copying
	overlay *overlay
}

func (l *launching) bind(r launch.Reg, f *os.File) {
	if l.files == nil {
		l.files = map[launch.Reg]*os.File{}
	}
	l.files[r] = f
}

// own binds a file that is closed when the launch is over.
func (l *launching) own(r launch.Reg, f *os.File) {
	l.opened = append(l.opened, f)
	l.bind(r, f)
}

func (l *launching) close() {
	for _, f := range l.opened {
		_ = f.Close()
	}
}

// inputs makes the plan and opens all that it names.
func (l *launching) inputs(compile func(*plan.Facts) (*plan.Plan, error)) error {
	var tasks []*os.File
	if c := l.options.Cgroup; c != nil {
		attach := c.Attach
		if l.written {
			attach = c.AttachByWriting
		}
		into, files, err := attach()
		if err != nil {
			return err
		}
		tasks = files
		l.opened = append(l.opened, files...)
		if into != nil {
			l.into = into
			l.opened = append(l.opened, into)
		}
	}
	facts, err := l.facts(len(tasks))
	if err != nil {
		return err
	}
	if l.plan, err = compile(facts); err != nil {
		return err
	}
	if l.plan.Listener || l.plan.Agent {
		if err := launch.CheckListener(); err != nil {
			return err
		}
	}
	if !l.written { // the second time they have been said
		for _, w := range l.plan.Warnings {
			l.options.Warn(w)
		}
	}
	if l.options.Lock != nil {
		l.bind(l.plan.Lock, l.options.Lock)
	}
	if l.options.Start != nil {
		l.bind(l.plan.Start, l.options.Start)
	}
	if l.options.Program != nil {
		if err := l.above(l.plan.Exe, l.options.Program, 3+len(l.plan.PassFDs)); err != nil {
			return err
		}
	}
	for i, r := range l.plan.Tasks {
		l.bind(r, tasks[i])
	}
	for i := range l.plan.Binds {
		if err := l.openBind(&l.plan.Binds[i]); err != nil {
			return err
		}
	}
	for i := range l.plan.CopyUps {
		if err := l.copyUp(&l.plan.CopyUps[i]); err != nil {
			return err
		}
	}
	if err := l.openOverlay(l.plan.Overlay); err != nil {
		return err
	}
	for _, n := range l.plan.Join {
		f, err := os.Open(n.Path)
		if err != nil {
			return fmt.Errorf("join the %s namespace: %w", n.Type, err)
		}
		l.own(n.Reg, f)
	}
	return l.streams()
}

// streams binds copies of the standard streams and the passed files with numbers above those they will get: dup3 onto
// the same number fails, and one onto another's would close it.
func (l *launching) streams() error {
	first := 3 + len(l.plan.PassFDs)
	for i, r := range l.plan.Stdio {
		if l.options.Stdio[i] == nil {
			return fmt.Errorf("standard stream %d of the sandbox is not given", i)
		}
		if err := l.above(r, l.options.Stdio[i], first); err != nil {
			return err
		}
	}
	for i, r := range l.plan.PassFDs {
		if r == 0 {
			continue
		}
		if err := l.above(r, l.options.PassFDs[i], first); err != nil {
			return err
		}
	}
	return nil
}

func (l *launching) above(r launch.Reg, f *os.File, first int) error {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, first)
	if err != nil {
		return fmt.Errorf("copy the file descriptor %d (%s): %w", f.Fd(), f.Name(), err)
	}
	l.own(r, os.NewFile(uintptr(fd), f.Name()))
	return nil
}

// run starts the child and goes with it from stop to stop.
func (l *launching) run() (*Process, error) {
	child, err := l.clone(launch.Clone{Flags: l.plan.CloneFlags, Cgroup: l.into, HighFD: l.plan.HighFD})
	if err != nil {
		return nil, err
	}
	runtime.KeepAlive(l.opened)
	fault.Point("child cloned")
	p := &Process{Plan: l.plan, child: child}
	if err := l.accompany(p); err != nil {
		child.Kill()
		return nil, errors.Join(err, child.Release())
	}
	p.PID = child.PID
	return p, nil
}

func (l *launching) accompany(p *Process) error {
	c := p.child
	if p.Plan.Process == 0 {
		if err := c.WaitFor(launch.PointNamespaces); err != nil {
			return err
		}
		if err := l.mapIDs(c.PID); err != nil {
			return err
		}
		if err := setOOMScore(c.PID, p.Plan.OOMScoreAdj); err != nil {
			return err
		}
		if len(p.Plan.NetDevices) > 0 {
			if err := netdev.Move(c.PID, p.Plan.NetDevices); err != nil {
				return fmt.Errorf("config.json: linux.netDevices: %w", err)
			}
		}
		fault.Point("id maps written")
		if err := c.Continue(); err != nil {
			return err
		}
	}
	if l.options.Created != nil && p.Plan.Process == 0 {
		if err := c.WaitFor(launch.PointCreated); err != nil {
			return err
		}
		p.PID = c.PID
		if err := l.options.Created(p); err != nil {
			return err
		}
		if err := c.Continue(); err != nil {
			return err
		}
	}
	if l.options.Meanwhile != nil {
		if err := l.options.Meanwhile(); err != nil {
			return err
		}
	}
	if p.Plan.Terminal {
		if err := c.WaitFor(launch.PointTerminal); err != nil {
			return err
		}
		p.Terminal = c.Received()
		if err := c.Continue(); err != nil {
			return err
		}
	}
	if p.Plan.Agent && !p.Plan.AgentLast {
		if err := l.agent(p); err != nil {
			return err
		}
	}
	if err := c.WaitFor(launch.PointReady); err != nil {
		return err
	}
	p.PID = c.PID
	if l.options.Ready != nil {
		if err := l.options.Ready(p); err != nil {
			return err
		}
	}
	if err := c.Continue(); err != nil {
		return err
	}
	fault.Point("start given")
	if l.options.Start != nil {
		return c.WaitHeld()
	}
	if p.Plan.AgentLast {
		if err := l.agent(p); err != nil {
			return err
		}
	}
	if !p.Plan.Listener {
		return c.WaitExec()
	}
	if err := c.WaitFor(launch.PointListener); err != nil {
		return err
	}
	listener := c.Received()
	if err := c.Continue(); err != nil {
		return errors.Join(err, listener.Close())
	}
	return c.LetOneProgram(listener)
}

// agent has the listener of the filter handed to the agent, and lets the child go on.
func (l *launching) agent(p *Process) error {
	if l.options.Agent == nil {
		return &plan.UnsupportedError{Field: "linux.seccomp", Reason: "SCMP_ACT_NOTIFY is for engines, whose agent answers"}
	}
	if err := p.child.WaitFor(launch.PointAgent); err != nil {
		return err
	}
	p.PID = p.child.PID
	if err := l.options.Agent(p, p.child.Received()); err != nil {
		return err // the child, which waits for the word, is not to have it
	}
	return p.child.Continue()
}

// setOOMScore writes a child's oom_score_adj. The kernel keeps what one with CAP_SYS_RESOURCE wrote as the lowest that the
// child can go to (proc_pid_oom_score_adj(5)).
func setOOMScore(pid int, adj *int) error {
	if adj == nil {
		return nil
	}
	err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", strconv.AppendInt(nil, int64(*adj), 10), 0)
	if err != nil {
		return fmt.Errorf("set oom_score_adj to %d (below the caller's lowest it needs CAP_SYS_RESOURCE on the host): %w", *adj, err)
	}
	return nil
}

// mapIDs writes the id maps of a new user namespace, and gives the mounts that wait for the sandbox's, new or joined, the same
// map.
func (l *launching) mapIDs(pid int) error {
	if l.plan.UserNS {
		if err := idmap.WriteMaps(pid, l.options.Maps); err != nil {
			return err
		}
	}
	var own *os.File
	if over := l.overlay != nil && l.overlay.plan.Lower.OwnIDs; over || slices.ContainsFunc(l.plan.Binds, func(b plan.Bind) bool { return b.OwnIDs }) {
		f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
		if err != nil {
			return fmt.Errorf("open the sandbox's user namespace: %w", err)
		}
		defer func() { _ = f.Close() }()
		own = f
	}
	for i := range l.plan.Binds {
		if b := &l.plan.Binds[i]; b.OwnIDs {
			if err := idmapMount(l.files[b.Reg], b, own); err != nil {
				return err
			}
		}
	}
	switch {
	case l.overlay == nil:
		return nil
	case !l.overlay.plan.Lower.OwnIDs:
		own = nil
	}
	return l.overlay.configure(own)
}

// openBind detaches a copy of a mount of the host's.
func (l *launching) openBind(b *plan.Bind) error {
	if b.MakeNode {
		f, err := l.makeNode(b.Device)
		if err != nil {
			return fmt.Errorf("config.json: linux.devices: make %s: %w", b.Source, err)
		}
		l.own(b.Reg, f)
		return nil
	}
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if b.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	if b.NoFollow {
		flags |= unix.AT_SYMLINK_NOFOLLOW
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.Source, flags)
	if err != nil {
		return fmt.Errorf("bind %s: %w", b.Source, err)
	}
	f := os.NewFile(uintptr(fd), b.Source)
	l.own(b.Reg, f)
	if err := errors.Join(checkDevice(f, b.Device), checkAttributes(f, b)); err != nil {
		return err
	}
	if !b.Propagates {
		private := unix.MountAttr{Propagation: unix.MS_PRIVATE}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &private); err != nil {
			return fmt.Errorf("bind %s: keep mount events apart: %w", b.Source, err)
		}
	}
	if len(b.UID) == 0 {
		return nil
	}
	ns, err := idmap.UserNamespace(b.UID, b.GID)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	return idmapMount(f, b, ns)
}

// checkDevice compares what was opened with the device that the spec names: by its path alone another one could come in.
func checkDevice(f *os.File, want *specs.LinuxDevice) error {
	if want == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil { //nolint:gosec // a file descriptor
		return fmt.Errorf("look at the device %s: %w", f.Name(), err)
	}
	kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b", unix.S_IFIFO: "p"}[st.Mode&unix.S_IFMT]
	rdev := uint64(st.Rdev) //nolint:unconvert // 32 bits wide on some machines
	major, minor := int64(unix.Major(rdev)), int64(unix.Minor(rdev))
	asked := want.Type
	if asked == "u" {
		asked = "c" // another word for it (runtime-spec config-linux.md, "Devices")
	}
	if kind != asked || kind != "p" && (major != want.Major || minor != want.Minor) {
		return fmt.Errorf("config.json: linux.devices: %s is %s %d:%d on this host, and the spec means %s %d:%d; in a user namespace a device is the host's of the same path",
			f.Name(), kind, major, minor, want.Type, want.Major, want.Minor)
	}
	return nil
}

// checkAttributes compares the flags of what was opened with those that the plan has seen at its path.
func checkAttributes(f *os.File, b *plan.Bind) error {
	if b.Attributes == nil {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil { //nolint:gosec // a file descriptor
		return fmt.Errorf("look at the mount of %s: %w", b.Source, err)
	}
	if attributesOf(&st) != *b.Attributes {
		return fmt.Errorf("bind %s: somebody has put another mount there meanwhile", b.Source)
	}
	return nil
}

func idmapMount(mount *os.File, b *plan.Bind, ns *os.File) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if b.IDMapRecursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	err := unix.MountSetattr(int(mount.Fd()), "", flags, &attr) //nolint:gosec // a file descriptor
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("map the owners of %s to the sandbox's ids: its file system has no idmapped mounts (mount_setattr(2) lists those that have); copy it to another one: %w", b.Source, err)
	}
	if err != nil {
		return fmt.Errorf("map the owners of %s to the sandbox's ids: %w", b.Source, err)
	}
	return nil
}

// PIDFD refers to the process for as long as p is not released. It stays p's.
func (p *Process) PIDFD() *os.File { return p.child.PIDFD }

// Wait waits for the end of the process and gives its wait status. The thread that made the process should call it.
func (p *Process) Wait() (unix.WaitStatus, error) {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(p.PID, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for process %d: %w", p.PID, err)
		case status.Stopped():
			p.untrace(status.StopSignal())
		default:
			return status, nil
		}
	}
}

// untrace ends a trace that nobody follows: a program that asks to be traced by its parent (PTRACE_TRACEME, where the
// filter lets it) has made a tracer of this process, which is told of each of its signals as if they were ends, and holds
// the program at each (ptrace(2)). It goes on with its signal as if it were not traced. The SIGTRAP of an execve is the
// trace's own. Only the thread that made the process is its tracer; from another one it stays stopped until it is killed.
func (p *Process) untrace(s unix.Signal) {
	if s == unix.SIGTRAP {
		s = 0
	}
	_, _, _ = unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(p.PID), 0, uintptr(s), 0, 0) //nolint:gosec // a pid
}

// Signal sends a signal. A process that is gone is no error.
func (p *Process) Signal(s unix.Signal) error {
	err := unix.PidfdSendSignal(int(p.child.PIDFD.Fd()), s, nil, 0) //nolint:gosec // a file descriptor
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// Release closes the descriptors that p holds. The process itself is not touched.
func (p *Process) Release() error { return p.child.Release() }
