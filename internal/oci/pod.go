package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"brig/internal/fault"
	"brig/internal/idmap"
	"brig/internal/isolation/gvisor"
	"brig/internal/isolation/native"
	"brig/internal/launch"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A pod's containers share one gVisor kernel: that of its sandbox, the container that an engine makes first. Each further one has two
// processes on the host that hold and serve its files, and one that engines know as the container's: it waits for the program of the
// guest, ends as that does, and passes signals on.

// Annotations by which containerd's CRI plugin and CRI-O say what a container is.
var podKeys = []struct{ kind, sandbox string }{
	{"io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"},
	{"io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"},
}

// podOf gives the id of the sandbox that a spec's container joins; none for a sandbox, and for what is in no pod.
func podOf(spec *specs.Spec) (string, error) {
	for _, k := range podKeys {
		switch kind := spec.Annotations[k.kind]; kind {
		case "", "sandbox":
		case "container":
			id := spec.Annotations[k.sandbox]
			return id, checkID(id)
		default:
			return "", fmt.Errorf("config.json: annotation %s=%s: there are sandbox and container", k.kind, kind)
		}
	}
	return "", nil
}

// kernelDir is the folder of the container whose kernel this one is on.
func (c *container) kernelDir() string {
	if c.Pod == "" {
		return c.dir
	}
	return filepath.Join(filepath.Dir(c.dir), c.Pod)
}

// joinPod finds the pod of a container, and the pid namespace that it has there.
func (a *app) joinPod(c *container, spec *specs.Spec) error {
	id, err := podOf(spec)
	if err != nil || id == "" {
		return err
	}
	pod, err := a.open(id)
	switch {
	case err != nil:
		return fmt.Errorf("join the pod's kernel: %w", err)
	case !pod.onGVisor() || pod.Pod != "":
		return fmt.Errorf("join the pod's kernel: container %s is no sandbox with isolation gvisor", id)
	case pod.status() != running:
		return fmt.Errorf("join the pod's kernel: sandbox %s is %s", id, pod.status())
	}
	if err := checkShared(spec); err != nil {
		return err
	}
	c.Pod, c.PIDs = id, c.id
	for _, n := range spec.Linux.Namespaces {
		switch {
		case n.Path == "", n.Type == specs.UserNamespace, n.Type == specs.CgroupNamespace, n.Type == specs.MountNamespace:
		case n.Type == specs.PIDNamespace && !pod.has(n):
			if c.PIDs, err = a.memberPIDs(pod, n.Path); err != nil {
				return err
			}
		case n.Type == specs.PIDNamespace:
			c.PIDs = ""
		case !pod.has(n):
			return &gvisor.UnsupportedError{Key: "namespaces." + string(n.Type), Reason: n.Path + " is not the pod's, whose kernel has one"}
		}
	}
	return nil
}

// checkShared refuses a container that asks for a network, IPC or UTS namespace of its own, or for the host's: the pod's kernel has one of
// each, which it would get.
func checkShared(spec *specs.Spec) error {
	for _, kind := range []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		path, asked := plan.Namespace(spec, kind)
		switch {
		case !asked:
			return &gvisor.UnsupportedError{Key: "namespaces." + string(kind), Reason: "the host's: the containers of a pod have their kernel's"}
		case path == "":
			return &gvisor.UnsupportedError{Key: "namespaces." + string(kind), Reason: "a new one: the containers of a pod have one together, their kernel's"}
		}
	}
	return nil
}

// names are those of /proc/PID/ns.
var nsNames = map[specs.LinuxNamespaceType]string{
	specs.PIDNamespace: "pid", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.NetworkNamespace: "net",
}

// has tells whether a namespace is the one of the container's process.
func (c *container) has(n specs.LinuxNamespace) bool {
	own, err := os.Stat(fmt.Sprintf("/proc/%d/ns/%s", c.PID, nsNames[n.Type]))
	if err != nil {
		return false
	}
	other, err := os.Stat(n.Path)
	return err == nil && os.SameFile(own, other)
}

// memberPIDs gives the pid namespace of another container of the pod, which is named by its process as on the host.
func (a *app) memberPIDs(pod *container, path string) (string, error) {
	refused := &gvisor.UnsupportedError{Key: "namespaces.pid", Reason: path + " is of no container of the pod"}
	pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(path, "/proc/"), "/ns/pid"))
	if err != nil {
		return "", refused
	}
	members, err := a.members(pod.id)
	if err != nil {
		return "", err
	}
	for _, m := range members {
		if m.PID == pid {
			return m.PIDs, nil
		}
	}
	return "", refused
}

// members are the containers on a pod's kernel that live.
func (a *app) members(pod string) ([]*container, error) {
	entries, err := os.ReadDir(a.root)
	if err != nil {
		return nil, err
	}
	var list []*container
	for _, e := range entries {
		if c, err := a.open(e.Name()); err == nil && c.Pod == pod && c.status() != stopped {
			list = append(list, c)
		}
	}
	return list, nil
}

