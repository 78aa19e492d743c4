// Package gvisor runs sandboxes on gVisor's kernel: a process that serves the system calls of the program, which the host's
// kernel then never sees.
//
// Its place on the road is native's, and it stands on native: a gVisor sandbox is a native one whose program is that kernel,
// `brig-gvisor`, behind every layer that the policy asks for. Namespaces, ids, mounts, control groups, Landlock, security
// modules, signals and the end of it are native's. What is this package's own: the spec of the kernel process and the spec
// that the guest sees, both made from the sandbox's one; the files that go between; and the control socket, over which the
// program is started and others are executed beside it.
package gvisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"brig/internal/annotation"
	"brig/internal/fault"
	"brig/internal/isolation/gvisor/job"
	"brig/internal/isolation/native"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options are what a start needs beside the spec.
type Options struct {
	native.Options
	// ID is the sandbox's.
	ID string
	// Dir is the sandbox's own folder, root's alone, where the control socket is made.
	Dir string
	// Beside is the folder of the caller's own program, where it has been executed from another one; "" where it has not.
	Beside string
	// User is the host's id that the kernel process becomes, of a sandbox without ids of its own; 0 for nobody, whom others share.
	User uint32
	// Held leaves the program to Begin: the kernel runs, and waits. Its process ends as the program will have ended.
	Held bool
	// Image is the EROFS image of the root, nil for a folder. It stays the caller's.
	Image *os.File
	// Said is listened to by Exec, for why the kernel has ended; nil for nothing.
	Said *Said
	// Saved are the files of a checkpoint from which the kernel goes on (SavedFiles), each to be read from its start; none for a start.
	Saved []*os.File
}

// Process is the first program of a sandbox, as the kernel process that serves it: its PID is the kernel's.
type Process struct {
	*native.Process

	status *os.File
	gofer  *native.Process
	// reaped takes the end of the file server. It is waited for at once: the first process of a pid namespace does not end before every
	// other one of it is gone (pid_namespaces(7)), and this one is nobody's there.
	reaped chan error
}

// ProgramError is a program that the guest's kernel could not execute.
type ProgramError struct {
	Errno unix.Errno
	Text  string // gVisor's words
	// Looked: nothing has been executed, it was looked for.
	Looked bool
}

func (e *ProgramError) Error() string { return e.Text }

// Unwrap gives the errno.
func (e *ProgramError) Unwrap() error { return e.Errno }

// Start launches the sandbox that spec describes, and gives it when its program runs. Everything that was made is gone again
// on an error. ctx ends the waiting for the kernel, and the start with it.
func Start(ctx context.Context, spec *specs.Spec, o Options) (*Process, error) {
	if err := errors.Join(Check(spec), checkLimits()); err != nil {
		return nil, err
	}
	program, err := openFor(spec, o.Beside)
	if err != nil {
		return nil, err
	}
	defer program.Close() //nolint:errcheck // read only
	s := &start{spec: spec, options: &o}
	defer s.close()
	p, err := s.run(ctx, program)
	if err != nil && p != nil {
		_ = p.Signal(unix.SIGKILL)
		s.close() // or its pipe would not end
		_, _ = p.Wait()
		err = errors.Join(err, p.Release())
	}
	if err != nil {
		return nil, o.blame(err)
	}
	return p, nil
}

// start is one start in progress.
type start struct {
	spec    *specs.Spec
	options *Options
	files   []*os.File // ours to close
	served  []job.Served
	sockets []*os.File // the gofer's ends
}

func (s *start) own(f *os.File) *os.File {
	s.files = append(s.files, f)
	return f
}

func (s *start) close() {
	for _, f := range s.files {
		_ = f.Close()
	}
	s.files = nil
}

// run starts the kernel process, the file server if there is one, and the program. A process that is given beside an error is
// to be ended.
func (s *start) run(ctx context.Context, program *os.File) (*Process, error) {
	listener, err := s.listen()
	if err != nil {
		return nil, err
	}
	status, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if err := labelFile(s.spec, s.own(theirs)); err != nil {
		return nil, errors.Join(err, status.Close())
	}
	files, err := s.inputs(s.own(listener), theirs)
	if err != nil {
		return nil, errors.Join(err, status.Close())
	}
	o := s.options.Options
	o.Program, o.PassFDs, o.Workdir = program, files, s.spec.Process.Cwd
	around := kernelSpec(s.spec)
	s.options.become(around)
	if s.options.Held {
		around.Hooks = nil // the engine's to run
	}
	kernel, err := native.Start(around, o)
	if err != nil {
		return nil, errors.Join(err, status.Close())
	}
	fault.Point("kernel started")
	p := &Process{Process: kernel, status: status}
	if err := s.withFiles(program, p); err != nil {
		return p, err
	}
	s.close() // a kernel that is gone shows as an end of its socket and its pipe
	return p, s.begin(ctx, p)
}

