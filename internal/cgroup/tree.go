package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultRoot is where every distribution mounts cgroups.
const DefaultRoot = "/sys/fs/cgroup"

// Tree is how the machine's cgroups are mounted.
type Tree struct {
	// Unified is the mount point of version 2; empty when it is not mounted.
	Unified string
	// Legacy maps a controller of version 1 to the mount point of its hierarchy. Empty on a pure version 2 machine.
	Legacy map[string]string
	// Controllers of version 2 that its root group offers.
	Controllers []string
}

// legacyControllers are those that Brig uses. The rest (perf_event, misc, debug) limit nothing.
var legacyControllers = []string{"memory", "pids", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio", "hugetlb", "net_cls", "net_prio", "rdma"}

// V2 says that version 2 alone is in use.
func (t *Tree) V2() bool { return len(t.Legacy) == 0 && t.Unified != "" }

// Mode is "v2", "v1", "hybrid" or "none".
func (t *Tree) Mode() string {
	switch {
	case t.V2():
		return "v2"
	case t.Unified != "":
		return "hybrid"
	case len(t.Legacy) > 0:
		return "v1"
	}
	return "none"
}

// Find looks at /sys/fs/cgroup by statfs(2), which costs a few microseconds where reading mountinfo costs a hundred.
func Find() (*Tree, error) { return FindAt(DefaultRoot) }

// FindAt is Find with another root.
func FindAt(root string) (*Tree, error) {
	magic, err := fsMagic(root)
	if err != nil {
		return nil, fmt.Errorf("find the cgroup mounts: %w: mount a cgroup2 file system there", err)
	}
	t := &Tree{}
	if magic == unix.CGROUP2_SUPER_MAGIC {
		t.Unified = root
		t.Controllers, err = readFields(filepath.Join(root, "cgroup.controllers"))
		return t, err
	}
	t.Legacy = make(map[string]string, len(legacyControllers))
	for _, c := range legacyControllers {
		dir := filepath.Join(root, c)
		if m, err := fsMagic(dir); err == nil && m == unix.CGROUP_SUPER_MAGIC {
			t.Legacy[c] = dir
		}
	}
	unified := filepath.Join(root, "unified")
	if m, err := fsMagic(unified); err == nil && m == unix.CGROUP2_SUPER_MAGIC {
		t.Unified = unified
		if t.Controllers, err = readFields(filepath.Join(unified, "cgroup.controllers")); err != nil {
			return nil, err
		}
	}
	if t.Unified == "" && len(t.Legacy) == 0 {
		return nil, fmt.Errorf("find the cgroup mounts: nothing is mounted below %s: mount a cgroup2 file system there", root)
	}
	return t, nil
}

// Available says whether a controller can limit anything here.
func (t *Tree) Available(controller string) bool {
	if t.V2() {
		return slices.Contains(t.Controllers, controller)
	}
	_, ok := t.Legacy[controller]
	return ok
}

func fsMagic(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Type), nil
}

func readFields(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	return strings.Fields(string(text)), err
}

// own gives the caller's own group in each hierarchy, relative to its mount: the key is a version 1 controller, or ""
// for version 2. From /proc/self/cgroup, see cgroups(7).
func own() (map[string]string, error) {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	groups := make(map[string]string)
	for s := bufio.NewScanner(f); s.Scan(); {
		parts := strings.SplitN(s.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			groups[c] = parts[2]
		}
	}
	return groups, nil
}

// delegated is the group under which an unprivileged caller may make groups: the nearest one, from its own upwards,
// that it may write and that has no processes of its own (a group that has some cannot give controllers to
// children, and a process can only be moved below a common ancestor that the caller may write).
func (t *Tree) delegated() (string, error) {
	if t.Unified == "" {
		return "", ErrNotDelegated
	}
	groups, err := own()
	if err != nil {
		return "", err
	}
	for dir := groups[""]; dir != "/" && dir != "" && dir != "."; dir = filepath.Dir(dir) {
		full := filepath.Join(t.Unified, dir)
		if unix.Access(full, unix.W_OK) != nil || unix.Access(filepath.Join(full, "cgroup.procs"), unix.W_OK) != nil {
			break
		}
		if procs, err := readFields(filepath.Join(full, "cgroup.procs")); err == nil && len(procs) == 0 {
			return dir, nil
		}
	}
	return "", ErrNotDelegated
}

// missingDir says that an error is about a path that is not there (any more).
func missingDir(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}
