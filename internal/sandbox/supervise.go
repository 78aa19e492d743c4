package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"brig/internal/annotation"
	"brig/internal/cgroup"
	"brig/internal/fault"
	"brig/internal/host"
	"brig/internal/idmap"
	"brig/internal/isolation/gvisor"
	"brig/internal/isolation/native"
	"brig/internal/mac/apparmor"
	"brig/internal/mounts"
	"brig/internal/plan"
	"brig/internal/resident"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cleanTimeout bounds how long the end of a sandbox waits for its processes to be gone.
const cleanTimeout = 20 * time.Second

// supervisor is one sandbox in the hands of the process that runs it.
type supervisor struct {
	*Sandbox
	req   *Request
	state State
	lock  *os.File
	group *cgroup.Cgroup
	maps  idmap.Maps
	// profile keeps the AppArmor profile loaded that was written for the sandbox.
	profile *apparmor.Hold
	// asked is the request as JSON before anything of the host's came into it, where a checkpoint may want it; nil for none.
	asked []byte
	// warm is the kernel that waits for its program, nil where it is to be started.
	warm *gvisor.Warm

	mu      sync.Mutex
	process process        // while it can be signalled
	early   syscall.Signal // came while gVisor's kernel was starting the program, which may run already; 0 for none
	cause   Cause          // why the supervisor itself ended it
	code    int
	note    string
	trace   string
	abandon context.CancelFunc // ends a start that waits for gVisor's kernel; nil before one
}

// Run runs a sandbox in the foreground, to its end: signals that reach this process go on to the program, and the
// sandbox does not outlive this process. Nothing of it is left afterwards.
func (s *Store) Run(req *Request, streams Streams) (Result, error) {
	if err := s.Sweep(); err != nil {
		return Result{}, err
	}
	if result, ok, err := s.runWarm(req, streams); ok {
		return result, err
	}
	b, err := s.prepare(newID(), req, false)
	if err != nil {
		return Result{}, err
	}
	result, err := b.run(streams, nil, nil)
	return result, errors.Join(err, b.finish(result))
}

// prepare makes the folder, the id range and the cgroup.
func (s *Store) prepare(id string, req *Request, detached bool) (*supervisor, error) {
	b, lock, err := s.create(id, req)
	if err != nil {
		return nil, err
	}
	v := &supervisor{Sandbox: b, req: req, lock: lock}
	v.state = v.newState(detached)
	for _, step := range []func() error{v.remember, v.allocate, v.limit, v.mapVolumes, v.confine} {
		if err := step(); err != nil {
			return nil, errors.Join(err, v.discard())
		}
	}
	return v, nil
}

// newState is the state of the sandbox before anything is made for it.
func (v *supervisor) newState(detached bool) State {
	st := State{
		Version: stateVersion, ID: v.ID, Name: v.req.Name, Labels: v.req.Labels, Created: time.Now(), Monitor: os.Getpid(),
		Detached: detached, Remove: v.req.Remove, Isolation: isolation(v.req.Spec), Preset: v.req.Preset, StopAfter: v.req.StopAfter,
		Image: v.req.Image, StopSignal: v.req.StopSignal,
	}
	if v.req.Spec.Process != nil {
		st.Command, st.Terminal = v.req.Spec.Process.Args, v.req.Spec.Process.Terminal
	}
	return st
}

// allocate takes the sandbox's host ids.
func (v *supervisor) allocate() error {
	spec := v.req.Spec
	if spec.Annotations[annotation.IDs] == "auto" {
		if os.Geteuid() == 0 {
			r, err := idmap.Allocate(idmap.MachineDir, v.dir)
			if err != nil {
				return err
			}
			v.state.IDs = &r
			spec.Linux.UIDMappings, spec.Linux.GIDMappings = r.Mappings(), r.Mappings()
		} else {
			v.maps = idmap.Rootless(idmap.User{Name: userName(), EUID: os.Geteuid(), EGID: os.Getegid()})
			spec.Linux.UIDMappings, spec.Linux.GIDMappings = v.maps.UID, v.maps.GID
			if v.maps.Reduced != "" {
				v.state.Missing = append(v.state.Missing, plan.MissingLayer{Layer: "ids", Reason: v.maps.Reduced})
			}
		}
	}
	v.maps.UID, v.maps.GID = spec.Linux.UIDMappings, spec.Linux.GIDMappings
	fault.Point("ids allocated")
	return nil
}

