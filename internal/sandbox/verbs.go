package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"brig/internal/cgroup"
	"brig/internal/fault"
	"brig/internal/idmap"
	"brig/internal/isolation/gvisor"
	"brig/internal/isolation/native"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultStopAfter is how long Stop waits between its two signals when the sandbox does not say; docker's number.
const defaultStopAfter = 10 * time.Second

// running gives the state of a running (or paused) sandbox.
func (b *Sandbox) running() (*State, error) {
	st, err := b.State()
	if err != nil {
		return nil, err
	}
	if st.Status != Running && st.Status != Paused {
		return nil, &NotRunningError{b.ID, st.Status}
	}
	return st, nil
}

// Signal sends a signal to the first process. A signal that it has no handler for ends the sandbox, as it would
// outside of a pid namespace.
func (b *Sandbox) Signal(s unix.Signal) error {
	st, err := b.running()
	if err != nil {
		return err
	}
	pidfd, err := b.pidfd(st)
	if err != nil {
		return &NotRunningError{b.ID, Stopped}
	}
	defer func() { _ = pidfd.Close() }()
	if fatal(s) && deaf(st.PID, s) {
		s = unix.SIGKILL
	}
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) { //nolint:gosec // a file descriptor
		return fmt.Errorf("send signal %d to sandbox %s: %w", s, b.ID, err)
	}
	if s == unix.SIGKILL && st.Status == Paused {
		return b.Resume(context.Background()) // a frozen process of cgroup v1 dies when it thaws
	}
	return nil
}

// fatal tells whether a signal's default action ends a process (signal(7)).
func fatal(s unix.Signal) bool {
	switch s {
	case unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return false
	}
	return true
}

// Stop asks the program to end, and kills it when it has not after the time; 0 for the sandbox's own.
func (b *Sandbox) Stop(ctx context.Context, after time.Duration) error {
	st, err := b.running()
	if err != nil {
		return err
	}
	if after == 0 {
		after = st.StopAfter
	}
	if after == 0 {
		after = defaultStopAfter
	}
	if st.Status == Paused {
		if err := b.Resume(ctx); err != nil {
			return err
		}
	}
	lock, err := b.openLock()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	ask := unix.Signal(st.StopSignal)
	if ask == 0 {
		ask = unix.SIGTERM
	}
	if err := ignoreEnded(b.Signal(ask)); err != nil {
		return err
	}
	ended, err := lockEnd(lock)
	if err != nil {
		return err
	}
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	if err := ignoreEnded(b.Signal(unix.SIGKILL)); err != nil {
		return err
	}
	look := time.NewTicker(lookAfter)
	defer look.Stop()
	for waiting := (waiters{}); ; {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			if supervisor, err := b.stoppedSupervisor(st); err == nil {
				_ = supervisor.Close()
				return &StoppedSupervisorError{b.ID, st.Monitor}
			}
			if err := waiting.look(b, st, stuckAfter); err != nil {
				return err
			}
		}
	}
}

