package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"brig/internal/isolation/gvisor/job"
	"brig/internal/isolation/native"
	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// settingsFile has, in the folder of a sandbox that was held, the settings of its kernel (job.Ready): gVisor wants them again with each
// container.
const settingsFile = "gvisor.json"

func settings(dir string) (*job.Ready, error) {
	said := &job.Ready{}
	text, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if err == nil {
		err = json.Unmarshal(text, said)
	}
	if err != nil {
		return nil, fmt.Errorf("read the settings of the pod's kernel: %w", err)
	}
	return said, nil
}

// Member is a container on the kernel of another one, its pod's. What it has on the host is the tree of its files, and the server of that.
type Member struct {
	dir, id string // the kernel's folder, and the container's name there
	kernel  int
	spec    *specs.Spec
	pids    string
	stdio   [3]*os.File
	files   []*os.File // of the kernel's: the tree, and the mounts apart
	holder  *native.Process
	gofer   *native.Process
	reaped  chan error
	wait    chan error
	status  uint32
}

// Pod is where a Member goes.
type Pod struct {
	// Dir is the folder of the sandbox that has the kernel.
	Dir string
	// Kernel is the kernel's process.
	Kernel int
	// PIDs names the pid namespace in the guest; "" is that of the pod. Members with one name share it.
	PIDs string
}

// alone is the spec of what a member has on the host: namespaces of its own, none of which the guest sees.
func alone(spec *specs.Spec) *specs.Spec {
	s, linux := *spec, *spec.Linux
	linux.Namespaces = nil
	for _, kind := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.CgroupNamespace,
	} {
		linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: kind})
	}
	if i := slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace }); i >= 0 {
		linux.Namespaces = append(linux.Namespaces, spec.Linux.Namespaces[i])
	}
	s.Linux = &linux
	return &s
}

// CheckMember is Check for a container that joins a pod's kernel, whose namespaces it has.
func CheckMember(spec *specs.Spec) error {
	if h := spec.Hooks; h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0 { //nolint:staticcheck // old bundles have them
		return &UnsupportedError{"hooks", "a container on a pod's kernel has no namespaces of the host's for them"}
	}
	return Check(alone(spec))
}

// Join makes the tree of a container and starts the server of it, for the kernel of a pod. The caller's thread is locked to it: the
// processes end with that. dir is the container's own folder.
func Join(spec *specs.Spec, pod Pod, dir string, o Options) (*Member, error) {
	if err := CheckMember(spec); err != nil {
		return nil, err
	}
	program, err := openFor(spec, o.Beside)
	if err != nil {
		return nil, err
	}
	defer program.Close() //nolint:errcheck // read only
	m := &Member{dir: pod.Dir, kernel: pod.Kernel, id: o.ID, pids: pod.PIDs, stdio: o.Stdio}
	s := &start{spec: alone(spec), options: &o}
	defer s.close()
	if m.holder, err = holdTree(s.spec, program, dir, o); err != nil {
		return nil, err
	}
	if err = findProgram(s.spec); err == nil {
		err = m.serve(s, program)
	}
	if err != nil {
		return nil, errors.Join(err, m.End())
	}
	return m, nil
}

// holdTree starts a process that mounts the container's tree and waits in it for a start that is never given.
func holdTree(spec *specs.Spec, program *os.File, dir string, o Options) (*native.Process, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close() //nolint:errcheck // read only
	const name = "tree.sock"
	listener, err := launch.Listen(folder, name)
	if err != nil {
		return nil, err
	}
	defer listener.Close() //nolint:errcheck // the child has its own
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close() //nolint:errcheck // the child has its own
	n := o.Options
	n.Stdio, n.Start, n.PassFDs = [3]*os.File{null, null, null}, listener, nil
	s := kernelSpec(spec)
	o.become(s)
	s.Process.Terminal, s.Process.ConsoleSize = false, nil
	n.Program = program // which is not executed
	p, err := native.Start(s, n)
	if err != nil {
		return nil, fmt.Errorf("mount the files of the container: %w", err)
	}
	return p, nil
}