// become gives the kernel process an id of its own, where it has one.
func (o *Options) become(s *specs.Spec) {
	if o.User != 0 {
		s.Process.User = specs.User{UID: o.User, GID: o.User}
	}
}

// withFiles starts the file server, if the sandbox has one.
func (s *start) withFiles(program *os.File, p *Process) (err error) {
	if len(s.served) == 0 {
		return nil
	}
	if p.gofer, err = s.serve(program, p.Process); err != nil {
		return err
	}
	p.reaped = make(chan error, 1)
	go func() {
		_, err := p.gofer.Wait()
		p.reaped <- err
	}()
	fault.Point("file server started")
	return nil
}

// begin has a kernel that has its job run the program.
func (s *start) begin(ctx context.Context, p *Process) (err error) {
	ctx, done := Asked{Kernel: p.PID}.Watched(ctx)
	defer func() {
		done()
		err = givenUp(err)
	}()
	switch {
	case len(s.options.Saved) > 0:
		if _, err := p.awaitReady(ctx); err != nil {
			return err
		}
		err = s.restore(ctx)
	case s.options.Held:
		if err = findProgram(s.spec); err == nil {
			err = p.ready(ctx, s.options.Dir)
		}
		return err
	default:
		if err = call(ctx, s.options.Dir, "Network.CreateLinksAndRoutes", loopback, nil, nil); err == nil {
			fault.Point("guest has its network")
			err = call(ctx, s.options.Dir, "containerManager.StartRoot", s.options.ID, nil, nil)
		}
	}
	if err != nil {
		return p.explain(err)
	}
	return nil
}

// inputs are the files of the kernel process, in the order of package job.
func (s *start) inputs(control, status *os.File) ([]*os.File, error) {
	r, err := s.root()
	if err != nil {
		return nil, err
	}
	file, err := s.job(r)
	if err != nil {
		return nil, err
	}
	return slices.Concat([]*os.File{file, control, status, r.file}, s.options.PassFDs, r.mounts), nil
}

// root is where the kernel has the files of a guest from: its root and its volumes.
type root struct {
	guest  *specs.Spec
	file   *os.File // an image, or the socket of the file server
	served bool     // by the file server
	mounts []*os.File
}

// root makes the connections with the file server, as far as the sandbox needs one.
func (s *start) root() (*root, error) {
	guest, below, err := s.guest()
	if err != nil {
		return nil, err
	}
	r := &root{guest: guest, file: s.options.Image}
	if mediated(s.spec) {
		r.file = nil
	}
	if kind := s.spec.Annotations[annotation.RootWritable]; kind == "disk" || kind == "" && r.file != nil && s.missingPlace(guest) {
		r.file = nil // what is laid over the image is in the tree only: the place to write, mount points, the working directory
	}
	paths := below
	if r.file == nil {
		if emptyTmp(s.spec) {
			below = withTmp(guest, below)
		}
		r.served, paths = true, append([]string{"/"}, below...)
	}
	for _, path := range paths {
		f, err := s.socket(path)
		if err != nil {
			return nil, err
		}
		r.mounts = append(r.mounts, f)
	}
	if r.served {
		r.file, r.mounts = r.mounts[0], r.mounts[1:]
	}
	return r, nil
}

// guest is the spec of the guest, and what of its root is served apart.
func (s *start) guest() (guest *specs.Spec, below []string, err error) {
	if guest, below, err = guestSpec(s.spec); err != nil {
		return nil, nil, err
	}
	places, err := s.settle(guest)
	if err != nil {
		return nil, nil, err
	}
	for i, at := range below {
		below[i] = cmp.Or(places[at], at)
	}
	return guest, below, nil
}

