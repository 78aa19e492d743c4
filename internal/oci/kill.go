package oci

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func (a *app) kill(f *flag.FlagSet) func([]string) error {
	var all bool
	f.BoolVar(&all, "all", false, "every process of the container")
	f.BoolVar(&all, "a", false, "short for --all")
	return func(args []string) error {
		s := unix.SIGTERM
		if len(args) == 2 {
			var err error
			if s, err = parseSignal(args[1]); err != nil {
				return err
			}
		}
		c, err := a.open(args[0])
		if err != nil {
			return err
		}
		return c.kill(s, all)
	}
}

func parseSignal(text string) (unix.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil && n >= 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	return 0, fmt.Errorf("unknown signal %q", text)
}

// kill sends a signal to the container's process, or to every process in its cgroup.
func (c *container) kill(s unix.Signal, all bool) error {
	pidfd, err := c.pidfd()
	if err == nil {
		err = unix.PidfdSendSignal(int(pidfd.Fd()), s, nil, 0) //nolint:gosec // a file descriptor
		_ = pidfd.Close()
	}
	gone := errors.Is(err, unix.ESRCH)
	if g := c.group(); all && g != nil {
		pids, perr := g.Pids()
		for _, pid := range pids {
			_ = unix.Kill(pid, s)
		}
		if perr != nil || gone {
			return perr
		}
	}
	if gone {
		return errors.New("container not running") // the words that engines know
	}
	if err == nil && s == unix.SIGKILL && c.status() == paused {
		return c.group().Thaw(context.Background()) // a frozen process of cgroup v1 dies when it thaws
	}
	return err
}
