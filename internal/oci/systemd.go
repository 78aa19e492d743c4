package oci

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A service manager hears of its services by a socket (sd_notify(3)). A unit whose program is this runtime means the container, so
// what that says is handed on, as runc does.

// The socket's folder in the container's own folder, and where it is mounted inside.
const (
	notifyDir    = "notify"
	notifySock   = "notify.sock"
	notifyInside = "/run/notify"
)

// mountNotify gives the container a socket of its own in place of the service manager's: what a container says must not be
// taken for the host's own word.
func (c *container) mountNotify(spec *specs.Spec) error {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	dir := filepath.Join(c.dir, notifyDir)
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // the container's users go through it
		return fmt.Errorf("make the folder of the notify socket: %w", err)
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: notifyInside, Source: dir, Type: "bind", Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"},
	})
	spec.Process.Env = append(spec.Process.Env, "NOTIFY_SOCKET="+notifyInside+"/"+notifySock)
	return nil
}

// notifier hands the container's word that it is ready on to the service manager.
type notifier struct {
	from *net.UnixConn
	host string
}

// listenNotify opens the container's socket; nil when there is nobody to tell.
func (c *container) listenNotify() (*notifier, error) {
	host := os.Getenv("NOTIFY_SOCKET")
	if host == "" {
		return nil, nil
	}
	dir, err := os.Open(filepath.Join(c.dir, notifyDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // made without one
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close() //nolint:errcheck // read only
	// By the descriptor: the name may be longer than an address takes.
	name := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), notifySock)
	from, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err == nil {
		err = os.Chmod(name, 0o777) //nolint:gosec // any user of the container's may have something to say
	}
	if err != nil {
		return nil, fmt.Errorf("open the notify socket: %w", err)
	}
	return &notifier{from, host}, nil
}

// forward waits for READY=1 and passes it on, with the container's process as the main one unless that is 0. It ends with the
// process that pidfd refers to.
func (n *notifier) forward(pidfd *os.File, main int) error {
	defer n.from.Close() //nolint:errcheck // nothing is buffered
	buffer := make([]byte, 4096)
	for {
		if err := n.from.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return err
		}
		size, err := n.from.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if ready, _ := unix.Poll([]unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}, 0); ready > 0 { //nolint:gosec // a file descriptor
				return nil
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for the container to be ready: %w", err)
		}
		for line := range bytes.Lines(buffer[:size]) {
			if bytes.HasPrefix(line, []byte("READY=")) {
				return n.tell(string(bytes.TrimSpace(line)), main)
			}
		}
	}
}

func (n *notifier) tell(ready string, main int) error {
	to, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.host, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the service manager that the container is ready: %w", err)
	}
	defer to.Close() //nolint:errcheck // nothing is buffered
	words := []string{ready}
	if main != 0 {
		words = append(words, "MAINPID="+strconv.Itoa(main))
	}
	for _, w := range words {
		if _, err := to.Write([]byte(w + "\n")); err != nil {
			return fmt.Errorf("tell the service manager that the container is ready: %w", err)
		}
	}
	return nil
}

// tellReady waits until the container is ready, or has ended, and tells the service manager. A detached container's process is the
// unit's main one from then on; otherwise this one is.
func (a *app) tellReady(c *container, detached bool) error {
	if a.notify == nil {
		return nil
	}
	c, err := a.open(c.id) // as it is now
	if err != nil {
		return err
	}
	pidfd, err := c.pidfd()
	if err != nil {
		return nil //nolint:nilerr // it has ended, and was never ready
	}
	defer pidfd.Close() //nolint:errcheck // read only
	main := 0
	if detached {
		main = c.PID
	}
	return a.notify.forward(pidfd, main)
}
