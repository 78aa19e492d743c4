package oci

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Kinds of requests, and of the answers to them (criu's rpc.proto, criu_req_type).
const (
	criuDump    = 1
	criuRestore = 2
	criuPreDump = 4
	criuNotify  = 6
)

// criuLast is the stage in which everything is restored and nothing runs yet. An error of it criu passes over ("must not fail",
// criu(8)).
const criuLast = "pre-resume"

// criuCall is one request to criu, which is started for it: `criu swrk FD` takes requests from a socket and ends after one
// (criu's rpc.proto; "Documentation/criu.txt", swrk).
type criuCall struct {
	program string
	kind    uint64
	options wire
	workDir string // with the log
	log     string
	group   *os.File   // a cgroup of version 2 that criu is born in, and with it what it restores; or nil
	streams bool       // criu has this program's standard streams, to give them to what it restores
	files   []*os.File // it has these from file descriptor 4 on
	process *os.Process
	// notify is told what criu has come to, and holds it up meanwhile. An error ends it. A file that comes with it is notify's.
	notify func(stage string, pid int, passed *os.File) error
}

// findCRIU finds a criu that works on this kernel, or says why there is none, in its own words.
func (a *app) findCRIU(what string) (string, error) {
	criu, err := exec.LookPath(a.criu)
	if err != nil {
		return "", fmt.Errorf("%s needs criu, which is not installed (%s)", what, a.criu)
	}
	if out, err := exec.Command(criu, "check").CombinedOutput(); err != nil { //nolint:gosec // the caller's own criu
		return "", fmt.Errorf("%s needs criu, which cannot work here: %s check: %w%s", what, criu, err, criuErrors(string(out)))
	}
	return criu, nil
}

// run makes the call and gives the process id of the answer to a restore.
func (c *criuCall) run() (pid int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "criu's end")
	cmd := exec.Command(c.program, "swrk", "3") //nolint:gosec // the caller's own criu
	cmd.ExtraFiles = append([]*os.File{theirs}, c.files...)
	if c.streams {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	if c.group != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(c.group.Fd())}
	}
	err = cmd.Start()
	_ = theirs.Close() // so that criu's end closes ours
	if err != nil {
		return 0, errors.Join(fmt.Errorf("start criu: %w", err), unix.Close(pair[0]))
	}
	c.process = cmd.Process
	pid, err = c.talk(pair[0])
	_ = unix.Close(pair[0])
	status, werr := cmd.Process.Wait()
	switch {
	case err == nil && werr != nil:
		err = werr
	case err == nil && !status.Success() && c.kind != criuPreDump: // which waits for a next request, and fails when there is none
		err = fmt.Errorf("it ended with %s", status)
	}
	if err != nil {
		name := filepath.Join(c.workDir, c.log)
		text, _ := os.ReadFile(name)
		err = fmt.Errorf("criu: %w%s (its log is %s)", err, criuErrors(string(text)), name)
	}
	return pid, err
}

// talk sends the request and answers notifications until the request is answered.
func (c *criuCall) talk(socket int) (pid int, err error) {
	var request wire
	request.number(1, c.kind)
	request.bytes(2, c.options)
	for message := request; ; {
		if err := unix.Send(socket, message, unix.MSG_NOSIGNAL); err != nil {
			return 0, err
		}
		answer, passed, err := receive(socket)
		if err != nil {
			return 0, err
		}
		if answer.kind != criuNotify {
			if passed != nil {
				_ = passed.Close()
			}
			switch {
			case !answer.success:
				return 0, answer.failure()
			case answer.kind != c.kind:
				return 0, fmt.Errorf("it answers request %d, and not %d", answer.kind, c.kind)
			}
			return answer.pid, nil
		}
		message = nil
		message.number(1, criuNotify)
		if c.notify != nil {
			err = c.notify(answer.stage, answer.pid, passed)
		}
		if err != nil && answer.stage == criuLast {
			// What was restored is dead by now, by notify. criu would only wait for it, and cannot be asked to end.
			return 0, errors.Join(err, c.process.Kill())
		}
		if err != nil {
			// Told so, criu ends what it has begun; the reason is ours and not in its log.
			message.number(3, 0)
			_ = unix.Send(socket, message, unix.MSG_NOSIGNAL)
			_, _, _ = receive(socket)
			return 0, err
		}
		message.number(3, 1)
	}
}