// standing is the process that stands for a container of a pod.
type standing struct{ cmd *exec.Cmd }

func (s *standing) Wait() (unix.WaitStatus, error) {
	if err := s.cmd.Wait(); s.cmd.ProcessState == nil {
		return 0, err
	}
	status, _ := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return unix.WaitStatus(status), nil
}

func (s *standing) Signal(sig unix.Signal) error { return s.cmd.Process.Signal(sig) }
func (s *standing) Release() error               { return s.cmd.Process.Release() }

// memberVerb is the command of the process that stands for a container of a pod. It is no command of people's.
const memberVerb = "stand-for-container"

// bootMember makes what a container of a pod has on the host, and leaves it waiting for the start.
func (a *app) bootMember(c *container, spec *specs.Spec, o native.Options, on *creation) (_ process, err error) {
	if len(o.PassFDs) > 0 {
		return nil, &gvisor.UnsupportedError{Key: "--preserve-fds", Reason: "a container of a pod gets its streams only"}
	}
	pod, err := a.open(c.Pod)
	if err != nil {
		return nil, err
	}
	streams := o.Stdio
	var master *os.File
	if spec.Process.Terminal {
		var slave *os.File
		if master, slave, err = gvisor.Terminal(spec.Process.ConsoleSize); err != nil {
			return nil, err
		}
		defer slave.Close() //nolint:errcheck // the other process has it
		streams = [3]*os.File{slave, slave, slave}
	} else if err := appendStreams(streams, false); err != nil {
		return nil, err
	}
	a.tellPassedOver(spec)
	s, err := a.stand(c, pod, streams)
	if err != nil {
		return nil, guestError(c.Rootfs, spec.Process, err)
	}
	defer func() {
		if err != nil {
			_ = s.Signal(unix.SIGKILL)
			_, _ = s.Wait()
		}
	}()
	pid := s.cmd.Process.Pid
	pidfd, err := pidfdOf(pid)
	if err != nil {
		return nil, err
	}
	defer pidfd.Close() //nolint:errcheck // read only
	if _, c.StartTime, err = processStat(pid); err != nil {
		return nil, err
	}
	c.PID = pid
	if err := c.promise(master, pidfd, on); err != nil {
		return nil, err
	}
	return s, a.pool(pod)
}

// stand starts the process that stands for a container, and waits until it has made the container's tree.
func (a *app) stand(c, pod *container, streams [3]*os.File) (*standing, error) {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()                                                                 //nolint:errcheck // read only
	cmd := exec.Command("/proc/self/exe", "--root", a.root, memberVerb, c.id, a.beside) //nolint:gosec // this program
	cmd.Dir, cmd.Env, cmd.ExtraFiles = "/", []string{}, []*os.File{theirs}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams[0], streams[1], streams[2]
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("start the process that stands for the container: %w", err)
	}
	s := &standing{cmd}
	if err = pod.adopt(cmd.Process.Pid); err == nil {
		// Not to the end of the pipe: what holds the tree has all of that process's files.
		var said answer
		switch err = json.NewDecoder(ready).Decode(&said); {
		case errors.Is(err, io.EOF):
			err = errors.New("the process that stands for the container has ended")
		case err == nil:
			err = said.err(true)
		}
	}
	if err != nil {
		_ = s.Signal(unix.SIGKILL)
		_, _ = s.Wait()
		return nil, err
	}
	return s, nil
}

// adopt puts a process into the container's cgroup: what is done for a pod counts as the pod's.
func (c *container) adopt(pid int) error {
	for _, dir := range c.Cgroups {
		if !filepath.IsAbs(dir) {
			continue // the name of a unit of systemd's
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("put a process into the pod's cgroup: %w", err)
		}
	}
	return nil
}

// answer is what that process says: when the tree is there, and to a start.
type answer struct {
	Error string `json:"error,omitempty"`
	Errno int    `json:"errno,omitempty"` // of the program, which the kernel could not execute, or which was looked for
}

// failed is what went wrong.
func failed(err error) (said answer) {
	if err != nil {
		said.Error = err.Error()
	}
	var program *gvisor.ProgramError
	if errors.As(err, &program) {
		said.Errno = int(program.Errno) //nolint:errorlint // the number itself
	}
	return said
}

// err gives it again, for a program that was executed or only looked for.
func (said *answer) err(looked bool) error {
	switch {
	case said.Errno != 0:
		return &gvisor.ProgramError{Errno: unix.Errno(said.Errno), Text: said.Error, Looked: looked} //nolint:gosec // it was one
	case said.Error != "":
		return errors.New(said.Error)
	}
	return nil
}

