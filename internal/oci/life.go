package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"brig/internal/cgroup"
	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (a *app) start(*flag.FlagSet) func([]string) error {
	return func(args []string) error {
		id, err := one(args)
		if err != nil {
			return err
		}
		c, err := a.open(id)
		if err != nil {
			return err
		}
		return a.startContainer(c)
	}
}

// startContainer lets the waiting process execute the program.
func (a *app) startContainer(c *container) error {
	lock, err := c.lock(lockTimeout)
	if err != nil {
		return err
	}
	defer lock.Close()                     //nolint:errcheck // which unlocks
	if c, err = a.open(c.id); err != nil { // it may have changed before the lock was ours
		return err
	}
	switch s := c.status(); s {
	case created:
	case stopped:
		return errors.New("cannot start a container that has stopped")
	default:
		return fmt.Errorf("cannot start an already %s container", s)
	}
	spec, err := c.spec()
	if err != nil {
		return err
	}
	child, err := c.attach()
	if err != nil {
		return err
	}
	defer child.Release() //nolint:errcheck // descriptors only
	if err := child.WaitFor(launch.PointStart); err != nil {
		return err
	}
	if err := c.insideHooks(spec); err != nil {
		_ = c.kill(unix.SIGKILL, false)
		return err
	}
	if err := child.Continue(); err != nil {
		return err
	}
	if err := child.WaitExec(); err != nil {
		return programError(spec.Process.Args, err)
	}
	c.Started, c.Steps = true, nil
	if err := errors.Join(c.save(), os.Remove(filepath.Join(c.dir, startSock))); err != nil {
		return err
	}
	if h := spec.Hooks; h != nil {
		a.runLateHooks(h.Poststart, c.ociState(running))
	}
	return nil
}

func (c *container) attach() (*launch.Child, error) {
	pidfd, err := c.pidfd()
	if err != nil {
		return nil, errors.New("cannot start a container that has stopped")
	}
	dir, err := os.Open(c.dir)
	if err != nil {
		return nil, errors.Join(err, pidfd.Close())
	}
	defer dir.Close() //nolint:errcheck // read only
	child, err := launch.Attach(dir, startSock, c.PID, pidfd, c.Steps)
	if err != nil {
		return nil, errors.Join(err, pidfd.Close())
	}
	return child, nil
}

// programError says what engines look for when the program cannot be executed.
func programError(args []string, err error) error {
	var step *launch.StepError
	if !errors.As(err, &step) || !strings.HasPrefix(step.Call, "execve(") {
		return err
	}
	if errors.Is(err, unix.ENOENT) && !strings.Contains(args[0], "/") {
		return fmt.Errorf("exec: %q: executable file not found in $PATH", args[0])
	}
	return fmt.Errorf("exec: %q: %w", args[0], step.Errno)
}

func (a *app) run(f *flag.FlagSet) func([]string) error {
	var o creation
	var detach bool
	o.register(f)
	f.BoolVar(&detach, "detach", false, "leave the container running and return")
	f.BoolVar(&detach, "d", false, "short for --detach")
	return func(args []string) error {
		id, err := one(args)
		if err != nil {
			return err
		}
		b, err := loadBundle(o.bundle)
		if err != nil {
			return err
		}
		c, process, err := a.createContainer(id, b, &o)
		if err != nil {
			return err
		}
		defer process.Release() //nolint:errcheck // descriptors only
		if err := a.startContainer(c); err != nil {
			_ = process.Signal(unix.SIGKILL)
			_, _ = process.Wait()
			return errors.Join(err, a.destroy(id, true))
		}
		if detach {
			return nil
		}
		stop := forward(process.Signal)
		defer stop()
		status, err := process.Wait()
		if err != nil {
			return err
		}
		a.code = exitCode(status)
		return a.destroy(id, true)
	}
}

// exitCode is the shell's: 128+n for signal n.
func exitCode(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// forward hands the caller's signals on until the function it gives is called.
func forward(send func(unix.Signal) error) (stop func()) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	go func() {
		for s := range c {
			if n, ok := s.(unix.Signal); ok {
				_ = send(n)
			}
		}
	}()
	return func() { signal.Stop(c) }
}

