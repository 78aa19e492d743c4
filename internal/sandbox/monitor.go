package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The monitor is the supervisor of a detached sandbox: a process of its own, in a session of its own, that `run -d`
// starts and that ends with the sandbox. What it is to do comes on its standard input, so that nothing of it stands in
// argv; what came of it goes to file descriptor 3.

// MonitorCommand is the word that makes brig a monitor.
const MonitorCommand = "monitor"

// The monitor's files: where it answers. After it come, of those that the sandbox has, the lock of the image, the image itself, if its
// isolation reads it, and the files of a checkpoint.
const statusFD = 3

// monitorJob is what `run -d` hands over.
type monitorJob struct {
	Root    string   `json:"root"`
	ID      string   `json:"id"`
	Request *Request `json:"request"`
	// ImageFile: the image itself is among the files.
	ImageFile bool `json:"imageFile,omitempty"`
	// Checkpoint is how many files of a checkpoint are.
	Checkpoint int `json:"checkpoint,omitempty"`
	// Warm: the sandbox waits for its program, and file descriptor 3 is a socket to the pool that it belongs to.
	Warm bool `json:"warm,omitempty"`
	// Domain is the trust domain of that pool.
	Domain string `json:"domain,omitempty"`
	// Pool is how many such sandboxes the process is to keep, in place of having one.
	Pool int `json:"pool,omitempty"`
}

// monitorStatus is what comes back: the id once the program runs, or why it does not.
type monitorStatus struct {
	ID       string `json:"id,omitempty"`
	Error    string `json:"error,omitempty"`
	ExitCode int    `json:"exitCode,omitempty"`
}

// DetachError is a detached sandbox that did not start.
type DetachError struct {
	Message string
	Code    int
}

func (e *DetachError) Error() string { return e.Message }

// Detach starts a sandbox that goes on by itself, and gives its id when its program runs.
func (s *Store) Detach(req *Request) (string, error) {
	if len(req.PassFDs) > 0 {
		return "", errors.New("--pass-fd needs a sandbox in the foreground")
	}
	if err := textual(req.Spec); err != nil {
		return "", err
	}
	if err := s.Sweep(); err != nil {
		return "", err
	}
	if id, ok, err := s.detachWarm(req); ok {
		return id, err
	}
	id := newID()
	job, err := json.Marshal(monitorJob{Root: s.root, ID: id, Request: req, ImageFile: req.ImageFile != nil, Checkpoint: len(req.Checkpoint.saved())})
	if err != nil {
		return "", err
	}
	status, err := startMonitor(job, req)
	if err != nil {
		return "", errors.Join(fmt.Errorf("start the monitor: %w", err), s.sandbox(id).undo())
	}
	if status.Error != "" {
		return "", &DetachError{status.Error, status.ExitCode}
	}
	return status.ID, nil
}

// textual refuses bytes that JSON, in which the monitor is told its job, would silently change.
func textual(spec *specs.Spec) error {
	words := slices.Concat(spec.Process.Args, spec.Process.Env, []string{spec.Process.Cwd})
	if spec.Root != nil {
		words = append(words, spec.Root.Path)
	}
	for _, m := range spec.Mounts {
		words = append(words, m.Source, m.Destination)
	}
	for _, w := range words {
		if !utf8.ValidString(w) {
			return fmt.Errorf("%q is no UTF-8 text, which only a sandbox in the foreground can have", w)
		}
	}
	return nil
}

func startMonitor(job []byte, req *Request) (*monitorStatus, error) {
	answers, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = answers.Close() }()
	cmd, err := spawnMonitor(job, req, out)
	if err != nil {
		return nil, err
	}
	var status monitorStatus
	if err := json.NewDecoder(answers).Decode(&status); err != nil {
		_ = cmd.Wait()
		return nil, fmt.Errorf("it ended without a word: %w", err)
	}
	return &status, cmd.Process.Release()
}

// spawnMonitor starts a monitor with its job. out is where it answers, and is closed here.
func spawnMonitor(job []byte, req *Request, out *os.File) (*exec.Cmd, error) {
	in, jobs, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	cmd := exec.Command("/proc/self/exe", MonitorCommand)
	cmd.Env = monitorEnv()
	cmd.Dir = "/"
	cmd.Stdin, cmd.ExtraFiles = in, []*os.File{out}
	if req.ImageLock != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, req.ImageLock)
	}
	if req.ImageFile != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, req.ImageFile)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, req.Checkpoint.saved()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_, _ = in.Close(), out.Close()
	if err != nil {
		return nil, errors.Join(err, jobs.Close())
	}
	_, err = jobs.Write(job)
	if err := errors.Join(err, jobs.Close()); err != nil {
		return nil, err
	}
	return cmd, nil
}

// monitorEnv is the little that a monitor needs of the caller's environment, which may hold secrets.
func monitorEnv() []string {
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=2", "GOGC=50"}
	for _, key := range []string{"USER", "BRIG_FAULT", "BRIG_FAULT_LOG"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}

// Monitor is the monitor's whole life. It gives the exit code of the process.
func Monitor() int {
	out := os.NewFile(statusFD, "status")
	syscall.CloseOnExec(statusFD)
	report := func(st monitorStatus) error { return errors.Join(json.NewEncoder(out).Encode(st), out.Close()) }
	if err := monitor(out, report); err != nil {
		_ = report(monitorStatus{Error: err.Error(), ExitCode: ExitCode(err)})
		return 1
	}
	return 0
}

func monitor(out *os.File, report func(monitorStatus) error) error {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var job monitorJob
	if err := json.Unmarshal(text, &job); err != nil {
		return fmt.Errorf("this command is brig's own and reads its job from standard input: %w", err)
	}
	next := uintptr(statusFD)
	take := func(name string) *os.File {
		next++
		syscall.CloseOnExec(int(next))
		return os.NewFile(next, name)
	}
	if job.Request.Image != nil {
		job.Request.ImageLock = take("lock of the image")
		defer job.Request.ImageLock.Close() //nolint:errcheck // a lock
	}
	if job.ImageFile {
		job.Request.ImageFile = take("image")
		defer job.Request.ImageFile.Close() //nolint:errcheck // read only
	}
	if job.Checkpoint > 0 {
		c := &Checkpoint{}
		for range job.Checkpoint {
			c.files = append(c.files, take("checkpoint"))
		}
		defer c.Close() //nolint:errcheck // read only
		job.Request.Checkpoint = c
	}
	s, err := Open(job.Root)
	if err != nil {
		return err
	}
	if job.Pool > 0 {
		ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer cancel()
		return s.KeepWarm(ctx, job.Request, job.Pool, func() { _ = report(monitorStatus{}) }, func(error) {})
	}
	if job.Warm {
		return s.holdWarm(job.ID, job.Domain, job.Request, out)
	}
	v, err := s.prepare(job.ID, job.Request, true)
	if err != nil {
		return err
	}
	return v.monitorRun(report)
}

// monitorRun runs a detached sandbox to its end.
func (v *supervisor) monitorRun(report func(monitorStatus) error) error {
	log, err := newLogger(v.dir)
	if err != nil {
		return errors.Join(err, v.discard())
	}
	var running bool
	result, err := v.run(Streams{}, log, func() error {
		running = true
		return report(monitorStatus{ID: v.ID})
	})
	err = errors.Join(err, log.close())
	if !running {
		return errors.Join(err, v.discard())
	}
	return errors.Join(err, v.finish(result))
}

// lockThread keeps the goroutine on its thread, whose death the child is tied to.
func lockThread() (unlock func()) {
	runtime.LockOSThread()
	return runtime.UnlockOSThread
}