// userName is the caller's as subuid(5) knows it. The environment is not asked: it may be another user's after su.
func userName() string {
	id := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// limit makes the cgroup with its limits, before there is a process that could exceed them.
func (v *supervisor) limit() error {
	allowed := v.allowed("cgroup")
	group, err := cgroup.Create(groupLimits(v.req.Spec), cgroup.Options{ID: v.ID, Path: v.req.Spec.Linux.CgroupsPath, AllowMissing: allowed})
	switch {
	case errors.Is(err, host.ErrNotDelegated):
		if !allowed {
			return &plan.MissingLayerError{Layer: "cgroup", Reason: err.Error()}
		}
		v.state.Missing = append(v.state.Missing, plan.MissingLayer{Layer: "cgroup", Reason: err.Error()})
		return nil
	case err != nil:
		return err
	}
	v.group = group
	v.state.Cgroups = group.Paths()
	for _, m := range group.Missing() {
		v.state.Missing = append(v.state.Missing, plan.MissingLayer{Layer: "cgroup", Reason: m.Error()})
	}
	fault.Point("cgroup made")
	return nil
}

// allowed tells whether the policy accepts a sandbox without the layer.
func (v *supervisor) allowed(layer string) bool { return accepts(v.req.Spec, layer) }

func accepts(spec *specs.Spec, layer string) bool {
	for l := range strings.SplitSeq(spec.Annotations[annotation.AllowMissing], ",") {
		if strings.TrimSpace(l) == layer {
			return true
		}
	}
	return false
}

// mapVolumes turns the option "idmap" of volumes into a map: the owner of the source is the sandbox's user, so that what
// the program writes belongs to whoever owns the folder. A source of root's is shown as it is to a program that runs as
// root inside.
func (v *supervisor) mapVolumes() error {
	spec := v.req.Spec
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		o, err := mounts.Parse(m.Options)
		if err != nil || !o.IDMap || len(m.UIDMappings) > 0 {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(m.Source, &st); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.Source, m.Destination, err)
		}
		user := spec.Process.User
		if st.Uid == user.UID && st.Gid == user.GID {
			continue
		}
		uid, ok1 := idmap.HostID(v.maps.UID, user.UID)
		gid, ok2 := idmap.HostID(v.maps.GID, user.GID)
		if !ok1 || !ok2 {
			return fmt.Errorf("mount %s on %s: user %d:%d has no host id in the sandbox's map", m.Source, m.Destination, user.UID, user.GID)
		}
		m.UIDMappings = []specs.LinuxIDMapping{{ContainerID: st.Uid, HostID: uid, Size: 1}}
		m.GIDMappings = []specs.LinuxIDMapping{{ContainerID: st.Gid, HostID: gid, Size: 1}}
	}
	return nil
}

// recordAfter is how old a sandbox in the foreground is when it is written down. Encoding spec and state takes longer than
// many a program; until then nobody can have asked for it by its id, and what a killed supervisor leaves is found without.
const recordAfter = 20 * time.Millisecond

// recordSoon sees to it that the sandbox is written down: at once when it is detached, or when it has no cgroup by which
// its processes could be found. The function it gives is called at the end, and says what went wrong.
func (v *supervisor) recordSoon() (finished func() error, err error) {
	if v.state.Detached || v.group == nil {
		return func() error { return nil }, v.record()
	}
	done := make(chan error, 1)
	timer := time.AfterFunc(recordAfter, func() { done <- v.record() })
	return func() error {
		if timer.Stop() {
			return nil
		}
		return <-done
	}, nil
}

// record writes the spec and the state; who finds the state finds the spec.
func (v *supervisor) record() error {
	text, err := json.Marshal(v.req.Spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(v.dir, "config.json"), text, 0o600)
	}
	if err == nil && v.asked != nil {
		err = os.WriteFile(filepath.Join(v.dir, askedFile), v.asked, 0o600)
	}
	if err == nil {
		fault.Point("spec written")
		v.state.StartTime, _ = startTime(v.state.PID) // 0 when it has just ended
		err = v.save(&v.state)
	}
	if err != nil {
		v.kill() // it would be a sandbox that nobody can see
		return fmt.Errorf("write down sandbox %s: %w", v.ID, err)
	}
	fault.Point("state written")
	return nil
}

