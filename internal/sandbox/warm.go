package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"brig/internal/fault"
	"brig/internal/isolation/gvisor"
	"brig/internal/isolation/native"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A warm sandbox is one that has everything but its program: folder, host ids, control group, namespaces, mounts, every layer around a
// gVisor kernel, and that kernel, which waits. Its supervisor is a process of its own, as a monitor is, and waits at a socket. A `brig run` of
// the same trust domain that connects there hands over its request and its streams, and the supervisor is from then on what brig
// would have been: it runs the program, passes signals on, and ends the sandbox when brig, at the other end, is gone. So the kernel never
// changes its parent, and dies with it as any other.
//
// Pools (pool.go) keep a number of them.

// warmSocket is where a warm sandbox waits, in its folder.
const warmSocket = "warm.sock"

// Words between a run and the supervisor of a warm sandbox.
const (
	warmRun    = "run"
	warmDetach = "detach"
)

// warmAnswer is a message of the supervisor's.
type warmAnswer struct {
	// Taken: nobody else gets the sandbox, if the run says warmGo. The first message; until it has come the run may try another one.
	Taken bool `json:"taken,omitempty"`
	// State is what Request.Started is to be told.
	State *State `json:"state,omitempty"`
	// ID ends the conversation of a detached sandbox, Result and Error that of one in the foreground.
	ID       string  `json:"id,omitempty"`
	Result   *Result `json:"result,omitempty"`
	Error    string  `json:"error,omitempty"`
	ExitCode int     `json:"exitCode,omitempty"`
}

// warmDir is the folder of a trust domain: a link to the socket of each of its warm sandboxes, by their ids.
func (s *Store) warmDir(domain string) string { return s.path("warm", domain) }

// hold keeps a warm sandbox until a run takes it, or its pool is gone, and then is its supervisor. pool is a socket to the pool,
// which ends when either of the two lets go of the sandbox.
func (s *Store) holdWarm(id, key string, req *Request, pool *os.File) (err error) {
	defer lockThread()() // which the kernel dies with
	now, err := domain(req)
	if err != nil {
		return err
	}
	if now != key {
		return errors.New("a folder of its policy, what is mounted there, or Brig's own programs, are not those any more that the pool was started with; end it (brig warm --stop), and start another")
	}
	v, err := s.prepare(id, req, false)
	if err != nil {
		return err
	}
	kernel, err := gvisor.StartWarm(req.Spec, gvisor.Options{
		Options: native.Options{Cgroup: v.group, Maps: v.maps, Supervised: true, Lock: v.lock}, ID: v.ID, Dir: v.dir, Image: req.ImageFile,
	})
	if err != nil {
		return errors.Join(v.startError(err), v.discard())
	}
	v.warm = kernel
	h := &holder{supervisor: v, domain: key, pool: pool}
	client, err := h.offer()
	if client == nil {
		return errors.Join(err, h.withdraw(), v.discard(), s.sweepWarm())
	}
	return errors.Join(err, h.serve(client))
}

// holder is the supervisor of a warm sandbox.
type holder struct {
	*supervisor
	domain   string
	pool     *os.File
	listener int
}

// offer waits for the run that takes the sandbox. It gives none when the kernel or the pool has ended.
func (h *holder) offer() (*client, error) {
	h.state.Status, h.state.PID, h.state.Domain = Ready, h.warm.Native().PID, h.domain
	h.state.StartTime, _ = startTime(h.state.PID)
	if err := h.save(&h.state); err != nil {
		return nil, err
	}
	if err := h.listen(); err != nil {
		return nil, err
	}
	fault.Point("warm")
	if err := json.NewEncoder(h.pool).Encode(monitorStatus{ID: h.ID}); err != nil {
		return nil, nil //nolint:nilerr // it is gone
	}
	events := []unix.PollFd{
		{Fd: int32(h.listener), Events: unix.POLLIN},  //nolint:gosec // a file descriptor
		{Fd: int32(h.pool.Fd()), Events: unix.POLLIN}, //nolint:gosec // a file descriptor
	}
	for _, f := range h.warm.Ends() {
		events = append(events, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN}) //nolint:gosec // a file descriptor
	}
	for {
		if _, err := unix.Poll(events, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("wait for a run: %w", err)
		}
		switch {
		case slices.ContainsFunc(events[2:], func(e unix.PollFd) bool { return e.Revents != 0 }):
			return nil, errors.New("gVisor's kernel, or its file server, ended while it was kept warm")
		case events[1].Revents != 0:
			return nil, nil
		case events[0].Revents != 0:
			if c := h.accept(); c != nil {
				return c, nil
			}
		}
	}
}