func (a *app) kill(f *flag.FlagSet) func([]string) error {
	var all bool
	f.BoolVar(&all, "all", false, "every process of the container")
	f.BoolVar(&all, "a", false, "short for --all")
	return func(args []string) error {
		if len(args) < 1 || len(args) > 2 {
			return errors.New("give a container id, and a signal")
		}
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

func (a *app) delete(f *flag.FlagSet) func([]string) error {
	var force bool
	f.BoolVar(&force, "force", false, "kill it first when it runs; no error when it does not exist")
	f.BoolVar(&force, "f", false, "short for --force")
	return func(args []string) error {
		id, err := one(args)
		if err != nil {
			return err
		}
		return a.destroy(id, force)
	}
}

// forceTimeout is how long delete --force waits for another verb before it goes on without it: that one hangs.
const forceTimeout = 5 * time.Second

// destroy removes a container: its processes, its cgroup, its folder; then the poststop hooks run.
func (a *app) destroy(id string, force bool) error {
	c, err := a.open(id)
	if errors.Is(err, errNotExist) || err != nil && force {
		return a.destroyRest(id, force, err)
	}
	if err != nil {
		return err
	}
	wait := lockTimeout
	if force {
		wait = forceTimeout
	}
	lock, err := c.lock(wait)
	if err != nil && (!force || !errors.Is(err, errBusy)) {
		return gone(err, force)
	}
	defer lock.Close()                   //nolint:errcheck // which unlocks; nil when a hung command has it
	if c, err = a.open(id); err != nil { // another delete was first
		return gone(err, force)
	}
	switch s := c.status(); {
	case s == stopped:
	case force || s == created:
		if err := c.kill(unix.SIGKILL, false); err != nil && c.status() != stopped {
			return err
		}
	default:
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", id, s)
	}
	spec, _ := c.spec()
	if err := c.clear(); err != nil {
		return err
	}
	if spec != nil && spec.Hooks != nil {
		a.runLateHooks(spec.Hooks.Poststop, &specs.State{
			Version: specs.Version, ID: c.id, Status: stopped, Bundle: c.Bundle, Annotations: spec.Annotations,
		})
	}
	return nil
}

// clear waits for the end of the processes and removes cgroup and folder.
func (c *container) clear() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	if err := c.waitEnd(ctx); err != nil {
		return err
	}
	if g := c.group(); g != nil {
		if err := g.Kill(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := g.Delete(ctx); err != nil {
			return fmt.Errorf("delete container %s: %w", c.id, err)
		}
	}
	if err := c.removeFolder(); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	return nil
}

// removeFolder removes the state last but one and the lock last: until then another delete finds the container whole and
// waits, and what a killed one leaves is found again.
func (c *container) removeFolder() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != stateFile && e.Name() != lockFile {
			err = errors.Join(err, os.RemoveAll(filepath.Join(c.dir, e.Name())))
		}
	}
	return errors.Join(err, os.RemoveAll(filepath.Join(c.dir, stateFile)), os.RemoveAll(filepath.Join(c.dir, lockFile)), os.RemoveAll(c.dir))
}

// gone passes over what does not exist any more, where that was the wish.
func gone(err error, force bool) error {
	if force && errors.Is(err, errNotExist) {
		return nil
	}
	return err
}

// waitEnd waits until the container's process is dead; its parent may not have taken its status yet.
func (c *container) waitEnd(ctx context.Context) error {
	pidfd, err := c.pidfd()
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	defer pidfd.Close() //nolint:errcheck // read only
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}, 100) //nolint:gosec // a file descriptor
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("container %s: its process %d does not end", c.id, c.PID)
		}
	}
}