// run starts the sandbox and goes with it to its end. started is called when the program runs; log takes the output of
// a detached sandbox.
func (v *supervisor) run(streams Streams, log *logger, started func() error) (Result, error) {
	// The sandbox dies with the thread that made it, so the thread must not end before.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	plumbing, err := v.plumb(streams, log)
	if err != nil {
		return Result{}, err
	}
	defer plumbing.close()
	defer v.ignoreSignals()
	if v.onGVisor() {
		execs, err := gvisor.ServeExec(v.dir, v.ID, v.kernel)
		if err != nil {
			return Result{}, err
		}
		defer execs.Close() //nolint:errcheck // the sandbox has ended
	}
	if v.req.Timeout > 0 {
		timer := time.AfterFunc(v.req.Timeout, func() {
			v.end(TimedOut, 124, fmt.Sprintf("it ran longer than %s", v.req.Timeout))
		})
		defer timer.Stop()
	}
	ctx, abandon := v.starting()
	defer abandon()
	process, terminal, err := v.start(ctx, native.Options{
		Cgroup: v.group, Maps: v.maps, Stdio: plumbing.child, PassFDs: v.req.PassFDs, Supervised: true, Lock: v.lock,
		Meanwhile: v.forwardSignals, Ready: v.ready,
	})
	if err != nil && ctx.Err() != nil && !v.state.Detached { // a monitor says why there is no sandbox
		return v.result(unix.WaitStatus(unix.SIGKILL)), nil
	}
	if err != nil {
		return Result{}, err
	}
	defer v.hold(process)()
	recorded, err := v.recordSoon()
	if err != nil {
		_, _ = process.Wait() // record has killed it
		return Result{}, err
	}
	fault.Point("program started")
	plumbing.start(terminal)
	if started != nil {
		if err := started(); err != nil {
			v.kill()
		}
	}
	settled := time.AfterFunc(resident.Settled, resident.Trim)
	defer settled.Stop()
	status, err := process.Wait()
	var kernel *gvisor.KernelError
	if errors.As(err, &kernel) {
		v.kernelEnded(kernel)
		err = nil
	}
	if err := errors.Join(err, recorded()); err != nil {
		return Result{}, err
	}
	fault.Point("program ended")
	plumbing.wait()
	return v.result(status), nil
}

// kernelEnded says why gVisor's kernel ended by itself: mostly for want of a thread, which Go's runtime cannot do without.
func (v *supervisor) kernelEnded(e *gvisor.KernelError) {
	v.trace = strings.Join(e.Words, "\n")
	if v.group != nil {
		if stats, err := v.group.Stats(); err == nil && stats.Pids.LimitHits > 0 {
			v.end(Processes, 137, "the threads of gVisor's kernel and the guest's processes reached their limit together (--pids)")
			return
		}
	}
	v.end(KernelEnd, 137, e.Error())
}

// ready notes what is known when everything is in place, just before the program is executed. It is written down when the
// program runs.
func (v *supervisor) ready(p *native.Process) error {
	fault.Point("program ready")
	v.state.Status, v.state.PID, v.state.Started = Running, p.PID, time.Now()
	v.state.Landlock = Landlock{ABI: p.Plan.LandlockABI, Proved: p.Plan.LandlockProbed, NoUnixSockets: p.Plan.NoUnixSockets}
	v.state.Missing = append(v.state.Missing, p.Plan.Missing...)
	if v.req.Started != nil {
		v.req.Started(&v.state)
	}
	return nil
}

// end ends the sandbox for a reason of the supervisor's.
func (v *supervisor) end(cause Cause, code int, note string) {
	v.mu.Lock()
	if v.cause == "" {
		v.cause, v.code, v.note = cause, code, note
	}
	if v.process == nil && v.abandon != nil {
		v.abandon()
	}
	v.mu.Unlock()
	v.kill()
}

// starting is the time of a start: end ends it.
func (v *supervisor) starting() (context.Context, context.CancelFunc) {
	ctx, abandon := context.WithCancel(context.Background())
	v.mu.Lock()
	defer v.mu.Unlock()
	v.abandon = abandon
	if v.cause != "" {
		abandon()
	}
	return ctx, abandon
}

