package host

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

// CgroupRoot is where every distribution mounts cgroups.
const CgroupRoot = "/sys/fs/cgroup"

// CgroupTree is how the machine's cgroups are mounted.
type CgroupTree struct {
	// Unified is the mount point of version 2; empty when it is not mounted.
	Unified string
	// Legacy maps a controller of version 1, or Named, to the mount point of its hierarchy. Empty on a pure version 2 machine.
	Legacy map[string]string
	// Controllers of version 2 that its root group offers. Empty on a hybrid machine.
	Controllers []string
}

// Named is systemd's hierarchy of version 1, which has no controller: it only tells groups apart. Engines have runc's containers in
// it, too.
const Named = "name=systemd"

// legacyControllers are those that limit something. (perf_event, misc and debug do not.)
var legacyControllers = []string{"memory", "pids", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio", "hugetlb", "net_cls", "net_prio", "rdma"}

// ErrNotDelegated says that an unprivileged caller owns no cgroup subtree in which it could make one. The caller may
// refuse, or go on without limits and say so.
var ErrNotDelegated = errors.New("no cgroup subtree is delegated to this user; start it with systemd-run --user --scope -p Delegate=yes, or as root")

// V2 says that version 2 alone is in use.
func (t *CgroupTree) V2() bool { return len(t.Legacy) == 0 && t.Unified != "" }

// Mode is "v2", "v1", "hybrid" or "none".
func (t *CgroupTree) Mode() string {
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

// Cgroups looks at /sys/fs/cgroup by statfs(2), a dozen microseconds, where reading mountinfo takes a hundred.
func Cgroups() (*CgroupTree, error) { return cgroupsAt(CgroupRoot) }

func cgroupsAt(root string) (*CgroupTree, error) {
	magic, err := fsMagic(root)
	if err != nil {
		return nil, fmt.Errorf("find the cgroup mounts: %w: mount a cgroup2 file system there", err)
	}
	t := &CgroupTree{}
	if magic == unix.CGROUP2_SUPER_MAGIC {
		t.Unified = root
		t.Controllers, err = fields(filepath.Join(root, "cgroup.controllers"))
		return t, err
	}
	t.Legacy = make(map[string]string, len(legacyControllers))
	for _, c := range legacyControllers {
		dir := filepath.Join(root, c)
		if m, err := fsMagic(dir); err == nil && m == unix.CGROUP_SUPER_MAGIC {
			t.Legacy[c] = dir
		}
	}
	if dir := filepath.Join(root, "systemd"); len(t.Legacy) > 0 {
		if m, err := fsMagic(dir); err == nil && m == unix.CGROUP_SUPER_MAGIC {
			t.Legacy[Named] = dir
		}
	}
	unified := filepath.Join(root, "unified")
	if m, err := fsMagic(unified); err == nil && m == unix.CGROUP2_SUPER_MAGIC {
		t.Unified = unified // its controllers, if any, are beside the point: version 1 has those that Brig uses
	}
	if t.Unified == "" && len(t.Legacy) == 0 {
		return nil, fmt.Errorf("find the cgroup mounts: nothing is mounted below %s: mount a cgroup2 file system there", root)
	}
	return t, nil
}

// Available says whether a controller can limit anything here.
func (t *CgroupTree) Available(controller string) bool {
	if t.V2() {
		return slices.Contains(t.Controllers, controller)
	}
	_, ok := t.Legacy[controller]
	return ok
}

// OwnCgroups gives the caller's own group in each hierarchy, relative to its mount: the key is a version 1
// controller, or "" for version 2. From /proc/self/cgroup, see cgroups(7).
func OwnCgroups() (map[string]string, error) {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find the caller's own cgroup: %w", err)
	}
	defer f.Close()
	groups := make(map[string]string)
	s := bufio.NewScanner(f)
	for s.Scan() {
		parts := strings.SplitN(s.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			groups[c] = parts[2]
		}
	}
	return groups, s.Err()
}

// Delegated is the group, relative to Unified, under which an unprivileged caller may make groups: the nearest one, from
// its own upwards, that it may write and that has no processes of its own. (A group that has some cannot give
// controllers to children, and a process can only be placed below a common ancestor that the caller may write.)
// Else ErrNotDelegated.
func (t *CgroupTree) Delegated() (string, error) {
	if t.Unified == "" {
		return "", ErrNotDelegated
	}
	groups, err := OwnCgroups()
	if err != nil {
		return "", err
	}
	for dir := groups[""]; dir != "/" && dir != "" && dir != "."; dir = filepath.Dir(dir) {
		full := filepath.Join(t.Unified, dir)
		procs := filepath.Join(full, "cgroup.procs")
		if unix.Access(full, unix.W_OK) != nil || unix.Access(procs, unix.W_OK) != nil {
			break
		}
		if pids, err := fields(procs); err == nil && len(pids) == 0 {
			return dir, nil
		}
	}
	return "", ErrNotDelegated
}

func fsMagic(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Type), nil
}

func fields(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	return strings.Fields(string(text)), err
}
