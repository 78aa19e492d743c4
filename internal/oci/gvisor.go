package oci

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"brig/internal/cgroup"
	"brig/internal/fault"
	"brig/internal/isolation/gvisor"
	"brig/internal/isolation/native"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// process is the first process of a container, as the verb that makes it has it.
type process interface {
	Wait() (unix.WaitStatus, error)
	Signal(s unix.Signal) error
	Release() error
}

func (c *container) onGVisor() bool { return c.Isolation == "gvisor" }

// checkGVisor refuses what an engine can ask for, and gVisor's kernel would pass over.
func checkGVisor(spec *specs.Spec) error {
	if pod, err := podOf(spec); err != nil || pod != "" {
		return errors.Join(err, gvisor.CheckMember(spec))
	}
	return gvisor.Check(spec)
}

// boot starts gVisor's kernel for a container, and leaves it waiting for the start.
func (a *app) boot(c *container, spec *specs.Spec, o native.Options) (process, error) {
	if err := appendStreams(o.Stdio, spec.Process.Terminal); err != nil {
		return nil, err
	}
	a.tellPassedOver(spec)
	g := gvisor.Options{Options: o, ID: c.id, Dir: c.dir, Held: true, Beside: a.beside, User: c.kernelUser(spec)}
	p, err := gvisor.Start(context.Background(), spec, g)
	if err != nil {
		return nil, guestError(c.Rootfs, spec.Process, outOfMemory(o.Cgroup, err))
	}
	return p, nil
}

func (a *app) tellPassedOver(spec *specs.Spec) {
	for _, text := range gvisor.PassedOver(spec) {
		a.warnf("%s", text)
	}
}

// appendStreams has streams that are files written at their end: gVisor's kernel keeps a position of its own, and would write over what
// is there (its package pkg/sentry/fsimpl/host). Whoever else has the same open file appends from then on, too.
func appendStreams(streams [3]*os.File, terminal bool) error {
	for n, f := range streams {
		info, err := f.Stat()
		if err != nil {
			return fmt.Errorf("look at standard stream %d: %w", n, err)
		}
		if terminal || !info.Mode().IsRegular() {
			continue
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return fmt.Errorf("look at standard stream %d: %w", n, err)
		}
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
		if err != nil {
			return fmt.Errorf("look at standard stream %d: %w", n, err)
		}
		switch read := flags&unix.O_ACCMODE == unix.O_RDONLY; {
		case read && at == 0, flags&unix.O_APPEND != 0:
			continue
		case read || at != info.Size():
			return &gvisor.UnsupportedError{Key: fmt.Sprintf("standard stream %d", n), Reason: "it is a file that is to be used from its middle on; give a pipe"}
		}
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, flags|unix.O_APPEND); err != nil {
			return fmt.Errorf("append to standard stream %d: %w", n, err)
		}
	}
	return nil
}

// startOnGVisor is startContainer for a kernel that waits. The lock is the caller's.
func (a *app) startOnGVisor(c *container, spec *specs.Spec) (err error) {
	fault.Point("locked for the start")
	c.Started, c.Beginning = true, c.Pod == ""
	if err := c.save(); err != nil {
		return err
	}
	fault.Point("start written down")
	if a.notify, err = c.listenNotify(); err != nil {
		return c.failed(err)
	}
	if c.Pod != "" {
		err = c.beginMember()
	} else {
		err = gvisor.Begin(c.dir, c.id, c.PID)
	}
	if err != nil {
		return c.failed(guestError(c.Rootfs, spec.Process, outOfMemory(c.group(), err)))
	}
	fault.Point("program begun")
	if c.Beginning = false; c.Pod == "" {
		if err := c.save(); err != nil {
			return err
		}
	}
	fault.Point("program runs")
	if err := c.mine(); err != nil {
		return err
	}
	if h := spec.Hooks; h != nil {
		if err := runHooks("poststart", h.Poststart, c.ociState(running), hostHook(spec)); err != nil {
			return c.failed(err)
		}
	}
	return nil
}

// outOfMemory says of a kernel that has ended without a word what has ended it, where the container's group tells that.
func outOfMemory(group *cgroup.Cgroup, err error) error {
	if group == nil || !gvisor.Gone(err) {
		return err
	}
	if kills, kerr := group.OOMKills(); kerr == nil && kills > 0 {
		return fmt.Errorf("%w: container init was OOM-killed (memory limit too low?)", err) // the last words are runc's
	}
	return err
}

// guestError says what engines look for when the guest's kernel cannot execute a program, or has none to.
func guestError(rootfs string, pr *specs.Process, err error) error {
	var program *gvisor.ProgramError
	if !errors.As(err, &program) {
		return err
	}
	return failureOf(rootfs, pr, program.Errno, !program.Looked)
}

