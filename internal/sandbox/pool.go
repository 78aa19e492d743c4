package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"brig/internal/resident"

	"golang.org/x/sys/unix"
)

// poolFile stands in the folder of a trust domain, locked by the process that keeps its sandboxes warm.
const poolFile = "pool"

// MaxWarm is how many sandboxes one pool keeps at most. Each has the memory of an idle kernel, below the policy's limit.
const MaxWarm = 64

// refillAfter is how long a pool waits before it makes another sandbox for one that was taken: the program that has just started
// comes first.
const refillAfter = 200 * time.Millisecond

// retryAfter is how long it waits when one could not be made, at first and at most.
const retryAfter, retryAtMost = time.Second, time.Minute

// Pool is a process that keeps sandboxes of one trust domain warm.
type Pool struct {
	Domain  string    `json:"domain"`
	PID     int       `json:"pid"`
	Created time.Time `json:"created"`
	Image   *Image    `json:"image,omitempty"`
	Root    string    `json:"root,omitempty"` // the folder, without an image
	Preset  string    `json:"preset,omitempty"`
	Count   int       `json:"count"`
	// StartTime of the process, in clock ticks since boot: tells a reused pid.
	StartTime uint64 `json:"startTime"`
	// Stopped: the process is (SIGSTOP), and makes no sandboxes until it is continued.
	Stopped bool `json:"stopped,omitempty"`
	// Failed is why the last sandbox could not be made, while it tries again.
	Failed string `json:"failed,omitempty"`
}

// Warmed is a sandbox that waits for its program.
type Warmed struct {
	*State
	// Memory is what it uses of its limit, in bytes; 0 where that is not known.
	Memory uint64 `json:"memory,omitempty"`
	// Stopped: a process of it is, and no run gets it until that is continued.
	Stopped bool `json:"stopped,omitempty"`
}

// pool is that process at work.
type pool struct {
	*Store
	req  *Request
	file *os.File

	mu sync.Mutex
	// record is what stands in file.
	record Pool
	idle   map[*exec.Cmd]*os.File // the sockets of the supervisors whose sandbox nobody has
}

