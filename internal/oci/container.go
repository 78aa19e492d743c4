package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"brig/internal/cgroup"
	"brig/internal/fault"
	"brig/internal/idmap"
	"brig/internal/isolation/gvisor"
	"brig/internal/launch"
	"brig/internal/resctrl"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Names in a container's folder.
const (
	stateFile  = "state.json"
	configFile = "config.json"
	startSock  = "start.sock"
	lockFile   = "lock"
)

// record is state.json.
type record struct {
	Version   string              `json:"ociVersion"`
	ID        string              `json:"id"`
	PID       int                 `json:"pid"`
	StartTime uint64              `json:"startTime"`          // of that process, in clock ticks since boot: tells a reused pid
	Creating  bool                `json:"creating,omitempty"` // create has not come to its end, and never will when nobody holds the lock
	Started   bool                `json:"started"`
	Beginning bool                `json:"beginning,omitempty"` // gVisor's kernel is asked to start the program, and has not answered
	Bundle    string              `json:"bundle"`
	Rootfs    string              `json:"rootfs"`
	Created   time.Time           `json:"created"`
	Owner     string              `json:"owner"`
	Cgroups   map[string]string   `json:"cgroups,omitempty"`
	Steps     map[int]launch.Step `json:"steps,omitempty"` // what is left of the launch program, to name a failure
	Terminal  bool                `json:"terminal,omitempty"`
	IDs       *idmap.Range        `json:"ids,omitempty"`       // host ids of its own, which the operator's policy gave it
	Beneath   uint64              `json:"beneath,omitempty"`   // the mount below the root, where the container's mounts are the host's
	Mount     uint64              `json:"mount,omitempty"`     // and that root itself
	Class     *resctrl.Group      `json:"class,omitempty"`     // of service, of linux.intelRdt
	Isolation string              `json:"isolation,omitempty"` // gvisor, or the host's kernel
	Pod       string              `json:"pod,omitempty"`       // the container whose gVisor kernel this one is on
	PIDs      string              `json:"pids,omitempty"`      // of its pid namespace there, the pod's without
	Limits    *limits             `json:"limits,omitempty"`    // which the pod's cgroup keeps
	Agent     bool                `json:"agent,omitempty"`     // start hands the filter's listener to the seccomp agent
}

// container is one container's folder.
type container struct {
	id   string
	dir  string
	held *os.File // the lock, while it is ours
	record
}

// errNotExist is what engines look for in the text (Podman: "does not exist").
var errNotExist = errors.New("container does not exist")

// checkID allows what runc does, but no dot in front, which crun does not take either: such names are for what is not a container.
func checkID(id string) error {
	const form = "invalid container ID format" // runc's words, "invalid character" and "container ID" are crun's
	for _, r := range id {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_+-.", r) {
			return fmt.Errorf("%s: invalid character %q in the container ID %q: letters, digits, '_', '+', '-' and '.' may be in it", form, r, id)
		}
	}
	if id == "" || id[0] == '.' || len(id) > 1024 {
		return fmt.Errorf("%s: %q: it has 1 to 1024 letters, digits, '_', '+', '-' and '.', and none of the last in front", form, id)
	}
	return nil
}

