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
	"brig/internal/launch"

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
	StartTime uint64              `json:"startTime"` // of that process, in clock ticks since boot: tells a reused pid
	Started   bool                `json:"started"`
	Bundle    string              `json:"bundle"`
	Rootfs    string              `json:"rootfs"`
	Created   time.Time           `json:"created"`
	Owner     string              `json:"owner"`
	Cgroups   map[string]string   `json:"cgroups,omitempty"`
	Steps     map[int]launch.Step `json:"steps,omitempty"` // what is left of the launch program, to name a failure
	Terminal  bool                `json:"terminal,omitempty"`
	Agent     bool                `json:"agent,omitempty"` // start hands the filter's listener to the seccomp agent
}

// container is one container's folder.
type container struct {
	id  string
	dir string
	record
}

// errNotExist is what engines look for in the text (Podman: "does not exist").
var errNotExist = errors.New("container does not exist")

// checkID allows what runc does.
func checkID(id string) error {
	ok := id != "" && id != "." && id != ".." && len(id) <= 1024
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+-.", r))
	}
	if !ok {
		return fmt.Errorf("container id %q is not valid: letters, digits, '_', '+', '-' and '.'", id)
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
		err = json.Unmarshal(text, &c.record)
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of container %s: %w; brig-oci delete --force removes it", id, err)
	}
	return c, nil
}

// make makes the folder of a new container, which nobody else may have.
func (a *app) make(id string) (*container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.root, 0o711); err != nil { //nolint:gosec // as runc: users of a sandbox's own go through it
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	c := &container{id: id, dir: filepath.Join(a.root, id)}
	err := os.Mkdir(c.dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("container with id exists: %s", id) // runc's words
	}
	if err != nil {
		return nil, fmt.Errorf("make the container's folder: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, lockFile), nil, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("make the container's folder: %w", err), os.RemoveAll(c.dir))
	}
	return c, nil
}

// lockTimeout is how long a verb waits for another one on the same container: a hook may take its time.
const lockTimeout = time.Minute

// lock keeps other verbs on this container waiting until the file it gives is closed, in every process that has it.
func (c *container) lock(wait time.Duration) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.dir, lockFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", c.id, errNotExist) // the lock is the last to go
	}
	if err != nil {
		return nil, fmt.Errorf("lock container %s: %w", c.id, err)
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(2 * time.Millisecond) {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(fmt.Errorf("lock container %s: %w", c.id, err), f.Close())
		case time.Now().After(deadline):
			return nil, errors.Join(fmt.Errorf("container %s: %w", c.id, errBusy), f.Close())
		}
	}
}

// errBusy is a container that another command does not let go of.
var errBusy = errors.New("another command has been working on it for too long; brig-oci delete --force ends it")

func (c *container) save() error {
	text, err := json.Marshal(&c.record)
	if err == nil {
		tmp := filepath.Join(c.dir, "."+stateFile)
		if err = os.WriteFile(tmp, text, 0o600); err == nil {
			err = os.Rename(tmp, filepath.Join(c.dir, stateFile))
		}
	}
	if err != nil {
		return fmt.Errorf("write the state of container %s: %w", c.id, err)
	}
	return nil
}

func (c *container) spec() (*specs.Spec, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, configFile))
	if err != nil {
		return nil, fmt.Errorf("read the spec of container %s: %w", c.id, err)
	}
	return readSpec(text, c.Bundle)
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
	created = "created"
	running = "running"
	paused  = "paused"
	stopped = "stopped"
)

// status asks the kernel.
func (c *container) status() string {
	pidfd, err := c.pidfd()
	if err != nil {
		return stopped
	}
	_ = pidfd.Close()
	if !c.Started {
		return created
	}
	if g := c.group(); g != nil {
		if frozen, err := g.Frozen(); err == nil && frozen {
			return paused
		}
	}
	return running
}

// pidfd opens the container's process, if it is still that one and no zombie.
func (c *container) pidfd() (*os.File, error) {
	if c.PID == 0 {
		return nil, unix.ESRCH
	}
	fd, err := unix.PidfdOpen(c.PID, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	state, start, err := processStat(c.PID)
	if err != nil || start != c.StartTime || state == 'Z' || state == 'X' {
		return nil, errors.Join(unix.ESRCH, f.Close())
	}
	return f, nil
}

// processStat reads state and start time of a process (proc_pid_stat(5), fields 3 and 22).
func processStat(pid int) (state byte, start uint64, err error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	i := strings.LastIndexByte(string(text), ')') // the name before may hold anything
	f := strings.Fields(string(text[i+1:]))
	if i < 0 || len(f) < 20 {
		return 0, 0, io.ErrUnexpectedEOF
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	return f[0][0], start, err
}

// ociState is what `state` prints and hooks get on standard input.
func (c *container) ociState(status string) *specs.State {
	s := &specs.State{Version: specs.Version, ID: c.id, Status: specs.ContainerState(status), Bundle: c.Bundle, Pid: c.PID}
	if status == stopped {
		s.Pid = 0
	}
	if spec, err := c.spec(); err == nil {
		s.Annotations = spec.Annotations
	}
	return s
}