// standForContainer is that process. Its standard streams are the program's, and it says nothing there.
func (a *app) standForContainer(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%s is for brig-oci itself", memberVerb)
	}
	unix.CloseOnExec(3)
	ready := os.NewFile(3, "pipe")
	runtime.LockOSThread() // with which what it starts ends
	m, starts, err := a.standReady(args[0], args[1])
	if werr := errors.Join(json.NewEncoder(ready).Encode(failed(err)), ready.Close()); err != nil || werr != nil {
		return errors.Join(err, werr)
	}
	err = a.serveContainer(m, starts)
	return errors.Join(err, m.End())
}

// standReady makes the tree of the container, and the socket at which a start is given.
func (a *app) standReady(id, beside string) (*gvisor.Member, net.Listener, error) {
	c, err := a.open(id)
	if err != nil {
		return nil, nil, err
	}
	spec, err := c.spec()
	if err != nil {
		return nil, nil, err
	}
	setHome(spec.Process, spec.Root.Path)
	pod, err := a.open(c.Pod)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.Open(c.dir)
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close() //nolint:errcheck // read only
	f, err := launch.Listen(dir, startSock)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close() //nolint:errcheck // the listener has its own
	starts, err := net.FileListener(f)
	if err != nil {
		return nil, nil, err
	}
	m, err := gvisor.Join(spec, gvisor.Pod{Dir: c.kernelDir(), Kernel: pod.PID, PIDs: c.PIDs}, c.dir, gvisor.Options{
		Options: native.Options{
			Cgroup: pod.group(), Maps: idmap.Maps{UID: spec.Linux.UIDMappings, GID: spec.Linux.GIDMappings},
			Stdio: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, Supervised: true,
		},
		ID: c.id, Beside: beside, User: c.kernelUser(spec),
	})
	return m, starts, err
}

// serveContainer waits for the start of a container, and for its end.
func (a *app) serveContainer(m *gvisor.Member, starts net.Listener) error {
	connection, err := starts.Accept()
	if err != nil {
		return err
	}
	_ = starts.Close()
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	err = m.Begin()
	reply := failed(err)
	err = errors.Join(err, json.NewEncoder(connection).Encode(reply), connection.Close())
	if reply.Error != "" {
		return err
	}
	go passSignals(signals, m)
	status, err := m.Wait()
	if err != nil {
		return err
	}
	a.code = exitCode(status)
	return nil
}

// beginMember gives the start to the process that stands for a container.
func (c *container) beginMember() error {
	dir, err := os.Open(c.dir)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // read only
	socket := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), startSock)
	connection, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: socket})
	if err != nil {
		return fmt.Errorf("give the start: %w", err)
	}
	defer connection.Close() //nolint:errcheck // one answer
	if err := connection.SetDeadline(time.Now().Add(lockTimeout)); err != nil {
		return err
	}
	text := make([]byte, 1<<16)
	n, err := connection.Read(text)
	if e := (gvisor.Asked{Supervisor: c.PID}).Stopped(false); err != nil && e != nil {
		e.Name = "the process that stands for the container"
		return e
	}
	if err != nil {
		return fmt.Errorf("give the start: the process that stands for the container says nothing: %w", err)
	}
	var said answer
	if err := json.Unmarshal(text[:n], &said); err != nil {
		return fmt.Errorf("give the start: %w", err)
	}
	fault.Point("start given")
	return said.err(false)
}

// signalMember sends a signal to a container of a pod: SIGKILL to all of it.
func (c *container) signalMember(s unix.Signal, all bool) error {
	switch {
	case c.status() == stopped:
		return errors.New("container not running")
	case s == 0 || !c.Started:
		return c.kill(s, false)
	}
	err := gvisor.Signal(c.kernelDir(), c.id, s, all || s == unix.SIGKILL)
	switch {
	case err == nil && (s != unix.SIGKILL || c.ended(killTime)):
		return nil
	case c.status() == stopped && err != nil:
		return errors.New("container not running")
	case s == unix.SIGKILL:
		return c.kill(s, false) // and with that process, its file server ends, and the kernel ends the container
	}
	return err
}

// killTime is how long a container of a pod may take to end when its kernel says that it has killed it. A kernel that a guest has in its
// hands could say so, and an engine would wait for that container for ever before it ends the sandbox.
const killTime = 10 * time.Second

// ended waits for the end of the container's process.
func (c *container) ended(atMost time.Duration) bool {
	pidfd, err := c.pidfd()
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer pidfd.Close() //nolint:errcheck // read only
	for until := time.Now().Add(atMost); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}, int(max(0, time.Until(until).Milliseconds()))) //nolint:gosec // a file descriptor
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// memberPids are the process that stands for a container of a pod, and those that it has for the container's files: its cgroup is the
// pod's.
func (c *container) memberPids() []int {
	pids := []int{c.PID}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", c.PID)) // proc_pid_task(5)
	for _, name := range lists {
		text, _ := os.ReadFile(name)
		for _, word := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