// signalGuest sends a signal to the first program of a container, or to all. One that ends everything goes to the kernel process, which
// cannot pass it over, and so do those of a paused one, which has them when it goes on.
func (c *container) signalGuest(s unix.Signal, all bool) error {
	if c.Pod != "" {
		return c.signalMember(s, all)
	}
	switch {
	case s == 0 || s == unix.SIGKILL || !c.Started:
		return c.kill(s, false)
	case c.status() == stopped:
		return errors.New("container not running")
	case c.status() == paused && (all || s >= 32): // gVisor passes the others on (its package pkg/sentry/sighandling)
		return &gvisor.UnsupportedError{Key: "kill", Reason: "the kernel is paused with its container; resume it first"}
	case c.status() == paused:
		return c.kill(s, false)
	}
	err := gvisor.Signal(c.dir, c.id, s, all)
	if err != nil && c.status() == stopped {
		return errors.New("container not running")
	}
	return err
}

// asked are the processes that are asked for what the container's kernel does.
func (a *app) asked(c *container) gvisor.Asked {
	if c.Pod == "" {
		return gvisor.Asked{Kernel: c.PID}
	}
	pod, err := a.open(c.Pod)
	if err != nil {
		return gvisor.Asked{}
	}
	return gvisor.Asked{Kernel: pod.PID, Beside: c.memberPids}
}

// toContinue says of an error by a process that is stopped what to do about it.
func (c *container) toContinue(err error) error {
	if e := (*gvisor.StoppedError)(nil); errors.As(err, &e) {
		return fmt.Errorf("%w: `kill -CONT %d` lets it go on, `brig-oci delete --force %s` ends the container", err, e.PID, c.id)
	}
	return err
}

// checkExec refuses what a further program of the guest cannot have for itself. own is the container's first.
func (o *execution) checkExec(own, pr *specs.Process) error {
	for _, f := range []struct {
		key   string
		asked bool
	}{
		{"--cgroup", len(o.cgroups) > 0},
		{"process.rlimits", len(pr.Rlimits) > 0 && !reflect.DeepEqual(pr.Rlimits, own.Rlimits)}, // without any it has the first's, as runc has it
		{"process.apparmorProfile", pr.ApparmorProfile != own.ApparmorProfile},
		{"process.selinuxLabel", pr.SelinuxLabel != own.SelinuxLabel},
		{"process.oomScoreAdj", pr.OOMScoreAdj != nil && !reflect.DeepEqual(pr.OOMScoreAdj, own.OOMScoreAdj)},
		{"process.scheduler", !reflect.DeepEqual(pr.Scheduler, own.Scheduler)},
		{"process.ioPriority", !reflect.DeepEqual(pr.IOPriority, own.IOPriority)},
		{"process.execCPUAffinity", pr.ExecCPUAffinity != nil},
	} {
		if f.asked {
			return &gvisor.UnsupportedError{Key: f.key, Reason: "it is the kernel process's, which a further program shares with the first"}
		}
	}
	if mask := pr.User.Umask; mask != nil && *mask != guestUmask {
		return &gvisor.UnsupportedError{Key: "process.user.umask", Reason: fmt.Sprintf("gVisor starts each further program with %04o", guestUmask)}
	}
	return nil
}

// guestUmask is that of every further program of a guest (gVisor's pkg/sentry/control, proc.go).
const guestUmask = 0o022