// receive takes one answer, and the file that may come with it.
func receive(socket int) (*criuAnswer, *os.File, error) {
	data, control := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	var n, controls int
	var err error
	for {
		n, controls, _, _, err = unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case err != nil:
		return nil, nil, err
	case n == 0:
		return nil, nil, errors.New("it ended without an answer")
	}
	var passed *os.File
	if messages, err := unix.ParseSocketControlMessage(control[:controls]); err == nil && len(messages) == 1 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
			passed = os.NewFile(uintptr(fds[0]), "terminal") //nolint:gosec // a file descriptor
		}
	}
	answer := &criuAnswer{}
	if err := answer.decode(data[:n]); err != nil {
		if passed != nil {
			_ = passed.Close()
		}
		return nil, nil, fmt.Errorf("its answer: %w", err)
	}
	return answer, passed, nil
}

// criuAnswer is what is looked at of criu_resp (rpc.proto).
type criuAnswer struct {
	kind    uint64
	success bool
	pid     int // of what was restored, or is being restored
	stage   string
	errno   unix.Errno
}

func (r *criuAnswer) decode(data wire) error {
	return data.fields(func(field int, n uint64, inner wire) error {
		switch field {
		case 1:
			r.kind = n
		case 2:
			r.success = n != 0
		case 4: // criu_restore_resp
			return inner.fields(func(field int, n uint64, _ wire) error { return r.process(field == 1, n) })
		case 5: // criu_notify
			return inner.fields(func(field int, n uint64, text wire) error {
				if field == 1 {
					r.stage = string(text)
				}
				return r.process(field == 2, n)
			})
		case 7:
			r.errno = unix.Errno(n & 0xfff) //nolint:gosec // MAX_ERRNO of linux/err.h
		}
		return nil
	})
}

func (r *criuAnswer) process(is bool, n uint64) error {
	if is {
		if n == 0 || n > maxPID {
			return fmt.Errorf("there is no process %d", n)
		}
		r.pid = int(n) //nolint:gosec // just checked
	}
	return nil
}

func (r *criuAnswer) failure() error {
	if r.errno != 0 {
		return r.errno
	}
	return errors.New("it failed")
}

// criuErrors gives the last errors of a log of criu's: the first ones are often of features that it tries for and can do without.
func criuErrors(log string) string {
	const most = 4
	var lines []string
	for s := bufio.NewScanner(strings.NewReader(log)); s.Scan(); {
		if _, text, ok := strings.Cut(s.Text(), "Error ("); ok {
			if _, text, ok = strings.Cut(text, "): "); ok { // behind file and line of criu's source
				lines = append(lines, strings.TrimSpace(text))
			}
		}
	}
	if len(lines) == 0 {
		line, _, _ := strings.Cut(strings.TrimSpace(log), "\n")
		if line == "" || len(line) > 200 || strings.HasPrefix(line, "(") { // the last is a line of a log without errors
			return ""
		}
		return ": " + line
	}
	return ": " + strings.Join(lines[max(0, len(lines)-most):], "; ")
}

// apart runs do on a thread of its own that ends with it, and with it what do has changed of the thread: its namespaces, its
// keyring.
func apart(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread does not end, and /proc/self is about it. It is kept here while another one is found.
			defer runtime.UnlockOSThread()
			done <- apart(do)
			return
		}
		done <- do() // and never unlocked
	}()
	return <-done
}
