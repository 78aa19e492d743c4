package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/caps"
	"brig/internal/cgroup"
	"brig/internal/mac"
	"brig/internal/mounts"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// restoreStage is told what criu has come to (criu(8), --action-script).
func (c *container) restoreStage(stage string, pid int, passed *os.File, spec *specs.Spec, group *cgroup.Cgroup, o *restoring) error {
	switch {
	case stage == "orphan-pts-master" && passed != nil: // the master of the container's terminal
		return o.holdTerminal(passed)
	case passed != nil:
		_ = passed.Close()
	case stage == "setup-namespaces":
		if err := c.know(pid); err != nil || spec.Hooks == nil {
			return err
		}
		// As runc does it, these hooks run again: the network of the new namespace is theirs to make.
		state := c.ociState(creating)
		//nolint:staticcheck // Prestart is old, and Docker still uses it
		if err := runHooks("prestart", spec.Hooks.Prestart, state, hostHook(spec)); err != nil {
			return err
		}
		return runHooks("createRuntime", spec.Hooks.CreateRuntime, state, hostHook(spec))
	case stage == criuLast:
		// This stage comes without the process; the first one came with it.
		err := c.sealRoot(spec)
		if err == nil {
			err = c.checkRestored(spec, group)
		}
		if err == nil {
			err = c.joinTime(spec)
		}
		if err == nil {
			c.Creating, c.Started = false, true
			err = c.save()
		}
		if err != nil {
			ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
			defer cancel()
			_ = c.kill(unix.SIGKILL, false) // first, so that nothing runs when criu lets go of it
			err = errors.Join(err, group.Kill(ctx))
		}
		return err
	}
	return nil
}

// joinTime writes down that the container has a time namespace: criu gives it one, so that its clocks go on where they were, and a
// program that is executed in it later has to see the same.
func (c *container) joinTime(spec *specs.Spec) error {
	ours, err := namespaceOf("self", "time")
	if _, has := plan.Namespace(spec, specs.TimeNamespace); has || errors.Is(err, fs.ErrNotExist) { // or a kernel without them
		return nil
	}
	theirs, perr := namespaceOf(fmt.Sprint(c.PID), "time")
	if err := errors.Join(err, perr); err != nil || theirs == ours {
		return err
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return c.keepSpec(text)
}

// sealRoot makes the root read-only: criu takes the mount that it is given as it is, and needs to write to it before.
func (c *container) sealRoot(spec *specs.Spec) error {
	if !spec.Root.Readonly {
		return nil
	}
	err := apart(func() error {
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", c.PID))
		if err != nil {
			return err
		}
		defer ns.Close() //nolint:errcheck // read only
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil { // which enters its root, too (setns(2))
			return err
		}
		return unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	})
	if err != nil {
		return fmt.Errorf("make the restored root read-only: %w", err)
	}
	return nil
}

// checkRestored looks at what has come from the images as the kernel sees it. They are files that anybody may have had in hand,
// and nothing in them may make a container weaker than its configuration has it.
func (c *container) checkRestored(spec *specs.Spec, group *cgroup.Cgroup) error {
	pids, err := group.Pids()
	if err != nil {
		return err
	}
	if !slices.Contains(pids, c.PID) {
		return fmt.Errorf("the restored process %d is not in the container's cgroup", c.PID)
	}
	if err := c.checkNamespaces(spec); err != nil {
		return err
	}
	outside, err := namespaceOf("self", "pid")
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if own, err := namespaceOf(fmt.Sprint(pid), "pid"); err == nil && own == outside {
			continue // criu, which is in the cgroup, too
		}
		if err := checkConfined(spec, pid); err != nil {
			return fmt.Errorf("the restored process %d is not confined as config.json has it: %w", pid, err)
		}
	}
	return c.checkMounts(spec)
}

// namespaceFiles are the names of the kinds in /proc/PID/ns (namespaces(7)).
var namespaceFiles = map[specs.LinuxNamespaceType]string{
	specs.PIDNamespace: "pid", specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
	specs.MountNamespace: "mnt", specs.CgroupNamespace: "cgroup", specs.TimeNamespace: "time",
}

func namespaceOf(pid, kind string) (string, error) {
	return os.Readlink("/proc/" + pid + "/ns/" + kind)
}

func (c *container) checkNamespaces(spec *specs.Spec) error {
	for _, n := range spec.Linux.Namespaces {
		theirs, err := namespaceOf(fmt.Sprint(c.PID), namespaceFiles[n.Type])
		if err != nil {
			return err
		}
		ours, err := namespaceOf("self", namespaceFiles[n.Type])
		if err != nil {
			return err
		}
		if n.Path == "" && theirs == ours {
			return fmt.Errorf("the restored process %d has no %s namespace of its own, which config.json asks for", c.PID, n.Type)
		}
		if n.Path == "" {
			continue
		}
		var want, has unix.Stat_t
		if err := errors.Join(unix.Stat(n.Path, &want), unix.Stat(fmt.Sprintf("/proc/%d/ns/%s", c.PID, namespaceFiles[n.Type]), &has)); err != nil {
			return err
		}
		if want.Ino != has.Ino || want.Dev != has.Dev {
			return fmt.Errorf("the restored process %d is not in the %s namespace %s of config.json", c.PID, n.Type, n.Path)
		}
	}
	return nil
}