// serve starts the file server of the tree.
func (m *Member) serve(s *start, program *os.File) error {
	guest, below, err := s.guest()
	if err != nil {
		return err
	}
	m.spec = guest
	if emptyTmp(s.spec) {
		below = withTmp(m.spec, below)
	}
	m.spec.Linux.Namespaces = nil
	if m.pids != "" {
		m.spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: m.pids}}
	}
	for _, path := range append([]string{"/"}, below...) {
		f, err := s.socket(path)
		if err != nil {
			return err
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		m.files = append(m.files, os.NewFile(uintptr(fd), f.Name())) //nolint:gosec // a file descriptor
	}
	gofer, err := s.serve(program, m.holder)
	if err != nil {
		return err
	}
	m.gofer, m.reaped = gofer, make(chan error, 1)
	go func() {
		_, err := gofer.Wait()
		m.reaped <- err
	}()
	return nil
}

// Begin starts the container's program in the kernel.
func (m *Member) Begin() error {
	settings, err := settings(m.dir)
	if err != nil {
		return err
	}
	m.spec.Linux.Seccomp = job.Refusals(m.spec.Linux.Seccomp, settings.Calls)
	said := Listen(m.dir, m.kernel)
	defer said.Close()
	asked := Asked{Kernel: m.kernel, Beside: func() []int { return []int{m.gofer.PID} }}
	ctx, done := asked.Watched(context.Background())
	defer done()
	var terminal []*os.File
	files := m.stdio[:]
	if m.spec.Process.Terminal {
		terminal, files = m.stdio[:1], nil
	}
	type mount struct{ Lower, Upper int }
	args := struct {
		CID             string
		Spec            *specs.Spec
		Conf            json.RawMessage
		GoferMountConfs []mount
	}{CID: m.id, Spec: m.spec, Conf: settings.Config}
	for range m.files {
		args.GoferMountConfs = append(args.GoferMountConfs, mount{Lower: 1}) // a file server, with nothing over it (specutils.GoferMountConf)
	}
	if err = asked.Awake(); err == nil {
		err = call(ctx, m.dir, "containerManager.CreateSubcontainer", map[string]string{"CID": m.id}, terminal, nil)
	}
	if err == nil {
		err = call(ctx, m.dir, "containerManager.StartSubcontainer", args, slices.Concat(files, m.files), nil)
	}
	for _, f := range m.files {
		_ = f.Close() // the kernel's are the only ones: when it ends, the server does
	}
	m.files = nil
	var remote *remoteError
	if errors.As(err, &remote) {
		return programError(remote.text)
	}
	if stopped := (*StoppedError)(nil); errors.As(err, &stopped) {
		return fmt.Errorf("%w: `kill -CONT %d` lets it go on", givenUp(err), stopped.PID)
	}
	if err != nil {
		return said.explain(err)
	}
	c, err := dial(m.dir)
	if err != nil {
		return err
	}
	m.wait = make(chan error, 1)
	go func() {
		m.wait <- ask(context.Background(), c, "containerManager.Wait", m.id, nil, &m.status)
		_ = c.Close()
	}()
	return nil
}

// Wait waits for the end of the container's program: SIGKILL's where the pod has ended, and everything with it.
func (m *Member) Wait() (unix.WaitStatus, error) {
	err := <-m.wait
	var remote *remoteError
	if errors.As(err, &remote) {
		return 0, fmt.Errorf("wait for the container: %w", err)
	}
	if err != nil {
		return unix.WaitStatus(unix.SIGKILL), nil //nolint:nilerr // as above
	}
	Forget(m.dir, m.id)
	return waitStatus(m.status)
}

// Forget ends what is left of a container in its pod's kernel, where its name is free then. A kernel that is gone has nothing of it, nor has
// one that was told before.
func Forget(dir, id string) { _ = callSoon(dir, "containerManager.DestroySubcontainer", id, nil) }

// Signal sends a signal to the container's first program.
func (m *Member) Signal(s unix.Signal) error { return Signal(m.dir, m.id, s, false) }

// End ends what the container has on the host.
func (m *Member) End() error {
	for _, f := range m.files {
		_ = f.Close()
	}
	err := m.holder.Signal(unix.SIGKILL)
	if m.reaped != nil { // the holder is the first of their pid namespace, and ends as the last
		err = errors.Join(err, <-m.reaped, m.gofer.Release())
	}
	_, werr := m.holder.Wait()
	return errors.Join(err, werr, m.holder.Release())
}

// Terminal makes the terminal of a container.
func Terminal(size *specs.Box) (master, slave *os.File, err error) { return terminal(size) }