// job is the file with the job.
func (s *start) job(r *root) (*os.File, error) {
	j := &job.Job{ID: s.options.ID, Spec: r.guest, Gofer: r.served, PassFDs: len(s.options.PassFDs), Mounts: len(r.mounts), Saved: len(s.options.Saved) > 0, Pod: s.options.Held, Exits: s.options.Held}
	tellLimits(j, s.spec.Linux.Resources)
	limitProcesses(r.guest, s.spec.Linux.Resources)
	for i, f := range s.options.PassFDs {
		if f == nil {
			j.Closed = append(j.Closed, 3+i)
		}
	}
	if !r.served {
		if err := overImage(j, s.spec); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	f, err := s.memory("job", text)
	if err != nil {
		return nil, err
	}
	return s.own(f), nil
}

// missingPlace tells whether something is to be mounted where the image has nothing, or the program begins there: the guest's kernel does
// not make that in a root which is read-only.
func (s *start) missingPlace(guest *specs.Spec) bool {
	root, err := native.OpenRoot(s.spec.Annotations, s.spec.Root.Path)
	if err != nil || root == nil {
		return true
	}
	s.own(root)
	facts, err := native.Facts(root)
	if err != nil {
		return true
	}
	above := []string{"/dev", "/proc", "/sys"} // which gVisor mounts in any case
	for i := range guest.Mounts {
		above = append(above, path.Clean(guest.Mounts[i].Destination))
	}
	return slices.ContainsFunc(append(above, path.Clean(guest.Process.Cwd)), func(name string) bool {
		below := func(dir string) bool { return strings.HasPrefix(name, dir+"/") }
		return facts.InRoot(name) == plan.Missing && !slices.ContainsFunc(above, below)
	})
}

// tellLimits has the guest see what it may use: programs ask their kernel for that, and size themselves by it. The limits
// themselves are the cgroup's of the kernel process.
func tellLimits(j *job.Job, r *specs.LinuxResources) {
	if r == nil {
		return
	}
	if m := r.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
		j.Memory = uint64(*m.Limit) //nolint:gosec // not negative
	}
	if c := r.CPU; c != nil && c.Quota != nil && *c.Quota > 0 {
		j.CPUQuota, j.CPUPeriod = *c.Quota, 100_000 // the kernel's period, where none is said
		if c.Period != nil && *c.Period > 0 {
			j.CPUPeriod = int64(*c.Period) //nolint:gosec // at most a second
		}
	}
}

// overImage lays memory of the guest's over the image: what the policy lets be written there, or the mount points that an image does
// not have. It counts as the sandbox's memory.
func overImage(j *job.Job, spec *specs.Spec) error {
	j.Writable = true
	text, ok := spec.Annotations[annotation.RootWritableSize]
	if !ok {
		return nil
	}
	size, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return fmt.Errorf("annotation %s: %w", annotation.RootWritableSize, err)
	}
	j.Size = size
	return nil
}

