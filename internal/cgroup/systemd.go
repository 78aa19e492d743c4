package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"brig/internal/host"
)

// unitKey is where Paths keeps the systemd unit, as "slice/prefix/name".
const unitKey = "systemd-unit"

// unit is a transient scope of systemd, or a slice when its name ends so.
type unit struct{ slice, prefix, name string }

// parseUnit reads an OCI cgroupsPath of the systemd driver, "slice:prefix:name", as runc does. An empty one is a scope
// "brig-ID" in system.slice, or in user.slice for an unprivileged user. systemd itself judges the names further.
func parseUnit(o Options) (unit, error) {
	if o.Path == "" {
		return unit{"", "brig", o.ID}, nil
	}
	parts := strings.Split(o.Path, ":")
	if len(parts) != 3 {
		return unit{}, fmt.Errorf("linux.cgroupsPath %q: with the systemd cgroup driver it must be of the form slice:prefix:name, such as system.slice:brig:%s", o.Path, o.ID)
	}
	u := unit{parts[0], parts[1], parts[2]}
	if u.name == "" || strings.ContainsAny(o.Path, "/\x00\n") {
		return unit{}, fmt.Errorf("linux.cgroupsPath %q: slice, prefix and name must be unit names, and the last not empty", o.Path)
	}
	if u.slice != "" {
		if _, err := systemd.ExpandSlice(u.slice); err != nil {
			return unit{}, fmt.Errorf("linux.cgroupsPath %q: %w: a slice is of the form a-b.slice", o.Path, err)
		}
	}
	return u, nil
}

// String and unitFromState are the form in a state file. Unit names have no slashes.
func (u unit) String() string { return u.slice + "/" + u.prefix + "/" + u.name }

func unitFromState(text string) *unit {
	slice, rest, _ := strings.Cut(text, "/")
	prefix, name, _ := strings.Cut(rest, "/")
	return &unit{slice, prefix, name}
}

// config is the library's view of the unit.
func (u unit) config(r *specs.LinuxResources) *cgroups.Cgroup {
	return &cgroups.Cgroup{
		Name: u.name, Parent: u.slice, ScopePrefix: u.prefix,
		Systemd: true, Rootless: os.Geteuid() != 0, Resources: libraryResources(r),
	}
}

// createScope makes the group through systemd. A scope cannot be empty, and the sandbox's process does not exist yet: a
// placeholder that is stopped before its first instruction holds the scope open until Settled.
func createScope(tree *host.CgroupTree, r *specs.LinuxResources, o Options) (*Cgroup, error) {
	list, err := compile(tree, r)
	if err != nil {
		return nil, err
	}
	u, err := parseUnit(o)
	if err != nil {
		return nil, err
	}
	c := &Cgroup{legacy: map[string]string{}, unit: &u}
	if list, err = c.available(tree, list, o.AllowMissing); err != nil {
		return nil, err
	}
	if !systemd.IsRunningSystemd() {
		return nil, errors.New("make a cgroup through systemd: systemd does not run on this host: leave out --systemd-cgroup")
	}
	config := u.config(r)
	if tree.V2() {
		config.Resources.Unified = withDefault(config.Resources.Unified, "memory.oom.group", "1") // OOMPolicy=kill since systemd 253
	}
	m, err := manager.New(config)
	if err != nil {
		return nil, fmt.Errorf("make a cgroup through systemd: %w", err)
	}
	if c.placeholder, err = startPlaceholder(); err != nil {
		return nil, fmt.Errorf("make a cgroup through systemd: %w", err)
	}
	fail := func(err error) (*Cgroup, error) {
		return nil, errors.Join(fmt.Errorf("make a cgroup through systemd: %w", err), c.Settled(), m.Destroy())
	}
	if err := m.Apply(c.placeholder); err != nil {
		return fail(err)
	}
	for controller, dir := range m.GetPaths() {
		if controller == "" {
			c.unified = dir
		} else {
			c.legacy[controller] = dir
		}
	}
	// systemd must know the limits, or it would take them back at its next reload; what it has no word for, and what
	// the host lacks, is our own business.
	if err := m.Set(c.unitResources(r)); err != nil {
		return fail(err)
	}
	if err := c.apply(list, o.AllowMissing); err != nil {
		return fail(err)
	}
	if tree.V2() {
		if err := c.oomGroup(list); err != nil {
			return fail(err)
		}
	}
	return c, nil
}

// unitResources are what systemd is to keep. The library makes a property of every limit on swap but none at all, which is what a
// limit on memory and swap together is when it equals that on memory: systemd's next reload would lift it.
func (c *Cgroup) unitResources(r *specs.LinuxResources) *cgroups.Resources {
	l := libraryResources(r)
	if len(c.legacy) == 0 && l.Memory > 0 && l.MemorySwap == l.Memory && exists(filepath.Join(c.unified, "memory.swap.max")) {
		l.Unified = withDefault(l.Unified, "memory.swap.max", "0")
	}
	return l
}

// withDefault is a copy of files with one more, unless it is there.
func withDefault(files map[string]string, name, value string) map[string]string {
	whole := map[string]string{name: value}
	maps.Copy(whole, files)
	return whole
}

// Settled says that the sandbox's process is in the group, so what kept the group alive until then may go. Only a
// group made through systemd has such a thing.
func (c *Cgroup) Settled() error {
	pid := c.placeholder
	if pid == 0 {
		return nil
	}
	c.placeholder = 0
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("end the placeholder of a systemd scope: %w", err)
	}
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return nil
		}
	}
}

// startPlaceholder starts a process that never runs: ptrace(2) stops it at its execve, and when the tracer lets go, a SIGSTOP
// waits for it.
func startPlaceholder() (int, error) {
	runtime.LockOSThread() // ptrace is a matter of one thread
	defer runtime.UnlockOSThread()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"brig-placeholder"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return 0, fmt.Errorf("start a placeholder: %w", err)
	}
	err = awaitStop(pid)
	if err == nil {
		err = unix.Kill(pid, unix.SIGSTOP)
	}
	if err == nil {
		err = unix.PtraceDetach(pid)
	}
	if err == nil {
		err = awaitStop(pid)
	}
	if err != nil {
		c := Cgroup{placeholder: pid}
		return 0, errors.Join(fmt.Errorf("start a placeholder: %w", err), c.Settled())
	}
	return pid, nil
}

// awaitStop waits until a child has stopped, traced or not.
func awaitStop(pid int) error {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case !status.Stopped():
			return fmt.Errorf("it ended with status %#x", status)
		default:
			return nil
		}
	}
}

// stopScope has systemd end the unit and remove its groups.
func (c *Cgroup) stopScope() error {
	m, err := manager.NewWithPaths(c.unit.config(nil), c.groups())
	if err != nil {
		return fmt.Errorf("remove a systemd scope: %w", err)
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("remove a systemd scope: %w", err)
	}
	return nil
}

// updateScope tells systemd of new limits.
func (c *Cgroup) updateScope(r *specs.LinuxResources) error {
	m, err := manager.NewWithPaths(c.unit.config(nil), c.groups())
	if err != nil {
		return fmt.Errorf("update a systemd scope: %w", err)
	}
	if err := m.Set(c.unitResources(r)); err != nil {
		return fmt.Errorf("update a systemd scope: %w", err)
	}
	return nil
}
