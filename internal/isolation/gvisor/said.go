package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
)

// A kernel that is held outlives the process that has started it, and had the reading end of its status pipe. What it says at its end is then
// said to nobody, unless somebody has opened that pipe by the kernel's own descriptor of it (proc_pid_fd(5)) before: who begins its program,
// or has it execute another.

// kept is what is kept of a kernel that is held, in the folder of its sandbox.
type kept struct {
	job.Ready
	// Status is the inode of its status pipe. What it has under the pipe's number may be something else by now, if a guest took it over.
	Status uint64 `json:"status"`
}

// Said is what a kernel will have said at its end. nil has nothing.
type Said struct{ pipe *os.File }

// Listen opens the status pipe of a kernel that is held. dir is the folder that it was started with, and kernel its process. Without the
// right to it, or the kernel, there is nothing to be heard.
func Listen(dir string, kernel int) *Said {
	before := &kept{}
	text, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if err == nil {
		err = json.Unmarshal(text, before)
	}
	if err != nil {
		return nil
	}
	path, err := unix.Open(fmt.Sprintf("/proc/%d/fd/%d", kernel, job.StatusFD), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(path) //nolint:errcheck // a path
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(path, &st), unix.Fstatfs(path, &fs)); err != nil || fs.Type != unix.PIPEFS_MAGIC || st.Ino != before.Status {
		return nil
	}
	pipe, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", path), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	return &Said{pipe}
}

// Close closes it.
func (s *Said) Close() {
	if s != nil {
		_ = s.pipe.Close()
	}
}

// explain makes an error of a kernel's that has gone a person's.
func (s *Said) explain(err error) error {
	var gone *goneError
	if s == nil || !errors.As(err, &gone) {
		return err
	}
	_ = s.pipe.SetReadDeadline(time.Now().Add(answerTime))
	return explained(s.pipe, err)
}

// explained says why a kernel is gone: what it told, or the words with which Go's runtime ended it.
func explained(status io.Reader, err error) error {
	end, text, eerr := readEnd(status)
	if end.Error != "" {
		return fmt.Errorf("gVisor's kernel failed: %s", end.Error)
	}
	if lines := words(text); eerr != nil && len(lines) > 0 {
		return fmt.Errorf("gVisor's kernel has ended, and said: %s", strings.Join(lines, "\n"))
	}
	return err
}

// Lines are the words with which a kernel that has ended by itself did, none of one that was killed, or lives.
func (s *Said) Lines() []string {
	if s == nil {
		return nil
	}
	_ = s.pipe.SetReadDeadline(time.Unix(1, 0)) // no waiting
	if _, text, err := readEnd(s.pipe); err != nil {
		return words(text)
	}
	return nil
}