// destroyRest removes what a killed create left: a folder without a readable state, and the cgroup of that name.
func (a *app) destroyRest(id string, force bool, why error) error {
	if err := checkID(id); err != nil {
		return err
	}
	dir := filepath.Join(a.root, id)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if force {
			return nil
		}
		return why
	}
	c := &container{id: id, dir: dir}
	// Its maker, or another delete, may be at it.
	lock, err := c.lock(forceTimeout)
	if err != nil && !errors.Is(err, errBusy) && !errors.Is(err, errNotExist) {
		return err
	}
	defer lock.Close() //nolint:errcheck // which unlocks
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return gone(why, force)
	}
	if spec, err := c.spec(); err == nil && !a.noCgroup {
		if g, err := cgroup.Create(nil, cgroup.Options{ID: id, Path: spec.Linux.CgroupsPath, AllowMissing: true}); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
			defer cancel()
			if err := errors.Join(g.Kill(ctx), g.Delete(ctx)); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}

func (a *app) pause(*flag.FlagSet) func([]string) error {
	return a.frozen(running, (*cgroup.Cgroup).Freeze)
}

func (a *app) resume(*flag.FlagSet) func([]string) error {
	return a.frozen(paused, (*cgroup.Cgroup).Thaw)
}

func (a *app) frozen(from string, do func(*cgroup.Cgroup, context.Context) error) func([]string) error {
	return func(args []string) error {
		id, err := one(args)
		if err != nil {
			return err
		}
		c, err := a.open(id)
		if err != nil {
			return err
		}
		if s := c.status(); s != from && (from != running || s != created) {
			return fmt.Errorf("container not %s: it is %s", from, s)
		}
		g := c.group()
		if g == nil {
			return fmt.Errorf("container %s has no cgroup", id)
		}
		ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
		defer cancel()
		return do(g, ctx)
	}
}

func (a *app) state(*flag.FlagSet) func([]string) error {
	return func(args []string) error {
		id, err := one(args)
		if err != nil {
			return err
		}
		c, err := a.open(id)
		if err != nil {
			return err
		}
		return writeJSON(a.out, c.describe())
	}
}

// description is what `state` and `list` print; runc's keys.
type description struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func (c *container) describe() description {
	status := c.status()
	s := c.ociState(status)
	return description{s.Version, c.id, s.Pid, status, c.Bundle, c.Rootfs, c.Created, s.Annotations, c.Owner}
}

