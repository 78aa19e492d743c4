package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxAnswer bounds a message of a warm sandbox's supervisor.
const maxAnswer = 64 << 10

// warmBound is how long a run looks for a warm sandbox, of however many supervisors: one that is stopped (SIGSTOP) takes a connection
// and a message, and answers neither. A cold start takes a tenth of that.
const warmBound = time.Second

// warmGo is a run's last word before the program is its own, and comes with its streams. Without it the supervisor goes on waiting: a run
// that had enough of waiting starts cold, and its program must not run a second time. Nor may the streams lie in the queue of a supervisor
// that is stopped, where they would be open when the run has ended, and whoever reads them would wait for their end.
const warmGo = "go"

// runWarm runs a sandbox in the foreground on a warm kernel, if one of the same trust domain is there. Without one, ok is false, and
// nothing has happened.
func (s *Store) runWarm(req *Request, streams Streams) (result Result, ok bool, err error) {
	if !s.keepsWarm() {
		return Result{}, false, nil
	}
	files := []*os.File{streams.Out, streams.Err}
	if streams.In != nil {
		files = append(files, streams.In)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, forwarded...) // before the program may run, and tell somebody who then sends one
	conn := s.takeWarm(req, warmRun, files)
	if conn == nil {
		giveBack(signals)
		return Result{}, false, nil
	}
	defer conn.Close() //nolint:errcheck // nothing is written
	defer passSignals(signals, conn)()
	for {
		a, err := receiveAnswer(conn)
		switch {
		case err != nil: // the supervisor was killed, and the sandbox with it
			return Result{ExitCode: 137, Cause: Lost, Message: "its supervisor was killed, and the sandbox with it"}, true, s.Sweep()
		case a.State != nil && req.Started != nil:
			req.Started(a.State)
		case a.Error != "":
			return Result{}, true, &DetachError{a.Error, a.ExitCode}
		case a.Result != nil:
			return *a.Result, true, nil
		}
	}
}

// detachWarm is runWarm for a detached sandbox, and gives its id.
func (s *Store) detachWarm(req *Request) (id string, ok bool, err error) {
	conn := s.takeWarm(req, warmDetach, nil)
	if conn == nil {
		return "", false, nil
	}
	defer conn.Close() //nolint:errcheck // nothing is written
	a, err := receiveAnswer(conn)
	switch {
	case err != nil:
		return "", true, errors.Join(fmt.Errorf("the supervisor of the warm sandbox ended without a word: %w", err), s.Sweep())
	case a.Error != "":
		return "", true, &DetachError{a.Error, a.ExitCode}
	}
	return a.ID, true, nil
}

// keepsWarm tells whether anybody keeps warm sandboxes.
func (s *Store) keepsWarm() bool {
	_, err := os.Stat(s.path("warm"))
	return err == nil
}

// giveBack takes signals as if they had never been caught: one that came meanwhile does to this process what it does.
func giveBack(c chan os.Signal) {
	signal.Stop(c)
	select {
	case s := <-c:
		_ = unix.Kill(os.Getpid(), s.(syscall.Signal)) //nolint:forcetypeassert // Notify sends no other
	default:
	}
}

// passSignals hands signals on to the supervisor, until the function it gives is called.
func passSignals(c chan os.Signal, conn *os.File) (stop func()) {
	go func() {
		for s := range c {
			_ = unix.Sendto(int(conn.Fd()), []byte{byte(s.(syscall.Signal))}, unix.MSG_NOSIGNAL, nil) //nolint:gosec,forcetypeassert // Notify sends no other
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
	}
}

// takeWarm takes a warm sandbox for a request, and gives the connection with its supervisor; nil where there is none.
func (s *Store) takeWarm(req *Request, word string, streams []*os.File) *os.File {
	if !s.keepsWarm() {
		return nil
	}
	if textual(req.Spec) != nil {
		return nil // the request goes over as JSON
	}
	key, err := domain(req)
	if err != nil {
		return nil
	}
	dir := s.warmDir(key)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	text, err := json.Marshal(req)
	if err != nil {
		return nil
	}
	job, err := memory(text)
	if err != nil {
		return nil
	}
	defer job.Close() //nolint:errcheck // it is sent
	deadline := time.Now().Add(warmBound)
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue // the pool's own
		}
		conn, err := knock(dir, e.Name(), word, job, streams, deadline)
		if err == nil {
			return conn
		}
		if time.Now().After(deadline) {
			return nil
		}
	}
	return nil
}

// knock asks one warm sandbox, and gives the connection with its supervisor once nobody else can have it.
func knock(dir, name, word string, job *os.File, streams []*os.File, deadline time.Time) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	conn := os.NewFile(uintptr(fd), name) //nolint:gosec // a file descriptor
	err = bound(fd, max(time.Until(deadline), time.Millisecond))
	if err == nil {
		err = at(dir, name, func(name string) error { return unix.Connect(fd, &unix.SockaddrUnix{Name: name}) })
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		_ = os.Remove(filepath.Join(dir, name)) // of one that was killed
	}
	if err == nil {
		err = sameUser(fd)
	}
	if err == nil {
		err = send(fd, word, job)
	}
	var a *warmAnswer
	if err == nil {
		a, err = receiveAnswer(conn)
	}
	switch {
	case err != nil:
	case !a.Taken:
		err = errors.New(a.Error)
	default:
		err = errors.Join(send(fd, warmGo, streams...), bound(fd, 0))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// send sends one message with files.
func send(fd int, word string, files ...*os.File) error {
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd()) //nolint:gosec // a file descriptor
		}
		rights = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(fd, []byte(word), rights, nil, unix.MSG_NOSIGNAL)
}

// bound has what waits at a socket end with EAGAIN after d: a connect, too (socket(7)); never with 0.
func bound(fd int, d time.Duration) error {
	t := unix.NsecToTimeval(d.Nanoseconds())
	return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &t), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &t))
}

// receiveAnswer waits for a message of the supervisor's.
func receiveAnswer(conn *os.File) (*warmAnswer, error) {
	b := make([]byte, maxAnswer)
	for {
		n, err := unix.Read(int(conn.Fd()), b) //nolint:gosec // a file descriptor
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return nil, unix.ECONNRESET
		}
		a := &warmAnswer{}
		return a, json.Unmarshal(b[:n], a)
	}
}

// memory is a file in RAM with content.
func memory(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("request", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "request") //nolint:gosec // a file descriptor
	if _, err := f.Write(content); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// WarmFor tells how many warm sandboxes wait for such a request.
func (s *Store) WarmFor(req *Request) int {
	key, err := domain(req)
	if err != nil {
		return 0
	}
	entries, _ := os.ReadDir(s.warmDir(key)) // none
	n := 0
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(s.warmDir(key), e.Name())); err == nil && e.Type()&fs.ModeSymlink != 0 {
			n++
		}
	}
	return n
}
