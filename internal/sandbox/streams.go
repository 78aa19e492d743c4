package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// plumbing connects the sandbox's standard streams with the caller's.
//
// A stream that is a file or a pipe is handed to the program as it is, where no
// profile and no label would refuse it. A terminal never is: through an open terminal a
// program could read what is typed into it later, or change its modes. It is copied, as is everything when the output
// is counted or logged.
type plumbing struct {
	v       *supervisor
	streams Streams
	log     *logger

	child   [3]*os.File // what the program gets
	ours    []*os.File  // to close when the sandbox has ended
	inner   []*os.File  // the program's ends of pipes: closed here once it runs
	copies  []func()    // copying that starts with the program
	output  sync.WaitGroup
	written atomic.Int64
	restore func()
}

// plumb makes what the program gets for its three streams.
func (v *supervisor) plumb(streams Streams, log *logger) (*plumbing, error) {
	p := &plumbing{v: v, streams: streams, log: log}
	if v.req.Spec.Process.Terminal {
		return p, errors.Join(noFolders(v.req.PassFDs), v.checkPassed())
	}
	if err := p.input(); err != nil {
		p.close()
		return nil, err
	}
	for i, out := range []*os.File{streams.Out, streams.Err} {
		if err := p.outputTo(i+1, out); err != nil {
			p.close()
			return nil, err
		}
	}
	if err := errors.Join(noFolders(append(p.child[:], v.req.PassFDs...)), v.checkPassed()); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// checkPassed refuses what the program's SELinux label would not let it have.
func (v *supervisor) checkPassed() error {
	for i, f := range v.req.PassFDs {
		if f != nil && !inherits(v.req.Spec, f) {
			return fmt.Errorf("--pass-fd: SELinux would not let the program have descriptor %d as %s; give it by a pipe of a process without categories (runcon -l s0), or mount it with -v",
				3+i, v.req.Spec.Process.SelinuxLabel)
		}
	}
	return nil
}

// noFolders refuses a folder among the files that the program gets: from it "..", which no root stops outside of it,
// leads to the host's (CVE-2024-21626).
func noFolders(files []*os.File) error {
	for _, f := range files {
		st, err := f.Stat()
		if err != nil {
			return fmt.Errorf("look at %s, a file for the program: %w", f.Name(), err)
		}
		if st.IsDir() {
			return fmt.Errorf("%s is a folder: as an open file of the program it would lead out of the sandbox; mount it with -v", f.Name())
		}
	}
	return nil
}

func (p *plumbing) input() error {
	in := p.streams.In
	if in == nil {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		p.ours = append(p.ours, null)
		p.child[0] = null
		return nil
	}
	if !isTerminal(in) && !p.v.refuses(in) {
		p.child[0] = in
		return nil
	}
	r, w, err := p.pipe()
	if err != nil {
		return err
	}
	p.child[0] = r
	p.inner = append(p.inner, r)
	p.copies = append(p.copies, func() {
		// It may sit in read when the sandbox ends; the process ends soon after.
		go func() {
			_, _ = io.Copy(w, in)
			_ = w.Close()
		}()
	})
	return nil
}

// pipe makes one that the program may have an end of.
func (p *plumbing) pipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, err
	}
	if err = p.v.labelPipe(r); err != nil {
		return nil, nil, errors.Join(err, r.Close(), w.Close())
	}
	return r, w, nil
}

func (p *plumbing) outputTo(fd int, out *os.File) error {
	if p.log == nil && p.v.req.OutputLimit == 0 && out != nil && !isTerminal(out) && !p.v.refuses(out) {
		p.child[fd] = out
		return nil
	}
	r, w, err := p.pipe()
	if err != nil {
		return err
	}
	p.child[fd] = w
	p.inner = append(p.inner, w)
	p.ours = append(p.ours, r)
	var to io.Writer = out
	if p.log != nil {
		to = p.log.stream(fd)
	}
	p.copies = append(p.copies, func() { p.copyOutput(r, to) })
	return nil
}

// copyOutput copies until the last writer is gone, and counts.
func (p *plumbing) copyOutput(r io.Reader, to io.Writer) {
	p.output.Add(1)
	go func() {
		defer p.output.Done()
		buf := make([]byte, 32<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 && !p.forwardOutput(buf[:n], to) {
				return
			}
			if err != nil {
				return
			}
		}
	}()
}

// forwardOutput writes what the limit leaves room for, and ends the sandbox when there is more. A reader that is gone
// ends it too, as a broken pipe would, and so does a full disk, of which the program hears nothing and a person has to.
func (p *plumbing) forwardOutput(b []byte, to io.Writer) bool {
	limit := p.v.req.OutputLimit
	over := false
	if total := p.written.Add(int64(len(b))); limit > 0 && total > limit {
		b = b[:max(0, int64(len(b))-(total-limit))]
		over = true
	}
	if _, err := to.Write(b); err != nil {
		why := ""
		if !errors.Is(err, unix.EPIPE) {
			why = "what it wrote could not be passed on: " + err.Error()
		}
		p.v.end(Signaled, 128+int(unix.SIGPIPE), why)
		return false
	}
	if over {
		p.v.end(OutputLimit, 137, fmt.Sprintf("it wrote more than %d bytes", limit))
	}
	return !over
}

// start begins the copying. terminal is the master of the sandbox's terminal, or nil.
func (p *plumbing) start(terminal *os.File) {
	for _, f := range p.inner {
		_ = f.Close()
	}
	p.inner = nil
	for _, c := range p.copies {
		c()
	}
	if terminal != nil {
		p.ours = append(p.ours, terminal)
		p.attach(terminal)
	}
}

// attach connects the caller's terminal with the sandbox's.
func (p *plumbing) attach(master *os.File) {
	var to io.Writer = p.streams.Out
	if p.log != nil {
		to = p.log.stream(1)
	}
	p.copyOutput(master, to)
	in := p.streams.In
	if in == nil {
		return
	}
	typed := isTerminal(in)
	if typed {
		p.raw(in, master)
	}
	go func() {
		if _, err := io.Copy(master, in); err == nil && !typed {
			_, _ = master.WriteString(endOfFile) // a file or a pipe has ended, and who reads the terminal waits for it
		}
	}()
}

// endOfFile is what ends the input of a terminal: VEOF behind a line, and once more where the last line had no end (termios(3)).
const endOfFile = "\x04\x04"

// raw puts the caller's terminal into raw mode for the time of the sandbox, and keeps both of one size.
func (p *plumbing) raw(in, master *os.File) {
	if old, err := term.MakeRaw(int(in.Fd())); err == nil { //nolint:gosec // a file descriptor
		p.restore = func() { _ = term.Restore(int(in.Fd()), old) } //nolint:gosec // a file descriptor
	}
	resize := func() {
		if size, err := unix.IoctlGetWinsize(int(in.Fd()), unix.TIOCGWINSZ); err == nil { //nolint:gosec // a file descriptor
			_ = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, size) //nolint:gosec // a file descriptor
		}
	}
	resize()
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	go func() {
		for range changes {
			resize()
		}
	}()
}

// wait waits until everything that the sandbox wrote is passed on.
func (p *plumbing) wait() { p.output.Wait() }

func (p *plumbing) close() {
	if p.restore != nil {
		p.restore()
	}
	for _, f := range append(p.inner, p.ours...) {
		_ = f.Close()
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS) //nolint:gosec // a file descriptor
	return err == nil
}