// open finds a container and reads its state.
func (a *app) open(id string) (*container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	c := &container{id: id, dir: filepath.Join(a.root, id)}
	text, err := os.ReadFile(filepath.Join(c.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", id, errNotExist)
	}
	if err == nil {
		err = c.decode(text)
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of container %s: %w; brig-oci delete --force removes it", id, err)
	}
	return c, nil
}

// maxPID is PID_MAX_LIMIT of linux/threads.h. A larger number would be cut to somebody else's by a system call.
const maxPID = 1 << 22

func (c *container) decode(text []byte) error {
	if err := json.Unmarshal(text, &c.record); err != nil {
		return err
	}
	switch {
	case c.ID != c.id:
		return fmt.Errorf("it is of %q", c.ID)
	case c.PID < 0 || c.PID > maxPID:
		return fmt.Errorf("there is no process %d", c.PID)
	}
	return cgroup.CheckPaths(c.Cgroups)
}

// make makes the folder of a new container, which nobody else may have, and locks it. A folder that a killed create has left
// counts as somebody's until it is deleted, as runc has it.
func (a *app) make(id string) (*container, *os.File, error) {
	if err := checkID(id); err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(a.root, 0o711); err != nil { //nolint:gosec // as runc: users of a sandbox's own go through it
		return nil, nil, fmt.Errorf("make the state folder: %w", err)
	}
	if err := checkStateFolder(a.root); err != nil { // somebody may have been faster
		return nil, nil, err
	}
	c := &container{id: id, dir: filepath.Join(a.root, id)}
	err := os.Mkdir(c.dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil, nil, fmt.Errorf("container with given ID already exists: %s", id) // runc's words
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make the container's folder: %w", err)
	}
	fault.Point("folder made")
	lock, err := c.lockFolder(lockTimeout)
	if err != nil {
		_ = os.Remove(c.dir) // which fails when somebody else has put something there
		return nil, nil, err
	}
	if _, err := os.Lstat(filepath.Join(c.dir, stateFile)); err == nil {
		// The folder was deleted before the lock was ours, and made again by somebody else.
		return nil, nil, errors.Join(fmt.Errorf("container with given ID already exists: %s", id), lock.Close())
	}
	fault.Point("folder locked")
	return c, lock, nil
}

// lockTimeout is how long a verb waits for another one on the same container: a hook may take its time.
const lockTimeout = time.Minute

// lock keeps other verbs on this container waiting until the file it gives is closed, in every process that has it.
func (c *container) lock(wait time.Duration) (*os.File, error) { return c.lockWith(os.O_RDWR, wait) }

// lockFolder is lock for a folder that may have no lock file yet, or no more.
func (c *container) lockFolder(wait time.Duration) (*os.File, error) {
	return c.lockWith(os.O_RDWR|os.O_CREATE, wait)
}

func (c *container) lockWith(flags int, wait time.Duration) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.dir, lockFile), flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", c.id, errNotExist) // the lock is the last to go
	}
	if err != nil {
		return nil, fmt.Errorf("lock container %s: %w", c.id, err)
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(2 * time.Millisecond) {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
		switch {
		case err == nil && c.owns(f):
			return f, nil
		case err == nil: // whoever had it has deleted the container, and another one may have its id by now
			return nil, errors.Join(fmt.Errorf("%s: %w", c.id, errNotExist), f.Close())
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(fmt.Errorf("lock container %s: %w", c.id, err), f.Close())
		case time.Now().After(deadline):
			return nil, errors.Join(fmt.Errorf("container %s: %w", c.id, errBusy), f.Close())
		}
	}
}

// owns says whether a lock file is still the one in the container's folder.
func (c *container) owns(lock *os.File) bool {
	mine, err := lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(filepath.Join(c.dir, lockFile))
	return err == nil && os.SameFile(mine, there)
}

// mine is an error when a forced delete has passed this command, which hung: what is in the folder is another container's.
func (c *container) mine() error {
	if c.held != nil && !c.owns(c.held) {
		return fmt.Errorf("%s: %w: it was deleted meanwhile", c.id, errNotExist)
	}
	return nil
}

// locked says whether a command is at work on the container.
func (c *container) locked() bool {
	f, err := os.OpenFile(filepath.Join(c.dir, lockFile), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // which locks nothing
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock) == nil && lock.Type != unix.F_UNLCK
}

// errBusy is a container that another command does not let go of.
var errBusy = errors.New("another command has been working on it for too long; brig-oci delete --force ends it")