// KeepWarm keeps that many warm sandboxes for a request until the context ends. ready is called once they are all there; where the
// first ones cannot be made, it is an error. Later failures are told to failed, and tried again.
func (s *Store) KeepWarm(ctx context.Context, req *Request, count int, ready func(), failed func(error)) error {
	if count < 1 || count > MaxWarm {
		return fmt.Errorf("--count %d: 1 to %d", count, MaxWarm)
	}
	if err := textual(req.Spec); err != nil {
		return err
	}
	key, err := domain(req)
	if err != nil {
		return err
	}
	if err := s.Sweep(); err != nil {
		return err
	}
	p := &pool{Store: s, req: req, idle: map[*exec.Cmd]*os.File{}}
	if p.file, err = lockPool(s.warmDir(key)); err != nil {
		return err
	}
	if err := p.claim(key, count); err != nil {
		return errors.Join(err, p.file.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	first := make(chan error, count)
	var slots sync.WaitGroup
	for range count {
		slots.Go(func() { p.slot(ctx, first, failed) })
	}
	for range count {
		err = errors.Join(err, <-first)
	}
	if err == nil {
		ready()
		settled := time.AfterFunc(resident.Settled, resident.Trim)
		defer settled.Stop()
		<-ctx.Done()
	}
	cancel()
	slots.Wait()
	p.drop()
	return errors.Join(err, p.file.Close(), s.sweepWarm())
}

// claim makes the record of a pool, of which there is one a domain.
func (p *pool) claim(key string, count int) error {
	p.record = Pool{Domain: key, PID: os.Getpid(), Created: time.Now(), Image: p.req.Image, Preset: p.req.Preset, Count: count}
	if p.req.Image == nil && p.req.Spec.Root != nil {
		p.record.Root = p.req.Spec.Root.Path
	}
	p.record.StartTime, _ = startTime(p.record.PID)
	return p.write()
}

// note has the record tell that the pool cannot make a sandbox, or can again.
func (p *pool) note(failed error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.record.Failed
	p.record.Failed = ""
	if failed != nil {
		p.record.Failed = failed.Error()
	}
	if p.record.Failed != before {
		_ = p.write() // as it was
	}
}

func (p *pool) write() error {
	text, err := json.Marshal(p.record)
	if err == nil {
		_, err = p.file.WriteAt(text, 0)
	}
	if err == nil {
		err = p.file.Truncate(int64(len(text)))
	}
	return err
}

// lockPool makes and takes the record of a domain.
func lockPool(dir string) (*os.File, error) {
	path := filepath.Join(dir, poolFile)
	for {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the folder of warm sandboxes: %w", err)
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the folder was swept meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("make the record of warm sandboxes: %w", err)
		}
		free, err := tryLock(f)
		if err == nil && !free {
			err = errors.New("sandboxes of this policy and image are kept warm already; `brig warm --list` shows by which process")
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		ours, err := f.Stat()
		there, terr := os.Stat(path)
		if err == nil && terr == nil && os.SameFile(ours, there) {
			return f, nil
		}
		_ = f.Close() // swept meanwhile, as of a pool that had ended
	}
}

// slot keeps one sandbox, and makes another when it is taken. It tells first of the first one.
func (p *pool) slot(ctx context.Context, first chan<- error, failed func(error)) {
	pause := retryAfter
	for made := false; ; {
		cmd, socket, err := p.make()
		if !made {
			first <- err
			made = true
		} else if err != nil {
			failed(err)
		}
		p.note(err)
		wait := refillAfter
		if err != nil {
			wait, pause = pause, min(2*pause, retryAtMost)
		} else {
			pause = retryAfter
			p.until(ctx, cmd, socket)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// make starts a supervisor with a warm sandbox, and waits until that is warm.
func (p *pool) make() (*exec.Cmd, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "warm"), os.NewFile(uintptr(pair[1]), "warm")
	job, err := json.Marshal(monitorJob{Root: p.root, ID: newID(), Request: p.req, ImageFile: p.req.ImageFile != nil, Warm: true, Domain: p.record.Domain})
	if err != nil {
		return nil, nil, errors.Join(err, ours.Close(), theirs.Close())
	}
	cmd, err := spawnMonitor(job, p.req, theirs)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start the supervisor of a warm sandbox: %w", err), ours.Close())
	}
	var status monitorStatus
	err = json.NewDecoder(ours).Decode(&status)
	if err != nil {
		err = fmt.Errorf("the supervisor of a warm sandbox ended without a word: %w", err)
	} else if status.Error != "" {
		err = errors.New(status.Error)
	}
	if err != nil {
		_ = ours.Close()
		_ = cmd.Wait()
		return nil, nil, errors.Join(err, p.Sweep())
	}
	return cmd, ours, nil
}

// until waits until the sandbox is taken, has ended, or the context has.
func (p *pool) until(ctx context.Context, cmd *exec.Cmd, socket *os.File) {
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, socket)
		close(gone)
	}()
	select {
	case <-gone:
		_ = socket.Close()
		go func() { _ = cmd.Wait() }() // until whoever took it is done
	case <-ctx.Done():
		p.mu.Lock()
		p.idle[cmd] = socket
		p.mu.Unlock()
	}
}

// drop ends the sandboxes that nobody has, and waits for their ends.
func (p *pool) drop() {
	for _, socket := range p.idle {
		_ = unix.Shutdown(int(socket.Fd()), unix.SHUT_RDWR) //nolint:gosec // a file descriptor
	}
	for cmd := range p.idle {
		_ = cmd.Process.Signal(unix.SIGCONT) // one that is stopped would not come to its end
		_ = cmd.Wait()
	}
}

// Pools gives the pools there are, and the sandboxes that wait in them.
func (s *Store) Pools() ([]*Pool, []*Warmed, error) {
	if err := errors.Join(s.Sweep(), s.sweepWarm()); err != nil {
		return nil, nil, err
	}
	files, err := filepath.Glob(s.path("warm", "*", poolFile))
	if err != nil {
		return nil, nil, err
	}
	var pools []*Pool
	for _, name := range files {
		text, err := os.ReadFile(name)
		p := &Pool{}
		if err != nil || json.Unmarshal(text, p) != nil {
			continue // it is just being made, or is just ending
		}
		p.Stopped = stopped(p.PID)
		pools = append(pools, p)
	}
	ids, err := s.ids()
	if err != nil {
		return nil, nil, err
	}
	var list []*Warmed
	for _, id := range ids {
		b := s.sandbox(id)
		st := &State{}
		if err := b.read("state.json", st); err != nil || st.Status != Ready {
			continue
		}
		w := &Warmed{State: st, Stopped: stopped(st.Monitor) || stopped(st.PID)}
		if stats, err := b.group(st).Stats(); err == nil && len(st.Cgroups) > 0 {
			w.Memory = stats.Memory.Current
		}
		list = append(list, w)
	}
	return pools, list, nil
}

// Continue has the supervisor of a sandbox that waits, and was stopped, go on: one whose pool was killed meanwhile ends then.
func (w *Warmed) Continue() error {
	if err := unix.Kill(w.Monitor, unix.SIGCONT); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("continue process %d: %w", w.Monitor, err)
	}
	return nil
}

