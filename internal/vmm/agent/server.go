package agent

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/hashicorp/yamux"
)

// Serve answers the host's requests, each in its own goroutine, until the channel ends.
func Serve(channel io.ReadWriteCloser) error {
	session, err := yamux.Server(channel, Mux())
	if err != nil {
		return err
	}
	for {
		stream, err := session.Accept()
		if err != nil {
			return fmt.Errorf("%w: %w", errGone, err)
		}
		go answer(stream)
	}
}

// answer serves one request. What fails before a program runs is told in the Exit.
func answer(stream io.ReadWriteCloser) {
	defer stream.Close()
	out := &locked{w: stream}
	end, err := serve(stream, out)
	if err != nil {
		end = Exit{Code: 127, Error: err.Error()}
	}
	_ = writeJSON(out, frameExit, end) // the host is gone, or hears it
}

func serve(in io.Reader, out io.Writer) (Exit, error) {
	kind, data, err := readFrame(in)
	if err != nil {
		return Exit{}, err
	}
	var req Request
	if kind != frameRequest {
		return Exit{}, fmt.Errorf("a stream begins with a request, not a frame of kind %d", kind)
	}
	if err := json.Unmarshal(data, &req); err != nil {
		return Exit{}, err
	}
	stdin := &input{frames: make(chan []byte, ahead+1), gone: make(chan struct{}), taken: func() { _ = writeFrame(out, frameTaken, nil) }}
	go stdin.listen(in)
	switch req.Kind {
	case Run:
		return run(req, stdin, out)
	case Put:
		return Exit{}, Unpack(req.Dir, stdin)
	case Take:
		return Exit{}, Pack(req.Dir, frames{out, frameStdout})
	}
	return Exit{}, fmt.Errorf("unknown request %q", req.Kind)
}

// abandon kills a program, and what it has started in its session's first group, when the host has closed the stream before the
// program's end: it waits no longer. Kill knows when the program has been waited for, and its id may be another's.
func abandon(p *os.Process) {
	if p.Kill() == nil {
		_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
	}
}

func run(req Request, stdin *input, out io.Writer) (Exit, error) {
	if len(req.Argv) == 0 {
		return Exit{}, errors.New("no program")
	}
	cmd := exec.Command(req.Argv[0], req.Argv[1:]...) //nolint:gosec // what it is for
	cmd.Env, cmd.Dir = req.Env, req.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: req.UID, Gid: req.GID}}
	cmd.Stdout, cmd.Stderr = frames{out, frameStdout}, frames{out, frameStderr}
	in, err := cmd.StdinPipe()
	if err != nil {
		return Exit{}, err
	}
	if err := cmd.Start(); err != nil {
		return Exit{}, err
	}
	go func() {
		<-stdin.gone
		abandon(cmd.Process)
	}()
	go func() {
		_, _ = io.Copy(in, stdin) // a program need not read its input
		_ = in.Close()
	}()
	err = cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return Exit{}, err
	case status.Signaled():
		return Exit{Code: 128 + int(status.Signal())}, nil
	}
	return Exit{Code: status.ExitStatus()}, nil
}

// input is the standard input out of the stream's frames.
type input struct {
	frames chan []byte // the last is empty
	gone   chan struct{}
	taken  func()
	data   []byte
	used   bool // data is of a frame that is not told as taken
}

// listen reads the stream to its end.
func (s *input) listen(in io.Reader) {
	defer close(s.gone)
	for over := false; ; {
		kind, data, err := readFrame(in)
		if err != nil || kind != frameStdin || over {
			return // the host is gone, or sends what is not its to send
		}
		over = len(data) == 0
		select {
		case s.frames <- data:
		default:
			return // more than ahead
		}
	}
}

func (s *input) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		if s.used {
			s.used = false
			s.taken()
		}
		select {
		case s.data = <-s.frames:
		case <-s.gone:
			select { // what came before the end counts
			case s.data = <-s.frames:
			default:
				return 0, errGone
			}
		}
		if len(s.data) == 0 {
			s.frames <- nil // it is the end from now on
			return 0, io.EOF
		}
		s.used = true
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

// locked lets two streams of a program share one.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// Unpack makes files, folders and links below dir, none outside of it.
func Unpack(dir string, from io.Reader) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a guest's
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, from)
			return err
		}
		if err != nil {
			return err
		}
		if err := entry(root, filepath.Clean(h.Name), h, r); err != nil {
			return fmt.Errorf("unpack %s: %w", h.Name, err)
		}
	}
}

func entry(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	mode := h.FileInfo().Mode().Perm()
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, mode)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, r); err != nil { //nolint:gosec // the host's own
			return errors.Join(err, f.Close())
		}
		return f.Close()
	}
	return fmt.Errorf("type %q is neither a file, a folder nor a symbolic link", h.Typeflag)
}

// Pack writes a tar of a folder, or of one file.
func Pack(name string, to io.Writer) error {
	w := tar.NewWriter(to)
	st, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if st.IsDir() {
		err = w.AddFS(os.DirFS(name))
	} else {
		err = packFile(w, name, st)
	}
	if err != nil {
		return err
	}
	return w.Close()
}

func packFile(w *tar.Writer, name string, st fs.FileInfo) error {
	h, err := tar.FileInfoHeader(st, "")
	if err != nil {
		return err
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