// listen makes the socket and names it in the folder of its domain.
func (h *holder) listen() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	h.listener = fd
	err = at(h.dir, warmSocket, func(name string) error { return unix.Bind(fd, &unix.SockaddrUnix{Name: name}) })
	if err == nil {
		err = unix.Listen(fd, 8)
	}
	if err == nil {
		err = os.MkdirAll(h.store.warmDir(h.domain), 0o700)
	}
	if err == nil {
		err = os.Symlink(filepath.Join(h.dir, warmSocket), h.link())
	}
	if err != nil {
		return fmt.Errorf("offer the warm sandbox: %w", err)
	}
	return nil
}

// offered tells whether the sandbox waits for a run.
func (b *Sandbox) offered() bool {
	_, err := os.Lstat(filepath.Join(b.dir, warmSocket))
	return err == nil
}

func (h *holder) link() string { return filepath.Join(h.store.warmDir(h.domain), h.ID) }

// withdraw takes the offer back, and lets go of the pool.
func (h *holder) withdraw() error {
	var err error
	if h.listener != 0 {
		err = unix.Close(h.listener)
		h.listener = 0
	}
	for _, path := range []string{h.link(), filepath.Join(h.dir, warmSocket)} {
		if rerr := os.Remove(path); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// at calls do with a name for a file of a folder that fits into a socket's address, however long its path is.
func at(dir, file string, do func(name string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // read only
	return do(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), file))
}

// client is a run that has taken the sandbox.
type client struct {
	conn    *os.File
	req     *Request
	streams Streams
	detach  bool
}

// handoverTimeout bounds how long a run may take to say what it wants: meanwhile nobody else can have the sandbox.
const handoverTimeout = 2 * time.Second

// accept takes a run, if it has the right to the sandbox and says what it wants.
func (h *holder) accept() *client {
	fd, _, err := unix.Accept4(h.listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return nil
	}
	c := &client{conn: os.NewFile(uintptr(fd), "run")} //nolint:gosec // a file descriptor
	for _, step := range []func() error{
		func() error { return sameUser(fd) },
		func() error { return bound(fd, handoverTimeout) },
		c.receive,
		func() error { return h.fits(c) },
		h.awake,
	} {
		if err := step(); err != nil {
			c.tell(warmAnswer{Error: err.Error()})
			c.close()
			return nil
		}
	}
	if !c.tell(warmAnswer{Taken: true}) || c.confirmed() != nil { // it waits no longer
		c.close()
		return nil
	}
	return c
}

// confirmed waits for the run's last word, and the streams that come with it.
func (c *client) confirmed() error {
	fd := int(c.conn.Fd()) //nolint:gosec // a file descriptor
	word, files, err := receiveFiles(fd)
	if err != nil {
		return err
	}
	least, most := 2, 3
	if c.detach {
		least, most = 0, 0
	}
	if word != warmGo || len(files) < least || len(files) > most {
		closeAll(files)
		return fmt.Errorf("the run said %q with %d files", word, len(files))
	}
	if !c.detach {
		c.streams = Streams{Out: files[0], Err: files[1]}
	}
	if len(files) > 2 {
		c.streams.In = files[2]
	}
	return bound(fd, 0)
}

// awake refuses a run where a process that it needs is stopped.
func (h *holder) awake() error {
	for _, pid := range h.warm.PIDs() {
		if stopped(pid) {
			return fmt.Errorf("process %d of the warm sandbox is stopped", pid)
		}
	}
	return nil
}

// stopped tells whether a process is (SIGSTOP, or by a debugger: proc_pid_stat(5), field 3).
func stopped(pid int) bool {
	state := taskState("/proc/" + strconv.Itoa(pid))
	return state == 'T' || state == 't'
}

// receive gets the request.
func (c *client) receive() error {
	word, files, err := receiveFiles(int(c.conn.Fd())) //nolint:gosec // a file descriptor
	if err != nil {
		return err
	}
	c.detach = word == warmDetach
	if word != warmRun && word != warmDetach || len(files) != 1 {
		closeAll(files)
		return fmt.Errorf("the run said %q with %d files", word, len(files))
	}
	c.req = &Request{}
	err = json.NewDecoder(io.NewSectionReader(files[0], 0, 1<<30)).Decode(c.req)
	_ = files[0].Close()
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	if c.req.Spec == nil || c.req.Spec.Process == nil || c.req.Spec.Linux == nil {
		return errors.New("read the request: it has no program")
	}
	return nil
}

// receiveFiles gets one message with files.
func receiveFiles(fd int) (word string, files []*os.File, err error) {
	b, oob := make([]byte, 16), make([]byte, unix.CmsgSpace(4*8))
	n, oobn, flags, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	for errors.Is(err, unix.EINTR) {
		n, oobn, flags, _, err = unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return "", nil, fmt.Errorf("receive the request: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return "", nil, fmt.Errorf("receive the request: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "of the run")) //nolint:gosec // a file descriptor
		}
	}
	if flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
		closeAll(files)
		return "", nil, errors.New("receive the request: it was cut off")
	}
	return string(b[:n]), files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