// hold makes the process the one that signals go to, until the function it gives is called: timers and signals come from
// other goroutines, and its pidfd must not be used when it is closed.
func (v *supervisor) hold(p process) (release func()) {
	v.mu.Lock()
	v.process = p
	if v.cause != "" { // it was to end before it began
		_ = p.Signal(unix.SIGKILL)
	}
	early := v.early
	v.mu.Unlock()
	if early != 0 {
		v.forward(early)
	}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.process = nil
		_ = p.Release()
	}
}

// kernel is the process of gVisor's kernel, 0 before it has a program.
func (v *supervisor) kernel() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p, ok := v.process.(*gvisor.Process); ok {
		return p.PID
	}
	return 0
}

// signal sends a signal to the process, and says whether there is one.
func (v *supervisor) signal(s syscall.Signal) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.process == nil {
		return false
	}
	_ = v.process.Signal(s)
	return true
}

// kill ends the first process, and with it the pid namespace; where the sandbox has none, its cgroup.
func (v *supervisor) kill() {
	v.signal(unix.SIGKILL)
	if _, own := plan.Namespace(v.req.Spec, specs.PIDNamespace); !own && v.group != nil {
		_ = v.group.Kill(context.Background())
	}
}

// result says how it ended.
func (v *supervisor) result(status unix.WaitStatus) Result {
	v.mu.Lock()
	cause, code, note := v.cause, v.code, v.note
	v.mu.Unlock()
	if cause != "" {
		return Result{ExitCode: code, Signal: code - 128, Cause: cause, Message: note, Trace: v.trace}.tidy()
	}
	if r, ok := v.savedResult(status); ok {
		return r
	}
	r := Result{ExitCode: status.ExitStatus(), Cause: Exited}
	if status.Signaled() {
		r = Result{ExitCode: 128 + int(status.Signal()), Signal: int(status.Signal()), Cause: Signaled}
		if status.Signal() == unix.SIGSYS {
			r.Cause, r.Message = Seccomp, "it made a system call that the filter kills for"
		}
	}
	if v.group == nil {
		return r
	}
	// A program whose child was killed for memory often ends by itself; it is said all the same.
	if kills, err := v.group.OOMKills(); err == nil && kills > 0 && r.ExitCode != 0 {
		r.Cause, r.Message = OOM, "it ran out of the memory it was allowed"+v.memoryLimit()
	}
	return r
}

func (r Result) tidy() Result {
	if r.Cause != Signaled || r.Signal < 0 {
		r.Signal = 0
	}
	return r
}

func (v *supervisor) memoryLimit() string {
	res := v.req.Spec.Linux.Resources
	if res == nil || res.Memory == nil || res.Memory.Limit == nil {
		return ""
	}
	return fmt.Sprintf(" (%d MiB)", *res.Memory.Limit>>20)
}

// startError makes the failure of a launch a person's: the program that is not there, the memory that was too little.
func (v *supervisor) startError(err error) error {
	if v.group != nil {
		if kills, _ := v.group.OOMKills(); kills > 0 {
			if v.onGVisor() { // of which the first call that the kernel no longer answers tells nothing more
				return fmt.Errorf("the sandbox ran out of memory%s while it was set up; give it more with --memory: its kernel alone takes 8 to 13 MiB", v.memoryLimit())
			}
			return fmt.Errorf("the sandbox ran out of memory%s while it was set up; give it more with --memory: %w", v.memoryLimit(), err)
		}
	}
	return commandError(v.req.Spec.Process, err)
}

// finish takes everything away again. A foreground sandbox vanishes; a detached one stays in the list until `rm`,
// with its result and its log, unless --rm.
func (v *supervisor) finish(result Result) error {
	if !v.state.Detached {
		return v.discard()
	}
	err := v.release()
	if v.req.ImageLock != nil { // before anybody hears of the end: who then removes the sandbox may prune its image
		err = errors.Join(err, v.req.ImageLock.Close())
	}
	v.state.Status, v.state.Finished, v.state.Result = Stopped, time.Now(), &result
	v.state.PID, v.state.IDs, v.state.Categories, v.state.Cgroups = 0, nil, nil, nil
	err = errors.Join(err, v.save(&v.state))
	fault.Point("end recorded")
	if text, merr := resultText(result); merr == nil {
		_, werr := v.lock.WriteAt(text, 0)
		err = errors.Join(err, werr)
	}
	if v.req.Remove {
		err = errors.Join(err, v.removeFolder(v.req.Name))
	}
	return errors.Join(err, v.lock.Close())
}

