package oci

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"

	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
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
		if c.onGVisor() {
			return c.signalGuest(s, all)
		}
		if s == unix.SIGKILL && !c.ownPIDs() {
			return c.killGroup(all)
		}
		return c.kill(s, all)
	}
}

// ends tells whether a signal ends runc's process that waits for its start: what the Go runtime does by itself.
func ends(s unix.Signal) bool {
	return s == unix.SIGHUP || s == unix.SIGINT || s == unix.SIGTERM || s == unix.SIGQUIT || s == unix.SIGABRT
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
	return 0, fmt.Errorf("unknown signal %q: say a name, such as TERM or SIGKILL, or a number from 0 to 64", text)
}

// ownPIDs tells whether the kernel ends every process of the container with the first (pid_namespaces(7)).
func (c *container) ownPIDs() bool {
	spec, err := c.outline()
	if err != nil {
		return true
	}
	joined, ok := plan.Namespace(spec, specs.PIDNamespace)
	return ok && joined == ""
}

// killGroup kills every process of the container by its cgroup, also when the first is gone.
func (c *container) killGroup(all bool) error {
	g := c.group()
	if g == nil {
		return c.kill(unix.SIGKILL, all)
	}
	pids, err := g.Pids()
	if err == nil && len(pids) == 0 {
		return c.kill(unix.SIGKILL, all)
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
		defer cancel()
		err = g.Kill(ctx)
	}
	if err != nil {
		return fmt.Errorf("unable to kill all processes: %w", err)
	}
	return nil
}

// kill sends a signal to the container's process, or to every process in its cgroup.
func (c *container) kill(s unix.Signal, all bool) error {
	if !c.Started && ends(s) {
		s = unix.SIGKILL // what waits for its start has no handler, and as pid 1 none means that the signal is nothing (kill(2))
	}
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