// socket makes the connection over which a path is served, and gives the kernel's end.
func (s *start) socket(path string) (*os.File, error) {
	var pair [2]int
	err := labelSockets(label(s.spec), func() (err error) {
		pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	s.served = append(s.served, job.Served{Path: path})
	s.sockets = append(s.sockets, s.own(os.NewFile(uintptr(pair[1]), "files of "+path)))
	return s.own(os.NewFile(uintptr(pair[0]), "files of "+path)), nil
}

// memory is a file in RAM with content, to be read from its start.
func (s *start) memory(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	err = labelFile(s.spec, f)
	if err == nil {
		_, err = f.WriteAt(content, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// explain makes an error of the kernel's a person's: what it could not execute, or what it said before it ended.
func (p *Process) explain(err error) error {
	var remote *remoteError
	if errors.As(err, &remote) {
		return programError(remote.text)
	}
	_ = p.Signal(unix.SIGKILL)
	if isStoppedError(err) {
		return err
	}
	_ = p.status.SetReadDeadline(time.Now().Add(answerTime))
	return explained(p.status, err)
}

// programError finds the errno in what gVisor says of a program that it cannot run.
func programError(text string) error {
	if strings.Contains(text, "Kernel.WaitExited") { // gVisor's for a kernel whose first program has ended
		return &goneError{}
	}
	if _, rest, found := strings.Cut(text, "failed to find initial working directory "); found { // which is no word on the program
		return errors.New("enter the working directory " + rest)
	}
	for _, e := range []unix.Errno{unix.ENOENT, unix.EACCES, unix.ENOEXEC, unix.ENOTDIR, unix.ELOOP, unix.E2BIG, unix.EPERM} {
		if strings.HasSuffix(text, e.Error()) {
			return &ProgramError{Errno: e, Text: text}
		}
	}
	return errors.New(text)
}

// Wait waits for the end of the sandbox and gives the wait status of its program; that of the kernel process where it was
// ended before it could say.
func (p *Process) Wait() (unix.WaitStatus, error) {
	status, err := p.Process.Wait()
	if err != nil {
		return 0, err
	}
	if p.gofer != nil {
		if err := <-p.reaped; err != nil {
			return 0, err
		}
	}
	end, text, err := p.end()
	switch {
	case err != nil && !status.Exited():
		return status, nil // it was killed
	case err != nil:
		return 0, &KernelError{status.ExitStatus(), words(text)}
	case end.Error != "":
		return 0, fmt.Errorf("gVisor's kernel failed: %s", end.Error)
	}
	return waitStatus(end.Status)
}

// Release closes the descriptors that p holds. The processes themselves are not touched.
func (p *Process) Release() error {
	err := errors.Join(p.Process.Release(), p.status.Close())
	if p.gofer != nil {
		err = errors.Join(err, p.gofer.Release())
	}
	return err
}

// programName is the kernel's.
const programName = "brig-gvisor"

// openFor opens the kernel's program for a sandbox that cannot change its file. A file server without ids of its own is the host's root
// with rights over every file, and gets at its own by the procfs that it has: like the runtime itself in CVE-2019-5736.
func openFor(spec *specs.Spec, beside string) (*os.File, error) {
	f, err := open(beside)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	readAhead(f)
	if !native.MayWrite(spec, &st) {
		return f, nil
	}
	var sealed *os.File
	if os.Geteuid() == 0 {
		sealed, err = native.ReadOnly(f)
	}
	if sealed == nil { // no right to mount
		var again error
		if sealed, again = native.SealedCopy(f); again != nil {
			return nil, errors.Join(err, again, f.Close())
		}
	}
	return sealed, f.Close()
}

// readAhead has the host's kernel begin to read what is not in its page cache of a program. A page counts as memory of the control group that
// had it read (memory.rst of cgroup-v1, cgroup-v2.rst), and is this process's then. Else the first sandbox after a boot or an upgrade would have
// the program on its own account, and at its limit would throw out and read again its kernel's text for a minute before it is told to be out of memory.
func readAhead(f *os.File) {
	info, err := f.Stat()
	if err != nil {
		return // then it is slower
	}
	const most = 128 << 10 // what the kernel takes at a time (read_ahead_kb, Documentation/ABI/stable/sysfs-block)
	for at := int64(0); at < info.Size(); at += most {
		if unix.Fadvise(int(f.Fd()), at, most, unix.FADV_WILLNEED) != nil { //nolint:gosec // a file descriptor
			return
		}
	}
}

// wake is readAhead for a kernel that has waited: its text may be in no memory by now.
func wake(beside string) {
	if f, err := open(beside); err == nil {
		readAhead(f)
		_ = f.Close()
	}
}

// open finds the kernel's program: beside Brig's own, or where packages put what people do not call.
func open(beside string) (*os.File, error) {
	var dirs []string
	if beside != "" {
		dirs = append(dirs, beside)
	} else if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	for _, dir := range append(dirs, "/usr/local/libexec/brig", "/usr/libexec/brig") {
		f, err := os.Open(filepath.Join(dir, programName))
		if err == nil {
			return f, nil
		}
	}
	return nil, fmt.Errorf("isolation gvisor: %s is not installed: `make gvisor` builds it; it belongs beside brig or into /usr/libexec/brig", programName)
}

// Available tells why sandboxes cannot run on gVisor here; nil when they can.
func Available() error {
	f, err := open("")
	if err != nil {
		return err
	}
	return f.Close()
}

// listen makes the control socket. It is bound by a descriptor of its folder: a path may be longer than a socket's address.
func (s *start) listen() (*os.File, error) {
	d, err := os.Open(s.options.Dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // read only
	label, err := s.keepLabel()
	if err != nil {
		return nil, err
	}
	var l *net.UnixListener
	err = labelSockets(label, func() error {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName)})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make the control socket of gVisor's kernel: %w", err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	return f, errors.Join(err, l.Close())
}