// executeOnGVisor runs a further program in the guest. own is the container's first.
func (a *app) executeOnGVisor(c *container, o *execution, own *specs.Process, spec *specs.Spec) error {
	switch s := c.status(); {
	case s == created:
		return &gvisor.UnsupportedError{Key: "exec", Reason: "the guest has nothing before its first program runs; start the container first"}
	case s == paused: // with --ignore-paused
		return &gvisor.UnsupportedError{Key: "--ignore-paused", Reason: "the kernel is paused with its container"}
	}
	if err := o.checkExec(own, spec.Process); err != nil {
		return err
	}
	streams := [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
	if err := appendStreams(streams, spec.Process.Terminal); err != nil {
		return err
	}
	passed, err := passedFiles(o.preserve)
	if err != nil {
		return err
	}
	if slices.Contains(passed, nil) {
		return fmt.Errorf("--preserve-fds %d: not all of them are open", o.preserve)
	}
	asked := a.asked(c)
	if err := asked.Awake(); err != nil {
		return c.toContinue(err)
	}
	ctx, done := asked.Watched(context.Background())
	defer done()
	said := gvisor.Listen(c.kernelDir(), asked.Kernel)
	defer said.Close()
	p, err := gvisor.Exec(ctx, spec, gvisor.Options{
		Said:    said,
		Options: native.Options{Stdio: streams, PassFDs: passed, Warn: func(text string) { a.warnf("%s", text) }},
		ID:      c.id, Dir: c.kernelDir(),
	})
	done()
	if err != nil {
		return guestError(c.Rootfs, spec.Process, outOfMemory(c.group(), c.toContinue(err)))
	}
	defer p.Release() //nolint:errcheck // a connection
	fault.Point("program runs")
	if o.detach {
		if err = a.standIn(c, p, o); err == nil {
			a.code = 0
		}
	} else {
		err = a.attend(p, o)
		if lines := said.Lines(); err == nil && lines != nil {
			a.warnf("gVisor's kernel has ended, and said: %s", strings.Join(lines, "; "))
		}
	}
	if err != nil {
		return errors.Join(err, p.Signal(unix.SIGKILL))
	}
	return nil
}

// attend waits for a program of the guest, as the process whose exit code is the program's.
func (a *app) attend(p *gvisor.Executed, o *execution) error {
	self, err := pidfdOf(os.Getpid())
	if err != nil {
		return err
	}
	defer self.Close() //nolint:errcheck // read only
	defer func() { o.relay.close() }()
	if err := o.ready(p.Terminal, self, os.Getpid()); err != nil {
		return err
	}
	stop := forward(p.Signal)
	defer stop()
	status, err := p.Wait()
	if err != nil {
		return err
	}
	a.code = exitCode(status)
	return nil
}

// attendVerb is the command of a process that stands for a program of a guest, in a detached exec. It is no command of people's.
const attendVerb = "attend-guest"

// standIn leaves a process behind that stands for a program of the guest: engines know a program by a process, which ends as it
// does, and to which they send its signals.
func (a *app) standIn(c *container, p *gvisor.Executed, o *execution) error {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close() //nolint:errcheck // read only
	cmd, err := a.again(theirs, "exec", c.kernelDir(), c.id, strconv.Itoa(int(p.PID())))
	_ = theirs.Close()
	if err != nil {
		return err
	}
	// It is this process's child until this process ends: the number stays its own.
	err = expect(ready)
	var pidfd *os.File
	if err == nil {
		pidfd, err = pidfdOf(cmd.Process.Pid)
	}
	if err == nil {
		err = errors.Join(o.ready(p.Terminal, pidfd, cmd.Process.Pid), pidfd.Close())
	}
	if err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	return nil
}

// expect waits for the word of a process that was started.
func expect(ready io.Reader) error {
	if n, err := ready.Read(make([]byte, 1)); n == 0 {
		return fmt.Errorf("the process that stands for the program has ended: %w", err)
	}
	return nil
}

// again starts this program once more, with nothing of this one's but a file, which is its file descriptor 3.
func (a *app) again(f *os.File, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command("/proc/self/exe", append([]string{"--root", a.root, attendVerb}, args...)...) //nolint:gosec // this program
	cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", []string{}, []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a process that stands for the program: %w", err)
	}
	return cmd, nil
}

// attendGuest is that process: "exec" passes signals on, and ends as the program does. One signal cannot be passed on, and so it has a
// child, "guard", which kills the program when its parent has been killed.
func (a *app) attendGuest(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("%s is for brig-oci itself", attendVerb)
	}
	pid, err := strconv.ParseInt(args[3], 10, 32)
	if err != nil {
		return err
	}
	file := os.NewFile(3, "pipe")
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	p, err := gvisor.Attach(args[1], args[2], int32(pid))
	if err != nil {
		return err
	}
	if args[0] == "guard" {
		return guardProgram(p, file)
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "guard"), os.NewFile(uintptr(ends[1]), "guard")
	guard, err := a.again(theirs, "guard", args[1], args[2], args[3])
	if err != nil {
		return err
	}
	_ = theirs.Close()
	go passSignals(signals, p)
	if _, err := file.WriteString("r"); err != nil {
		return err
	}
	_ = file.Close()
	var status uint32
	if err := binary.Read(ours, binary.NativeEndian, &status); err != nil { // it was killed
		s, err := p.Wait()
		if err != nil {
			return err
		}
		status = uint32(s)
	}
	a.code = exitCode(unix.WaitStatus(status))
	_ = guard.Wait()
	return nil
}

// guardProgram waits for a program and tells the parent how it ended, and kills it when the parent is gone before. It is this process alone
// that waits: from the program's end on the guest's kernel may give its pid to another, and a parent that is stopped hears late of it.
func guardProgram(p *gvisor.Executed, parent *os.File) error {
	var ended atomic.Bool
	go func() {
		if n, _ := parent.Read(make([]byte, 1)); n == 0 && !ended.Load() {
			_ = p.Signal(unix.SIGKILL)
		}
	}()
	status, err := p.Wait()
	ended.Store(true)
	if err != nil {
		return err
	}
	return binary.Write(parent, binary.NativeEndian, uint32(status))
}

// passSignals hands on every signal but those that are this process's own: of its child, of its pipes, of its language's runtime.
func passSignals(signals <-chan os.Signal, p interface{ Signal(s unix.Signal) error }) {
	for s := range signals {
		if n, ok := s.(unix.Signal); ok && n != unix.SIGCHLD && n != unix.SIGPIPE && n != unix.SIGURG {
			_ = p.Signal(n)
		}
	}
}

func pidfdOf(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}
