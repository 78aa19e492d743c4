package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// logLimit is how many bytes of output the log of a detached sandbox keeps: the folder may lie in RAM, and a program
// that floods its output must not fill it. When the newer half is full the older one is dropped.
const logLimit = 16 << 20

const (
	logFile    = "log"
	logOldFile = "log.1"
)

// logLine is one write of the program's, as docker's json-file driver has it.
type logLine struct {
	Log    string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

// logger writes the log of a detached sandbox.
type logger struct {
	dir  string
	mu   sync.Mutex
	file *os.File
	size int64
}

func newLogger(dir string) (*logger, error) {
	l := &logger{dir: dir}
	return l, l.open()
}

func (l *logger) open() (err error) {
	l.file, err = os.OpenFile(filepath.Join(l.dir, logFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	l.size = 0
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	return nil
}

func (l *logger) close() error { return l.file.Close() }

type logStream struct {
	l    *logger
	name string
}

func (l *logger) stream(fd int) io.Writer {
	return &logStream{l, [...]string{"stdin", "stdout", "stderr"}[fd]}
}

// Write adds an entry. A log that cannot be written (a full disk) loses entries; the program is not held up for it.
func (s *logStream) Write(b []byte) (int, error) {
	text, err := json.Marshal(logLine{string(b), s.name, time.Now()})
	if err != nil {
		return 0, err
	}
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.l.size > logLimit/2 {
		if err := s.l.rotate(); err != nil {
			return len(b), nil
		}
	}
	n, _ := s.l.file.Write(append(text, '\n'))
	s.l.size += int64(n)
	return len(b), nil
}

func (l *logger) rotate() error {
	if err := os.Rename(filepath.Join(l.dir, logFile), filepath.Join(l.dir, logOldFile)); err != nil {
		return err
	}
	_ = l.file.Close()
	return l.open()
}

// Logs copies the log of a detached sandbox to out and err, its two streams apart. tail > 0 begins that many entries
// before the end. follow goes on until the sandbox has ended, or ctx.
func (b *Sandbox) Logs(ctx context.Context, out, errw io.Writer, follow bool, tail int) error {
	st, err := b.State()
	if err != nil {
		return err
	}
	if !st.Detached {
		return fmt.Errorf("sandbox %s runs in the foreground: its output is where it was started", b.ID)
	}
	r := &logReader{dir: b.dir, out: out, err: errw}
	defer r.close()
	if err := r.history(tail); err != nil || !follow {
		return err
	}
	return b.follow(ctx, r)
}

// follow waits for changes of the folder by inotify(7). The lock file is written when the sandbox has ended.
func (b *Sandbox) follow(ctx context.Context, r *logReader) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch the log: %w", err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	defer func() { _ = watch.Close() }()
	if _, err := unix.InotifyAddWatch(fd, b.dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE_SELF); err != nil {
		return fmt.Errorf("watch the log: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = watch.Close() })
	defer stop()
	buf := make([]byte, 4096)
	for {
		st, err := b.State()
		ended := errors.Is(err, ErrNotFound) || err == nil && st.Status == Stopped
		if err := r.more(); err != nil {
			return err
		}
		if ended {
			return nil
		}
		if _, err := watch.Read(buf); err != nil {
			return ctx.Err()
		}
	}
}

// logReader reads entries from where it stopped.
type logReader struct {
	dir      string
	out, err io.Writer
	file     *os.File
	r        *bufio.Reader
	partial  []byte
}

func (r *logReader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// history prints what is there, or the last tail entries of it.
func (r *logReader) history(tail int) error {
	var lines [][]byte
	for _, name := range []string{logOldFile, logFile} {
		f, err := os.Open(filepath.Join(r.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		r.close()
		r.file, r.r = f, bufio.NewReader(f)
		if err := r.each(func(line []byte) error {
			if tail > 0 {
				lines = append(lines, line)
				return nil
			}
			return r.print(line)
		}); err != nil {
			return err
		}
	}
	for _, line := range lines[max(0, len(lines)-tail):] {
		if err := r.print(line); err != nil {
			return err
		}
	}
	return nil
}

// more prints what came since, over a rotation too.
func (r *logReader) more() error {
	if r.file != nil {
		if err := r.each(r.print); err != nil {
			return err
		}
	}
	f, err := os.Open(filepath.Join(r.dir, logFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	if r.file != nil && sameFile(f, r.file) {
		return f.Close()
	}
	r.close()
	r.file, r.r, r.partial = f, bufio.NewReader(f), nil
	return r.each(r.print)
}

func sameFile(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func (r *logReader) each(do func([]byte) error) error {
	for {
		line, err := r.r.ReadBytes('\n')
		r.partial = append(r.partial, line...)
		if err != nil {
			return nil //nolint:nilerr // the end of what is there; an entry that is half written comes whole next time
		}
		entry := r.partial
		r.partial = nil
		if err := do(entry); err != nil {
			return err
		}
	}
}

func (r *logReader) print(line []byte) error {
	var l logLine
	if json.Unmarshal(line, &l) != nil {
		return nil //nolint:nilerr // the program's output cannot be taken for an entry, but a full disk can cut one
	}
	w := r.out
	if l.Stream == "stderr" {
		w = r.err
	}
	_, err := io.WriteString(w, l.Log)
	return err
}