func (c *container) save() error {
	if err := c.mine(); err != nil {
		return err
	}
	text, err := json.Marshal(&c.record)
	if err == nil {
		tmp := filepath.Join(c.dir, "."+stateFile)
		if err = os.WriteFile(tmp, text, 0o600); err == nil {
			err = os.Rename(tmp, filepath.Join(c.dir, stateFile))
		}
		if err != nil {
			_ = os.Remove(tmp) // a full file system needs the room
		}
	}
	if err != nil {
		return fmt.Errorf("write the state of container %s: %w", c.id, err)
	}
	return nil
}

func (c *container) spec() (*specs.Spec, error) {
	text, err := c.specText()
	if err != nil {
		return nil, err
	}
	return readSpec(text, c.Bundle)
}

func (c *container) specText() ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, configFile))
	if err != nil {
		return nil, fmt.Errorf("read the spec of container %s: %w", c.id, err)
	}
	return text, nil
}

// group is the container's cgroup, or nil.
func (c *container) group() *cgroup.Cgroup {
	if len(c.Cgroups) == 0 {
		return nil
	}
	return cgroup.Open(c.Cgroups)
}

// Statuses of runtime-spec, and paused.
const (
	creating = "creating"
	created  = "created"
	running  = "running"
	paused   = "paused"
	stopped  = "stopped"
)

// status asks the kernel. A container whose create was killed has stopped: its process ends with its maker. Where the kernel
// gives no answer the container is not called stopped, so that nobody forgets a process that lives.
func (c *container) status() string {
	if c.Creating {
		if c.locked() {
			return creating
		}
		return stopped
	}
	alive, err := c.alive()
	if err == nil && !alive {
		return stopped
	}
	if g := c.group(); g != nil {
		if frozen, err := g.Frozen(); err == nil && frozen {
			return paused // also one that waits for its start, as runc has it: else nothing would resume it
		}
	}
	if !c.Started || c.Beginning && !gvisor.Began(c.dir, c.id) { // a start that was killed, or is at it
		return created
	}
	return running
}

// alive says whether the container's process is there, is still that one, and no zombie.
func (c *container) alive() (bool, error) {
	if c.PID <= 0 {
		return false, nil
	}
	ended, start, err := processStat(c.PID)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	return start == c.StartTime && !ended, err
}

// pidfd opens the container's process, if it is still that one and no zombie: ESRCH otherwise.
func (c *container) pidfd() (*os.File, error) {
	if c.PID <= 0 {
		return nil, unix.ESRCH
	}
	fd, err := unix.PidfdOpen(c.PID, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = unix.ESRCH // the number is a thread's by now
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", c.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	alive, err := c.alive() // asked after the descriptor is had: from here on the number stays its
	if err == nil && !alive {
		err = unix.ESRCH
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// processStat reads whether a process has ended, and its start time (proc_pid_stat(5), fields 3, 20 and 22). One whose first thread has
// ended is a zombie that has other threads: it goes on, and its parent hears of the end when the last of them is gone.
func processStat(pid int) (ended bool, start uint64, err error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false, 0, err
	}
	i := strings.LastIndexByte(string(text), ')') // the name before may hold anything
	f := strings.Fields(string(text[i+1:]))
	if i < 0 || len(f) < 20 {
		return false, 0, io.ErrUnexpectedEOF
	}
	threads, err := strconv.Atoi(f[17])
	if err == nil {
		start, err = strconv.ParseUint(f[19], 10, 64)
	}
	return f[0] == "X" || f[0] == "Z" && threads <= 1, start, err
}

// ociState is what `state` prints and hooks get on standard input.
func (c *container) ociState(status string) *specs.State {
	s := &specs.State{Version: specs.Version, ID: c.id, Status: specs.ContainerState(status), Bundle: c.Bundle, Pid: c.PID}
	if status == stopped {
		s.Pid = 0
	}
	if spec, err := c.outline(); err == nil {
		s.Annotations = spec.Annotations
	}
	return s
}