func (a *app) list(f *flag.FlagSet) func([]string) error {
	var format string
	var quiet bool
	f.StringVar(&format, "format", "table", "table or json")
	f.StringVar(&format, "f", "table", "short for --format")
	f.BoolVar(&quiet, "quiet", false, "only the ids")
	f.BoolVar(&quiet, "q", false, "short for --quiet")
	return func([]string) error {
		entries, err := os.ReadDir(a.root)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		all := []description{}
		for _, e := range entries {
			if c, err := a.open(e.Name()); err == nil {
				all = append(all, c.describe())
			}
		}
		switch {
		case quiet:
			for _, d := range all {
				fmt.Fprintln(a.out, d.ID)
			}
			return nil
		case format == "json":
			return json.NewEncoder(a.out).Encode(all)
		case format != "table":
			return fmt.Errorf("--format %q: there are table and json", format)
		}
		fmt.Fprintf(a.out, "%-20s %-10s %-10s %-40s %-32s %s\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
		for _, d := range all {
			fmt.Fprintf(a.out, "%-20s %-10d %-10s %-40s %-32s %s\n", d.ID, d.PID, d.Status, d.Bundle, d.Created.Format(time.RFC3339Nano), d.Owner)
		}
		return nil
	}
}

func (a *app) ps(f *flag.FlagSet) func([]string) error {
	var format string
	f.StringVar(&format, "format", "table", "table or json")
	f.StringVar(&format, "f", "table", "short for --format")
	return func(args []string) error {
		if len(args) < 1 {
			return errors.New("give a container id")
		}
		c, err := a.open(args[0])
		if err != nil {
			return err
		}
		g := c.group()
		if g == nil {
			return fmt.Errorf("container %s has no cgroup, by which its processes are known", c.id)
		}
		pids, err := g.Pids()
		if err != nil {
			return err
		}
		if format == "json" {
			return json.NewEncoder(a.out).Encode(pids)
		}
		options := args[1:]
		if len(options) == 0 {
			options = []string{"-ef"}
		}
		out, err := exec.Command("ps", options...).Output() //nolint:gosec // the caller's own options
		if err != nil {
			return fmt.Errorf("ps: %w", err)
		}
		return a.psLines(out, pids)
	}
}

// psLines passes on the header and the lines of the container's processes.
func (a *app) psLines(out []byte, pids []int) error {
	column := -1
	for i, line := range strings.Split(strings.TrimRight(string(out), "\n"), "\n") {
		fields := strings.Fields(line)
		if i == 0 {
			for n, name := range fields {
				if name == "PID" {
					column = n
				}
			}
			if column < 0 {
				return errors.New("ps prints no PID column")
			}
			fmt.Fprintln(a.out, line)
			continue
		}
		for _, pid := range pids {
			if len(fields) > column && fields[column] == strconv.Itoa(pid) {
				fmt.Fprintln(a.out, line)
			}
		}
	}
	return nil
}

func (a *app) update(f *flag.FlagSet) func([]string) error {
	var resources string
	var memory, swap, reservation, quota, pids int64
	var period, shares uint64
	var weight int
	var cpus, mems string
	f.StringVar(&resources, "resources", "", "file of resources in JSON; - for standard input")
	f.StringVar(&resources, "r", "", "short for --resources")
	f.Int64Var(&memory, "memory", 0, "memory in bytes")
	f.Int64Var(&swap, "memory-swap", 0, "memory and swap in bytes; -1 for no limit")
	f.Int64Var(&reservation, "memory-reservation", 0, "soft limit on memory in bytes")
	f.Int64Var(&quota, "cpu-quota", 0, "microseconds of each period")
	f.Uint64Var(&period, "cpu-period", 0, "period in microseconds")
	f.Uint64Var(&shares, "cpu-share", 0, "share of the processors")
	f.StringVar(&cpus, "cpuset-cpus", "", "processors")
	f.StringVar(&mems, "cpuset-mems", "", "memory nodes")
	f.Int64Var(&pids, "pids-limit", 0, "processes; -1 for no limit")
	f.IntVar(&weight, "blkio-weight", 0, "share of disk time")
	return func(args []string) error {
		id, err := one(args)
		if err != nil {
			return err
		}
		c, err := a.open(id)
		if err != nil {
			return err
		}
		r := &specs.LinuxResources{}
		if resources != "" {
			if r, err = a.readResources(resources); err != nil {
				return err
			}
		} else {
			if memory != 0 || swap != 0 || reservation != 0 {
				r.Memory = &specs.LinuxMemory{Limit: set(memory), Swap: set(swap), Reservation: set(reservation)}
			}
			if quota != 0 || period != 0 || shares != 0 || cpus != "" || mems != "" {
				r.CPU = &specs.LinuxCPU{Quota: set(quota), Period: set(period), Shares: set(shares), Cpus: cpus, Mems: mems}
			}
			if pids != 0 {
				r.Pids = &specs.LinuxPids{Limit: &pids}
			}
			if weight != 0 {
				w := uint16(weight) //nolint:gosec // the kernel judges it
				r.BlockIO = &specs.LinuxBlockIO{Weight: &w}
			}
		}
		r.Devices = nil // runc's update changes none
		g := c.group()
		if g == nil {
			return fmt.Errorf("container %s has no cgroup", id)
		}
		return g.Update(r)
	}
}

func set[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func (a *app) readResources(name string) (*specs.LinuxResources, error) {
	var text bytes.Buffer
	var err error
	if name == "-" {
		_, err = text.ReadFrom(a.in)
	} else {
		var data []byte
		data, err = os.ReadFile(name)
		text.Write(data)
	}
	var r specs.LinuxResources
	if err == nil {
		err = json.Unmarshal(text.Bytes(), &r)
	}
	if err != nil {
		return nil, fmt.Errorf("--resources %s: %w", name, err)
	}
	return &r, nil
}
