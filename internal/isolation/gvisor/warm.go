package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"brig/internal/isolation/gvisor/job"
	"brig/internal/isolation/native"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Warm is a kernel in its sandbox, with everything around it that a policy asks for, which waits for a program to run.
type Warm struct {
	start   *start
	process *Process
	socket  *os.File // for the job
	control *os.File // the listening control socket, and the end of the status pipe that the kernel gets
	status  *os.File
	root    *root
}

// warmTimeout bounds how long a kernel takes to become warm.
const warmTimeout = time.Minute

// StartWarm launches the sandbox of a spec without its program. The standard streams of o are not used; it has no terminal and no
// files to pass on.
func StartWarm(spec *specs.Spec, o Options) (*Warm, error) {
	if spec.Process.Terminal || len(o.PassFDs) > 0 {
		return nil, errors.New("a warm kernel has no terminal and no files to pass on")
	}
	if err := errors.Join(Check(spec), checkLimits()); err != nil {
		return nil, err
	}
	program, err := openFor(spec, o.Beside)
	if err != nil {
		return nil, err
	}
	defer program.Close() //nolint:errcheck // read only
	w := &Warm{start: &start{spec: spec, options: &o}}
	if err := w.launch(program); err != nil {
		return nil, o.blame(errors.Join(err, w.Close()))
	}
	return w, nil
}

func (w *Warm) launch(program *os.File) error {
	s := w.start
	listener, err := s.listen()
	if err != nil {
		return err
	}
	w.control = listener
	status, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	w.status = theirs
	w.process = &Process{status: status}
	if err := labelFile(s.spec, theirs); err != nil {
		return err
	}
	if w.root, err = s.root(); err != nil {
		return err
	}
	wait, err := w.pair()
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return errors.Join(err, wait.Close())
	}
	defer null.Close() //nolint:errcheck // not written
	defer wait.Close() //nolint:errcheck // the kernel's
	o := s.options.Options
	o.Program, o.PassFDs, o.Stdio = program, []*os.File{wait}, [3]*os.File{null, null, null}
	for range job.FirstFD - job.ControlFD + len(w.root.mounts) {
		o.PassFDs = append(o.PassFDs, null) // keeps the number for what comes with the job
	}
	if w.process.Process, err = native.Start(kernelSpec(s.spec), o); err != nil {
		return err
	}
	if err := s.withFiles(program, w.process); err != nil {
		return err
	}
	for _, f := range s.sockets { // the file server has them
		_ = f.Close()
	}
	_ = wait.Close()
	return w.await()
}

// pair makes the socket over which the job will come, and gives the kernel's end.
func (w *Warm) pair() (*os.File, error) {
	var pair [2]int
	err := labelSockets(label(w.start.spec), func() (err error) {
		pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	w.socket = os.NewFile(uintptr(pair[0]), "job")
	return os.NewFile(uintptr(pair[1]), "job"), nil
}

// await waits for the kernel's word.
func (w *Warm) await() error {
	bound := unix.NsecToTimeval(warmTimeout.Nanoseconds())
	fd := int(w.socket.Fd()) //nolint:gosec // a file descriptor
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &bound); err != nil {
		return fmt.Errorf("wait for a warm kernel: %w", err)
	}
	b := make([]byte, 2)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for a warm kernel: %w", err)
		case string(b[:n]) != job.Warm:
			return errors.New("gVisor's kernel ended before it was warm")
		}
		return nil
	}
}

// Native is the kernel process, for what is known of it before it has a program.
func (w *Warm) Native() *native.Process { return w.process.Process }

// PIDs are those of the kernel process and, where there is one, the file server.
func (w *Warm) PIDs() []int {
	pids := []int{w.process.PID}
	if w.process.gofer != nil {
		pids = append(pids, w.process.gofer.PID)
	}
	return pids
}

// Ends are readable when the kernel, or its file server, has ended.
func (w *Warm) Ends() []*os.File {
	ends := []*os.File{w.process.PIDFD()}
	if w.process.gofer != nil {
		ends = append(ends, w.process.gofer.PIDFD())
	}
	return ends
}

// Begin gives the kernel its program, and with it to the caller: w is used up, also by an error. spec is that of StartWarm but for the
// words and the environment of the program.
func (w *Warm) Begin(ctx context.Context, spec *specs.Spec, stdio [3]*os.File) (*Process, error) {
	s, p := w.start, w.process
	pr := w.root.guest.Process
	pr.Args, pr.Env = spec.Process.Args, spec.Process.Env
	wake(s.options.Beside)
	err := w.send(stdio)
	w.release()
	if err == nil {
		err = s.begin(ctx, p)
	}
	if err != nil {
		_ = p.Signal(unix.SIGKILL)
		_, _ = p.Wait()
		return nil, errors.Join(err, p.Release())
	}
	return p, nil
}

func (w *Warm) send(stdio [3]*os.File) error {
	file, err := w.start.job(w.root)
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range slices.Concat(stdio[:], []*os.File{file, w.control, w.status, w.root.file}, w.root.mounts) {
		fds = append(fds, int(f.Fd())) //nolint:gosec // a file descriptor
	}
	if err := unix.Sendmsg(int(w.socket.Fd()), []byte(job.Warm), unix.UnixRights(fds...), nil, 0); err != nil { //nolint:gosec // a file descriptor
		return fmt.Errorf("give the warm kernel its job: %w", err)
	}
	return nil
}

// release closes what the kernel has by then, or will not get.
func (w *Warm) release() {
	for _, f := range []*os.File{w.socket, w.control, w.status} {
		if f != nil {
			_ = f.Close()
		}
	}
	w.start.close()
}

// Close ends a kernel that got no program.
func (w *Warm) Close() error {
	p := w.process
	if p != nil && p.Process != nil {
		_ = p.Signal(unix.SIGKILL)
	}
	w.release()
	switch {
	case p == nil:
		return nil
	case p.Process == nil:
		return p.status.Close()
	}
	_, _ = p.Wait()
	return p.Release()
}

// Identity names the kernel's program as it lies on the disk now, so that a kernel that was started from another one is known.
func Identity() (string, error) {
	f, err := open("")
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	return FileIdentity(st), nil
}

// FileIdentity names a file and its content, as far as that shows without reading it.
func FileIdentity(info os.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d:%d:%d:%d", st.Dev, st.Ino, st.Size, st.Ctim.Nano())
}
