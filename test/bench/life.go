package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"brig/test/bench/fork"

	"golang.org/x/sys/unix"
)

// lives are the ways to make, start and delete one container, as an engine does it: by three processes of the runtime's, with
// the end of the container's own process in between.
func (t *tools) lives(bundle string) []*contender {
	var list []*contender
	for _, name := range []string{"brig-oci", "crun", "runc"} {
		if t.paths[name] == "" {
			continue
		}
		l, argv := t.ociLane(name)
		c := &contender{
			key: name + "-life", name: name + " create+start+delete", kind: kindLife, lane: l,
			note: "`create --pid-file`, `start`, the end of the program, `delete`",
		}
		c.prepare = func() (func() error, error) {
			id := "life" + strconv.FormatInt(c.calls.Add(1), 10)
			return func() error { return t.live(argv, bundle, id) }, nil
		}
		list = append(list, c)
	}
	return list
}

// live is one life. The end of the program is waited for without asking the runtime: to a shim it is a SIGCHLD.
func (t *tools) live(argv []string, bundle, id string) error {
	pidFile := t.path(id + ".pid")
	if err := t.verb(with(argv, "create", "--bundle", bundle, "--pid-file", pidFile, id)); err != nil {
		return err
	}
	defer os.Remove(pidFile)
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", pidFile, err)
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(process) //nolint:errcheck // nothing to lose
	if err := t.verb(with(argv, "start", id)); err != nil {
		return err
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, -1) //nolint:gosec // a file descriptor
		if err == nil {
			break
		}
		if err != unix.EINTR { //nolint:errorlint // as the kernel gives it
			return err
		}
	}
	return t.verb(with(argv, "delete", id))
}

func (t *tools) verb(argv []string) error {
	_, err := fork.Run(argv, &syscall.ProcAttr{Dir: t.dir, Env: environment(), Files: t.files()})
	if err != nil {
		return fmt.Errorf("%w; by hand: %s", err, strings.Join(argv, " "))
	}
	return nil
}