// checkConfined compares the sets of capabilities, no_new_privs and the filter of a process with the spec's (proc_pid_status(5)).
func checkConfined(spec *specs.Spec, pid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	status := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.TrimSpace(value)
	}
	var allowed caps.Set
	if k := spec.Process.Capabilities; k != nil {
		if allowed, err = caps.ParseSet(slices.Concat(k.Bounding, k.Effective, k.Permitted, k.Inheritable, k.Ambient)); err != nil {
			return err
		}
	}
	for _, name := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		has, err := caps.ParseMask(status[name])
		if err != nil {
			return err
		}
		if more := has &^ allowed; more != 0 {
			return fmt.Errorf("it has %s in %s", more, name)
		}
	}
	if spec.Process.NoNewPrivileges && status["NoNewPrivs"] != "1" {
		return errors.New("it has no noNewPrivileges")
	}
	if (spec.Linux.Seccomp != nil || spec.Annotations[annotation.SeccompFloor] != "") && status["Seccomp"] != "2" {
		return errors.New("it has no seccomp filter")
	}
	return checkLabel(spec, pid)
}

// checkLabel compares what confines a process by AppArmor or SELinux with the spec's.
func checkLabel(spec *specs.Spec, pid int) error {
	profile, label := spec.Process.ApparmorProfile, spec.Process.SelinuxLabel
	if profile == "" && label == "" {
		return nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", pid))
	if err != nil {
		return err
	}
	has := strings.TrimRight(string(text), "\x00\n")
	same := has == label
	if label == "" {
		c := mac.ParseCurrent(mac.AppArmor, has)
		same = c.Name == profile && (c.Mode == "enforce" || c.Mode == "kill" || profile == mac.Unconfined)
	}
	if !same {
		return fmt.Errorf("it has the label or profile %q, and not %q", has, label+profile)
	}
	return nil
}

// attributes are those of a mount that take rights away, as mountinfo has them.
var attributes = []struct {
	attr uint64
	word string
}{
	{unix.MOUNT_ATTR_RDONLY, "ro"}, {unix.MOUNT_ATTR_NOSUID, "nosuid"}, {unix.MOUNT_ATTR_NODEV, "nodev"}, {unix.MOUNT_ATTR_NOEXEC, "noexec"},
}

// checkMounts makes sure that each mount of the spec is there, and takes away what it has to, that the root is read-only where it
// has to be, and that each masked and read-only path is a mount of its own, or not there.
func (c *container) checkMounts(spec *specs.Spec) error {
	proc := fmt.Sprintf("/proc/%d", c.PID)
	text, err := os.ReadFile(proc + "/mountinfo")
	if err != nil {
		return err
	}
	options := map[string]string{} // of the uppermost mount at each place: its root, and what follows
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 5 {
			options[f[4]] = "," + f[3] + "," + f[5] + ","
		}
	}
	if spec.Root.Readonly && !strings.Contains(options["/"], ",ro,") {
		return errors.New("root.readonly: the root is writable")
	}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		has, there := options[path.Clean(m.Destination)]
		if !there {
			return fmt.Errorf("mounts: nothing is mounted on %s in the container", m.Destination)
		}
		parsed, err := mounts.Parse(m.Options)
		if err != nil {
			return fmt.Errorf("mounts: %s: %w", m.Destination, err)
		}
		for _, a := range attributes {
			if (parsed.Set|parsed.RecursiveSet)&a.attr != 0 && !strings.Contains(has, ","+a.word+",") {
				return fmt.Errorf("mounts: %s is not %s in the container", m.Destination, a.word)
			}
		}
	}
	root, err := os.OpenRoot(proc + "/root")
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // read only
	missing := func(p string, want string) bool {
		_, err := root.Lstat(strings.TrimPrefix(path.Clean(p), "/"))
		return !errors.Is(err, unix.ENOENT) && !strings.Contains(options[path.Clean(p)], want)
	}
	for _, p := range spec.Linux.MaskedPaths {
		if missing(p, ",/null,") && missing(p, ",/,ro,") {
			return fmt.Errorf("linux.maskedPaths: %s is not masked in the container", p)
		}
	}
	for _, p := range spec.Linux.ReadonlyPaths {
		if missing(p, ",ro,") {
			return fmt.Errorf("linux.readonlyPaths: %s is not read-only in the container", p)
		}
	}
	return nil
}