// ignoreEnded drops the error that the sandbox has ended meanwhile.
func ignoreEnded(err error) error {
	var ended *NotRunningError
	if errors.As(err, &ended) || errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func (b *Sandbox) openLock() (*os.File, error) {
	f, err := os.Open(filepath.Join(b.dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", b.ID, ErrNotFound)
	}
	return f, err
}

func resultText(r Result) ([]byte, error) {
	text, err := json.Marshal(r)
	return append(text, '\n'), err
}

// Wait waits for the end of the sandbox and tells how it ended, also when its folder is removed at that moment.
func (b *Sandbox) Wait(ctx context.Context) (Result, error) {
	if st, err := b.State(); err == nil && st.Status == Ready {
		return Result{}, &NotRunningError{b.ID, st.Status}
	}
	lock, err := b.openLock()
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = lock.Close() }()
	ended, err := lockEnd(lock)
	if err != nil {
		return Result{}, err
	}
	select {
	case <-ctx.Done():
		return Result{}, ctx.Err()
	case err := <-ended:
		if err != nil {
			return Result{}, fmt.Errorf("wait for sandbox %s: %w", b.ID, err)
		}
	}
	text, err := io.ReadAll(io.NewSectionReader(lock, 0, 1<<16))
	if err != nil {
		return Result{}, err
	}
	var r Result
	if json.Unmarshal(bytes.TrimSpace(text), &r) == nil && r.Cause != "" {
		return r, nil
	}
	// The supervisor was killed before it could say. The next sweep clears up and says so, once nobody has the lock, which is this one's here.
	if err := errors.Join(lock.Close(), b.store.Sweep()); err != nil {
		return Result{}, err
	}
	if st, err := b.State(); err == nil && st.Result != nil {
		return *st.Result, nil
	}
	return Result{ExitCode: 137, Cause: Lost, Message: "its supervisor was killed, and the sandbox with it"}, nil
}

// Pause freezes every process of the sandbox; Resume lets them go on.
func (b *Sandbox) Pause(ctx context.Context) error {
	group, err := b.runningGroup()
	if err != nil {
		return err
	}
	if st, err := b.State(); err == nil && st.Isolation == "gvisor" && st.Status == Running {
		return b.toContinue(gvisor.Still(ctx, b.dir, st.asked(), group.Freeze))
	}
	return group.Freeze(ctx)
}

// Resume thaws a paused sandbox.
func (b *Sandbox) Resume(ctx context.Context) error {
	group, err := b.runningGroup()
	if err != nil {
		return err
	}
	return group.Thaw(ctx)
}

func (b *Sandbox) runningGroup() (*cgroup.Cgroup, error) {
	st, err := b.running()
	if err != nil {
		return nil, err
	}
	if len(st.Cgroups) == 0 {
		return nil, fmt.Errorf("sandbox %s: %w", b.ID, cgroup.ErrNotDelegated)
	}
	return b.group(st), nil
}

// Update changes limits while the sandbox runs, and in its spec: they are what is asked for from then on.
func (b *Sandbox) Update(r *specs.LinuxResources) error {
	group, err := b.runningGroup()
	if err != nil || r == nil {
		return err
	}
	spec, err := b.Spec()
	if err != nil {
		return err
	}
	changed := *r
	if isolation(spec) == "gvisor" {
		if err := gvisor.CheckUpdate(spec.Linux.Resources, r); err != nil {
			return err
		}
		changed.Pids = nil
	}
	if err := group.Update(&changed); err != nil {
		return err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	if err := json.Unmarshal(text, spec.Linux.Resources); err != nil { // over what is there: r has only what changes
		return err
	}
	return b.write("config.json", spec)
}

// Stats reads what the sandbox uses, also one that is kept warm.
func (b *Sandbox) Stats() (*cgroup.Stats, error) {
	st, err := b.State()
	if err != nil {
		return nil, err
	}
	if st.Status == Ready && len(st.Cgroups) > 0 {
		return b.group(st).Stats()
	}
	group, err := b.runningGroup()
	if err != nil {
		return nil, err
	}
	return group.Stats()
}

// Limits reads the limits that are in force.
func (b *Sandbox) Limits() (*cgroup.Limits, error) {
	group, err := b.runningGroup()
	if err != nil {
		return nil, err
	}
	return group.Effective()
}

// Remove deletes a sandbox that has ended; with force it is killed first.
func (b *Sandbox) Remove(ctx context.Context, force bool) error {
	st, err := b.State()
	if err != nil {
		return err
	}
	if st.Status == Ready {
		return fmt.Errorf("sandbox %s is kept warm and has no program yet: brig warm --stop", b.ID)
	}
	if st.Status != Stopped {
		if !force {
			return &RunningError{b.ID}
		}
		if err := ignoreEnded(b.Signal(unix.SIGKILL)); err != nil {
			return err
		}
		if err := b.waitForced(ctx, st); err != nil {
			return err
		}
	}
	// Written down first: should this process be killed on the way, the next command goes on where it was.
	st, err = b.State()
	if errors.Is(err, ErrNotFound) {
		return nil // it removed itself at its end
	}
	if err != nil {
		return err
	}
	st.Remove = true
	if err := b.save(st); err != nil {
		return err
	}
	fault.Point("removal recorded")
	return b.removeFolder(st.Name)
}

// ExecRequest is a further process for a running sandbox. What is not given is the first process's.
type ExecRequest struct {
	Args        []string
	Env         []string // added to the sandbox's
	Cwd         string
	User        *specs.User
	Terminal    bool
	ConsoleSize *specs.Box
}

// Exec runs a process in the sandbox, behind the same layers and in the same cgroup, to its end.
func (b *Sandbox) Exec(req *ExecRequest, streams Streams) (Result, error) {
	st, err := b.running()
	if err != nil {
		return Result{}, err
	}
	if st.Status == Paused {
		return Result{}, fmt.Errorf("sandbox %s is paused; resume it first", b.ID)
	}
	spec, err := b.Spec()
	if err != nil {
		return Result{}, err
	}
	pidfd, err := b.pidfd(st)
	if err != nil {
		return Result{}, &NotRunningError{b.ID, Stopped}
	}
	defer func() { _ = pidfd.Close() }()
	pr := spec.Process
	pr.Args, pr.Env, pr.Terminal, pr.ConsoleSize = req.Args, append(pr.Env, req.Env...), req.Terminal, req.ConsoleSize
	if req.Cwd != "" {
		pr.Cwd = req.Cwd
	}
	if req.User != nil {
		pr.User = *req.User
	}
	v := &supervisor{Sandbox: b, req: &Request{Spec: spec}, state: *st}
	if len(st.Cgroups) > 0 {
		v.group = b.group(st)
	}
	v.maps = idmap.Maps{UID: spec.Linux.UIDMappings, GID: spec.Linux.GIDMappings}
	return v.exec(pidfd, streams)
}

func (v *supervisor) exec(pidfd *os.File, streams Streams) (Result, error) {
	unlock := lockThread()
	defer unlock()
	plumbing, err := v.plumb(streams, nil)
	if err != nil {
		return Result{}, err
	}
	defer plumbing.close()
	defer v.ignoreSignals()
	ctx, abandon := v.starting()
	defer abandon()
	process, terminal, err := v.startFurther(ctx, pidfd, native.Options{
		Cgroup: v.group, Maps: v.maps, Stdio: plumbing.child, Supervised: true,
		Meanwhile: v.forwardSignals,
	})
	if err != nil && ctx.Err() != nil {
		return v.result(unix.WaitStatus(unix.SIGKILL)), nil
	}
	if err != nil {
		return Result{}, err
	}
	defer v.hold(process)()
	plumbing.start(terminal)
	status, err := process.Wait()
	if err != nil {
		return Result{}, err
	}
	plumbing.wait()
	return v.result(status), nil
}