func (c *client) tell(a warmAnswer) bool {
	text, err := json.Marshal(a)
	if err == nil {
		err = unix.Sendto(int(c.conn.Fd()), text, unix.MSG_NOSIGNAL, nil) //nolint:gosec // a file descriptor
	}
	return err == nil
}

func (c *client) close() {
	_ = c.conn.Close()
	for _, f := range []*os.File{c.streams.In, c.streams.Out, c.streams.Err} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// fits refuses a run of another trust domain.
func (h *holder) fits(c *client) error {
	key, err := domain(c.req)
	if err == nil && key != h.domain {
		err = errors.New("the request is of another trust domain")
	}
	return err
}

// serve is the supervisor's work once the sandbox is taken.
func (h *holder) serve(c *client) error {
	defer c.close()
	err := h.withdraw()
	_ = h.pool.Close() // which makes another
	if err != nil {
		return errors.Join(err, h.discard())
	}
	result, err := h.become(c)
	if err != nil {
		c.tell(warmAnswer{Error: err.Error(), ExitCode: ExitCode(err)})
		return nil
	}
	if c.detach {
		return nil // it has been told, when the program ran
	}
	c.tell(warmAnswer{Result: &result})
	return nil
}

// become runs the program that the run asks for, to its end.
func (h *holder) become(c *client) (Result, error) {
	v := h.supervisor
	v.adopt(c.req, c.detach)
	if err := v.nameTaken(c.req.Name); err != nil {
		return Result{}, errors.Join(err, v.discard())
	}
	if c.detach {
		return Result{}, v.monitorRun(func(st monitorStatus) error {
			c.tell(warmAnswer{ID: st.ID, Error: st.Error, ExitCode: st.ExitCode})
			return nil
		})
	}
	v.req.Started = func(st *State) { c.tell(warmAnswer{State: &State{ID: st.ID, Missing: st.Missing}}) } // one message, and a command may be long
	go v.follow(c)
	result, err := v.run(c.streams, nil, nil)
	return result, errors.Join(err, v.finish(result))
}

// nameTaken gives the sandbox its name.
func (v *supervisor) nameTaken(name string) error {
	if name == "" {
		return nil
	}
	making, err := v.store.lockMaking(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer making.Close() //nolint:errcheck // a lock
	if err := v.takeName(name); err != nil {
		v.req.Name, v.state.Name = "", ""
		return err
	}
	return nil
}

// follow does what the process does that the sandbox is for: it passes its signals on, and ends the sandbox with it.
func (v *supervisor) follow(c *client) {
	b := make([]byte, 1)
	for {
		n, err := unix.Read(int(c.conn.Fd()), b) //nolint:gosec // a file descriptor
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || n == 0:
			v.end(Lost, 137, "the brig that it was for has ended")
			return
		default:
			v.forward(unix.Signal(b[0]))
		}
	}
}

// adopt makes the request of a run the sandbox's. Of its spec only the program's words and environment are taken: the rest
// was compared, and is in force, with the ids, labels and profiles that the sandbox has got meanwhile.
func (v *supervisor) adopt(req *Request, detached bool) {
	lock, file := v.req.ImageLock, v.req.ImageFile
	asked := *req
	spec, pr := *v.req.Spec, *v.req.Spec.Process
	pr.Args, pr.Env = req.Spec.Process.Args, req.Spec.Process.Env
	spec.Process = &pr
	v.asked, _ = json.Marshal(req)
	asked.Spec, asked.ImageLock, asked.ImageFile = &spec, lock, file
	v.req = &asked
	before := v.state
	v.state = v.newState(detached)
	v.state.IDs, v.state.Categories, v.state.Cgroups, v.state.Missing = before.IDs, before.Categories, before.Cgroups, before.Missing
	v.state.Warm = true
}

// startWarm gives the waiting kernel its program.
func (v *supervisor) startWarm(ctx context.Context, spec *specs.Spec, o native.Options) (process, *os.File, error) {
	w := v.warm
	v.warm = nil
	err := o.Meanwhile()
	if err == nil {
		err = o.Ready(w.Native())
	}
	if err != nil {
		return nil, nil, errors.Join(err, w.Close())
	}
	p, err := w.Begin(ctx, spec, o.Stdio)
	if err != nil {
		return nil, nil, v.startError(err)
	}
	return p, nil, nil
}