// discard removes every trace.
func (v *supervisor) discard() error {
	var err error
	if v.warm != nil { // nobody has given it a program
		err = v.warm.Close()
		v.warm = nil
	}
	err = errors.Join(err, v.release())
	fault.Point("before the folder is removed")
	return errors.Join(err, v.removeFolder(v.req.Name), v.lock.Close())
}

// release gives the cgroup and the ids back, in this order: ids are free only when no process can have them.
func (v *supervisor) release() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	if v.group != nil {
		if err := removeGroup(ctx, v.group); err != nil {
			return err
		}
		fault.Point("cgroup removed")
	}
	if err := v.unconfine(); err != nil {
		return err
	}
	if err := v.releaseIDs(&v.state); err != nil {
		return err
	}
	fault.Point("ids released")
	return nil
}

// releaseIDs gives back what was taken for ids and for categories.
func (b *Sandbox) releaseIDs(st *State) error {
	for _, r := range []*idmap.Range{st.IDs, st.Categories} {
		if r == nil {
			continue
		}
		if err := idmap.Release(idmap.MachineDir, b.dir, *r); err != nil {
			return err
		}
	}
	return nil
}

// removeGroup deletes a cgroup; what still runs in it is killed first.
func removeGroup(ctx context.Context, group *cgroup.Cgroup) error {
	pids, err := group.Pids()
	if err == nil && len(pids) > 0 {
		err = group.Kill(ctx)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return group.Delete(ctx)
}

// clear ends and removes what the sandbox of a killed supervisor has: its processes, its cgroup, its ids.
func (b *Sandbox) clear(ctx context.Context, st *State) error {
	ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	if pidfd, err := b.pidfd(st); err == nil {
		_ = unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0) //nolint:gosec // a file descriptor
		_ = pidfd.Close()
	}
	group := b.group(st)
	if len(st.Cgroups) == 0 {
		paths, err := likelyCgroups(b.ID)
		if err != nil {
			return err
		}
		group = cgroup.Open(paths)
	}
	if err := removeGroup(ctx, group); err != nil {
		return err
	}
	if err := sweepProfiles(); err != nil {
		return err
	}
	if st.IDs != nil || st.Categories != nil {
		return b.releaseIDs(st)
	}
	_, err := idmap.Sweep(idmap.MachineDir, func(owner string) bool { return owner != b.dir }) // not written down yet
	return err
}

// likelyCgroups are the groups that a supervisor had made when it was killed before it could write them down.
func likelyCgroups(id string) (map[string]string, error) {
	tree, err := host.Cgroups()
	if err != nil {
		return nil, err
	}
	paths := map[string]string{}
	add := func(key, mount string) {
		dir := mount + "/brig/" + id
		if _, err := os.Stat(dir); err == nil {
			paths[key] = dir
		}
	}
	for controller, mount := range tree.Legacy {
		add(controller, mount)
	}
	if tree.Unified != "" {
		add("", tree.Unified)
		if own, err := tree.Delegated(); os.Geteuid() != 0 && err == nil {
			add("", filepath.Join(tree.Unified, own))
		}
	}
	return paths, nil
}

func (b *Sandbox) group(st *State) *cgroup.Cgroup { return cgroup.Open(st.Cgroups) }

// startTime reads when a process started, in clock ticks since boot (proc_pid_stat(5), field 22).
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), ") ") // the name may hold anything but is closed by the last ")"
	if i := strings.LastIndex(string(text), ") "); ok && i >= 0 {
		rest = string(text)[i+2:]
	}
	f := strings.Fields(rest)
	if len(f) < 20 {
		return 0, io.ErrUnexpectedEOF
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// pidfd opens the first process, and makes sure that it still is that process.
func (b *Sandbox) pidfd(st *State) (*os.File, error) {
	if st.PID == 0 {
		return nil, syscall.ESRCH
	}
	fd, err := unix.PidfdOpen(st.PID, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if t, err := startTime(st.PID); err != nil || t != st.StartTime {
		return nil, errors.Join(syscall.ESRCH, f.Close())
	}
	return f, nil
}