// Stop ends the pool, and the sandboxes in it that nobody has. Those that run go on.
func (p *Pool) Stop(ctx context.Context) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the pool of process %d: %w", p.PID, err)
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	if t, err := startTime(p.PID); err != nil || t != p.StartTime {
		return nil //nolint:nilerr // it has ended
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end the pool of process %d: %w", p.PID, err)
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100) //nolint:gosec // a file descriptor
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for the end of process %d: %w", p.PID, err)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// sweepWarm removes what pools and supervisors that were killed have left of their offers.
func (s *Store) sweepWarm() error {
	dirs, err := filepath.Glob(s.path("warm", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // it has just gone
		}
		for _, e := range entries {
			link := filepath.Join(dir, e.Name())
			if _, err := os.Stat(link); e.Type()&fs.ModeSymlink != 0 && errors.Is(err, fs.ErrNotExist) {
				_ = os.Remove(link)
			}
		}
		if err := sweepPool(dir); err != nil {
			return err
		}
	}
	_ = os.Remove(s.path("warm")) // where nothing is in it
	return nil
}

// sweepPool removes the record of a pool that has ended, and then the folder if nothing else is in it.
func sweepPool(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, poolFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(dir)
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at a pool of warm sandboxes: %w", err)
	}
	defer f.Close() //nolint:errcheck // a lock
	if free, err := tryLock(f); err != nil || !free {
		return err
	}
	_ = os.Remove(filepath.Join(dir, poolFile))
	_ = os.Remove(dir)
	return nil
}

// DetachPool is KeepWarm in a process of its own, until Pool.Stop. It comes back when the first sandboxes are warm.
func (s *Store) DetachPool(req *Request, count int) error {
	if count < 1 || count > MaxWarm {
		return fmt.Errorf("--count %d: 1 to %d", count, MaxWarm)
	}
	if err := errors.Join(textual(req.Spec), warmable(req)); err != nil {
		return err
	}
	job, err := json.Marshal(monitorJob{Root: s.root, Request: req, ImageFile: req.ImageFile != nil, Pool: count})
	if err != nil {
		return err
	}
	status, err := startMonitor(job, req)
	if err != nil {
		return fmt.Errorf("start the pool: %w", err)
	}
	if status.Error != "" {
		return &DetachError{status.Error, status.ExitCode}
	}
	return nil
}
