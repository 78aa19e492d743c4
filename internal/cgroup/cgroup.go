package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brig/internal/fault"
	"brig/internal/host"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options say where a group goes and what to do when a limit cannot be set.
type Options struct {
	// ID names the sandbox; it must be one path element.
	ID string
	// Path is the spec's linux.cgroupsPath. Absolute: below each hierarchy's root. Relative: below the
	// caller's own group. Empty: /brig/ID for root, and below the delegated group for others.
	//
	// With Systemd it is "slice:prefix:name"; empty means ":brig:ID".
	Path string
	// Systemd has systemd make the group, as a transient scope.
	Systemd bool
	// All makes a group in every hierarchy of version 1, and turns on every controller of version 2, limited or not, as engines
	// have it from runc: they read what is used there, and set limits later. Without it the group is only where a limit is.
	All bool
	// AllowMissing makes limits that this machine cannot enforce be left out; Cgroup.Missing lists them.
	AllowMissing bool
	// Tree is the machine's; nil asks package host.
	Tree *host.CgroupTree
}

// Cgroup is a sandbox's control group: one folder in version 2, or one for each hierarchy used in version 1.
// It is safe to copy into a state file by Paths and to find again by Open.
type Cgroup struct {
	unified string            // folder in version 2, or empty
	legacy  map[string]string // version 1 controller to folder
	missing []error

	pending *pending // between Locate and Make

	unit        *unit // when systemd made it
	placeholder int   // pid of a stopped child that keeps a systemd scope alive until Settled
}

// Create makes the group and sets its limits before anything runs in it. What was made is removed again on an error.
func Create(r *specs.LinuxResources, o Options) (*Cgroup, error) {
	c, err := Locate(r, o)
	if err != nil {
		return nil, err
	}
	if err := c.Free(); err != nil {
		return nil, err
	}
	if err := c.Make(); err != nil {
		return nil, err
	}
	return c, nil
}

// compile gives the writes for the machine's version.
func compile(tree *host.CgroupTree, r *specs.LinuxResources) ([]setting, error) {
	if tree.V2() {
		return settingsV2(r)
	}
	list, err := settingsV1(r)
	if err != nil || r == nil {
		return list, err
	}
	s := settings{list: list}
	s.devices(r.Devices)
	return s.list, s.err
}

// available drops or refuses what the machine has no controller for.
func (c *Cgroup) available(tree *host.CgroupTree, list []setting, allow bool) ([]setting, error) {
	kept := list[:0]
	for _, s := range list {
		if tree.Available(s.controller) {
			kept = append(kept, s)
			continue
		}
		err := &MissingError{Limit: s.limit, Controller: s.controller, Remedy: remedy(s.controller)}
		if !allow {
			return nil, err
		}
		c.missing = append(c.missing, err)
	}
	return kept, nil
}

func remedy(controller string) string {
	return "build or boot the kernel with it, leave the limit out, or accept less with --allow-missing=cgroup." + controller
}

// baseControllers get a group whether limited or not: they count what a supervisor wants to know.
var baseControllers = []string{"memory", "pids"}

// place decides the folders.
func (c *Cgroup) place(tree *host.CgroupTree, list []setting, o Options) error {
	inner, err := innerPath(tree, o)
	if err != nil {
		return err
	}
	if tree.V2() {
		c.unified, err = joinV2(tree.Unified, inner)
		return err
	}
	if tree.Unified != "" {
		if c.unified, err = join(tree.Unified, "", inner); err != nil {
			return err
		}
	}
	want := slices.Clone(baseControllers)
	if tree.Unified == "" {
		want = append(want, "freezer", "cpuacct")
	}
	for _, s := range list {
		want = append(want, s.controller)
	}
	if o.All {
		want = sortedKeys(tree.Legacy)
	}
	for _, controller := range want {
		mount, ok := tree.Legacy[controller]
		if !ok || c.legacy[controller] != "" {
			continue
		}
		if c.legacy[controller], err = join(mount, controller, inner); err != nil {
			return err
		}
	}
	return nil
}

// usersGroup is between what was delegated to a user and the groups of the user's sandboxes. It holds the controllers on: whoever
// delegated the group above, as the user's systemd does, may turn one off there that no unit of its own needs, and with it went
// the limits of groups right below. A group whose children have the controller makes the kernel refuse that (EBUSY).
const usersGroup = "brig"

// innerPath is the path below the mount points; relative when it is to be below the caller's own group.
func innerPath(tree *host.CgroupTree, o Options) (string, error) {
	if o.Path != "" {
		if filepath.IsAbs(o.Path) {
			return filepath.Clean(o.Path), nil
		}
		// A relative path may not climb: it is cleaned as if it were absolute (runc's CleanPath).
		return strings.TrimPrefix(filepath.Clean("/"+o.Path), "/"), nil
	}
	if o.ID == "" || o.ID == "." || o.ID == ".." || strings.ContainsAny(o.ID, "/\x00\n") {
		return "", fmt.Errorf("make a cgroup for sandbox %q: the id must be one path element", o.ID)
	}
	if os.Geteuid() == 0 {
		return "/brig/" + o.ID, nil
	}
	base, err := tree.Delegated()
	if err != nil {
		return "", err
	}
	return filepath.Join(base, usersGroup, o.ID), nil
}

func join(mount, controller, inner string) (string, error) {
	if filepath.IsAbs(inner) {
		if inner == "/" {
			return "", errors.New("make a cgroup at /: that is the machine's own group; name one below it")
		}
		return filepath.Join(mount, inner), nil
	}
	groups, err := host.OwnCgroups()
	if err != nil {
		return "", err
	}
	if inner == "" {
		return "", errors.New("make a cgroup: the path names the caller's own group; name one below it")
	}
	return filepath.Join(mount, groups[controller], inner), nil
}

// joinV2 takes a relative path to be beside the caller's own group, as runc does: the caller is in that one, and a group of
// version 2 with processes gives no controllers to groups below it.
func joinV2(mount, inner string) (string, error) {
	if filepath.IsAbs(inner) || inner == "" {
		return join(mount, "", inner)
	}
	groups, err := host.OwnCgroups()
	if err != nil {
		return "", err
	}
	return filepath.Join(mount, filepath.Dir(filepath.Clean("/"+groups[""])), inner), nil
}

// make makes the folders and writes the limits.
func (c *Cgroup) make(tree *host.CgroupTree, list []setting, r *specs.LinuxResources, o Options) error {
	if c.unified != "" {
		if err := makeUnified(tree, c.unified, list, o.All); err != nil {
			return err
		}
	}
	for _, controller := range sortedKeys(c.legacy) {
		if err := makeDir(c.legacy[controller]); err != nil {
			return err
		}
		fault.Point("cgroup folder made")
	}
	if dir, ok := c.legacy["cpuset"]; ok {
		if err := inheritCpuset(tree.Legacy["cpuset"], dir); err != nil {
			return err
		}
	}
	if err := c.apply(list, o.AllowMissing); err != nil {
		return err
	}
	if !tree.V2() {
		return nil
	}
	if err := c.oomGroup(list); err != nil {
		return err
	}
	if r == nil || os.Geteuid() != 0 {
		return nil // an unprivileged user's sandbox can neither make device nodes nor mount any that work
	}
	return c.allowed(filterDevices(c.unified, r.Devices), o.AllowMissing)
}

// oomGroup has the kernel end the whole sandbox when it is out of memory, unless the spec says otherwise. Without the memory
// controller nothing limits memory either.
func (c *Cgroup) oomGroup(list []setting) error {
	if names(list, "memory.oom.group") {
		return nil
	}
	if err := writeFile(c.unified, "memory.oom.group", "1"); err != nil && !missingDir(err) { // Linux 4.19
		return err
	}
	return nil
}

// allowed keeps a *MissingError for Missing when less may be had, and gives any other error back.
func (c *Cgroup) allowed(err error, allow bool) error {
	var missing *MissingError
	if allow && errors.As(err, &missing) {
		c.missing = append(c.missing, err)
		return nil
	}
	return err
}

func names(list []setting, file string) bool {
	return slices.ContainsFunc(list, func(s setting) bool { return s.files[0] == file })
}

// makeDir makes a folder and its parents. An existing one is taken: engines make the group beforehand.
func makeDir(dir string) error {
	err := unix.Mkdir(dir, 0o755)
	// More than once: the last sandbox beside this one takes the empty parent with it.
	for range 100 {
		if !errors.Is(err, unix.ENOENT) {
			break
		}
		if err = makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
		err = unix.Mkdir(dir, 0o755)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make cgroup %s: %w%s", dir, err, hint(err))
	}
	return nil
}

func hint(err error) string {
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		return ": run as root, or in a delegated subtree"
	case errors.Is(err, unix.ENOSPC):
		return ": the cpuset parent has no cpus, or too many cgroups exist"
	case errors.Is(err, unix.EAGAIN):
		return ": cgroup.max.descendants or max.depth of a parent is reached"
	}
	return ""
}

// makeUnified makes the version 2 folder, and on a pure version 2 machine hands the needed controllers down to it, or all.
func makeUnified(tree *host.CgroupTree, dir string, list []setting, all bool) error {
	if !tree.V2() {
		return makeDir(dir)
	}
	want := []string{}
	for _, c := range []string{"cpu", "memory", "pids", "io", "cpuset", "hugetlb", "rdma", "misc"} {
		base := all || c == "cpu" || c == "memory" || c == "pids" || c == "io"
		if slices.Contains(tree.Controllers, c) && (base || slices.ContainsFunc(list, func(s setting) bool { return s.controller == c })) {
			want = append(want, c)
		}
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	have, err := readFields(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	if containsAll(have, want) {
		return nil
	}
	rel := strings.TrimPrefix(filepath.Dir(dir), tree.Unified)
	at := tree.Unified
	for _, element := range append([]string{""}, strings.Split(strings.Trim(rel, "/"), "/")...) {
		at = filepath.Join(at, element)
		if err := handDown(at, want); err != nil {
			return err
		}
	}
	return nil
}

func containsAll(have, want []string) bool {
	for _, w := range want {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

// handDown turns controllers on for a group's children.
func handDown(dir string, want []string) error {
	have, err := readFields(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	for _, c := range want {
		if slices.Contains(have, c) {
			continue
		}
		err := writeFile(dir, "cgroup.subtree_control", "+"+c)
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("turn on controller %s below %s: it has processes of its own, which cgroup version 2 forbids: put them into a child group", c, dir)
		}
		// EACCES: whoever delegated a group below has turned it on there, or not. ENOENT: the group was not given it. A
		// limit that needs it is then refused by name when it is written.
		if err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("turn on controller %s below %s: %w", c, dir, err)
		}
	}
	return nil
}

// inheritCpuset copies cpus and mems down from the mount to dir, for each folder where they are empty.
func inheritCpuset(mount, dir string) error {
	if dir == mount {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := inheritCpuset(mount, parent); err != nil {
		return err
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(value)) != "" {
			continue
		}
		if value, err = os.ReadFile(filepath.Join(parent, file)); err != nil {
			return err
		}
		if err := writeFile(dir, file, strings.TrimSpace(string(value))); err != nil {
			return err
		}
	}
	return nil
}

// dir is the folder that has a controller's files.
func (c *Cgroup) dir(controller string) string {
	if len(c.legacy) > 0 {
		return c.legacy[controller]
	}
	return c.unified
}

// apply writes settings. Successive writes to one file use one descriptor, which makes a list of device rules cheap.
func (c *Cgroup) apply(list []setting, allow bool) error {
	for i := 0; i < len(list); {
		s := list[i]
		n := 1
		for i+n < len(list) && list[i+n].controller == s.controller && slices.Equal(list[i+n].files, s.files) {
			n++
		}
		err := c.write(list[i : i+n])
		if errors.Is(err, unix.EINVAL) && shareFirst(list[i:]) {
			continue
		}
		if err := c.allowed(err, allow); err != nil {
			return err
		}
		i += n
	}
	if len(c.legacy) == 0 {
		return c.allowed(c.cpusetInForce(list), allow)
	}
	return nil
}

// shareFirst has the share of a period set before the period: a shorter period around the old share can be more than a
// parent allows, or than there is. What is saved up for a burst may never be more than the share.
func shareFirst(list []setting) bool {
	share := map[string]string{"cpu.cfs_period_us": "cpu.cfs_quota_us", "cpu.rt_period_us": "cpu.rt_runtime_us",
		"cpu.max": "cpu.max.burst"}[list[0].files[0]]
	i := slices.IndexFunc(list, func(s setting) bool { return s.files[0] == share })
	if i < 0 {
		return false
	}
	list[0], list[i] = list[i], list[0]
	return true
}

// write writes one or more values into the first of the names that exists.
// Preconditions: all settings are for the same file.
func (c *Cgroup) write(same []setting) error {
	s := same[0]
	dir := c.dir(s.controller)
	for i, file := range s.files {
		fd, err := unix.Open(filepath.Join(dir, file), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue
		}
		if err == nil && !weighs(file) {
			unix.Close(fd)
			continue
		}
		if err != nil {
			return fmt.Errorf("set limit %s: open %s: %w%s", s.limit, filepath.Join(dir, file), err, hint(err))
		}
		defer unix.Close(fd)
		for _, each := range same {
			if err := write(fd, each.valueFor(i)); err != nil {
				each.value = each.valueFor(i)
				return c.explain(each, dir, file, err)
			}
		}
		return nil
	}
	if s.optional {
		return nil
	}
	if strings.HasSuffix(s.limit, "memory.swap") && !host.SwapOn() {
		return nil // nothing to limit: the kernel does not count swap and there is none
	}
	return &MissingError{Limit: s.limit, Controller: s.controller, File: strings.Join(s.files, " or "), Remedy: fileRemedy(s)}
}

func fileRemedy(s setting) string {
	switch {
	case strings.HasSuffix(s.limit, "memory.swap"):
		return "boot with swapaccount=1 or turn swap off, or accept less with --allow-missing=cgroup.memory"
	case os.Geteuid() != 0:
		return "have the controller delegated to you (systemd: Delegate=" + s.controller + "), run as root, or accept less with --allow-missing=cgroup." + s.controller
	case strings.Contains(s.limit, "blockIO.weight"), strings.Contains(s.limit, "blockIO.leafWeight"):
		return "the disk's scheduler must be bfq (or the kernel have io.cost), leave the weight out, or accept less with --allow-missing=cgroup." + s.controller
	}
	return remedy(s.controller)
}

// explain says why the kernel refused a value, where the errno alone misleads.
func (c *Cgroup) explain(s setting, dir, file string, err error) error {
	var why string
	switch {
	case errors.Is(err, unix.EBUSY) && s.controller == "memory":
		usage, _ := os.ReadFile(filepath.Join(dir, strings.NewReplacer("limit_in_bytes", "usage_in_bytes").Replace(file)))
		why = ": more is in use already (" + strings.TrimSpace(string(usage)) + " bytes)"
	case errors.Is(err, unix.EINVAL):
		why = ": the kernel does not take this value, or a parent group's limit is lower"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		why = ": no such device"
	default:
		why = hint(err)
	}
	return fmt.Errorf("set limit %s: write %q to %s: %w%s", s.limit, s.value, filepath.Join(dir, file), err, why)
}

// write sets a control file. A limit on memory has the kernel reclaim, which a signal interrupts: Go's runtime sends itself
// some.
func write(fd int, value string) error {
	for {
		if _, err := unix.Write(fd, []byte(value)); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func writeFile(dir, file, value string) error {
	path := filepath.Join(dir, file)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := write(fd, value); err != nil {
		return &os.PathError{Op: "write " + value + " to", Path: path, Err: err}
	}
	return nil
}

// Missing are the limits that were left out because of Options.AllowMissing, as *MissingError values.
func (c *Cgroup) Missing() []error { return c.missing }

// Paths are the group's folders for a state file: the key is a version 1 controller, or "" for version 2. A group made
// through systemd has one more entry, for Open to read.
func (c *Cgroup) Paths() map[string]string {
	paths := c.groups()
	if c.unit != nil {
		paths[unitKey] = c.unit.String()
	}
	return paths
}

func (c *Cgroup) groups() map[string]string {
	groups := make(map[string]string, len(c.legacy)+2)
	for k, v := range c.legacy {
		groups[k] = v
	}
	if c.unified != "" {
		groups[""] = c.unified
	}
	return groups
}

// Open finds a group again by what Paths gave. It makes no system call; a group that is gone shows when it is used.
func Open(paths map[string]string) *Cgroup {
	c := &Cgroup{legacy: make(map[string]string, len(paths))}
	for k, v := range paths {
		switch k {
		case "":
			c.unified = v
		case unitKey:
			c.unit = unitFromState(v)
		default:
			c.legacy[k] = v
		}
	}
	return c
}

// CheckPaths refuses what Paths never gave: a state file's folders are ended and removed.
func CheckPaths(paths map[string]string) error {
	for k, v := range paths {
		if k != unitKey && (!filepath.IsAbs(v) || filepath.Clean(v) != v || v == "/" || strings.IndexByte(v, 0) >= 0) {
			return fmt.Errorf("%q is no folder of a cgroup", v)
		}
	}
	return nil
}

// Attach opens what places a fresh process into the group. into (nil where version 2 is not mounted) is for
// clone3's CLONE_INTO_CGROUP. Into each of tasks the child itself must write "0", before it drops privileges or
// starts a thread. All files are close-on-exec and the caller's to close.
func (c *Cgroup) Attach() (into *os.File, tasks []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(append(tasks, into))
			into, tasks = nil, nil
		}
	}()
	if c.unified != "" {
		if into, err = openFile(c.unified, unix.O_PATH|unix.O_DIRECTORY); err != nil {
			return
		}
	}
	seen := map[string]bool{}
	for _, controller := range sortedKeys(c.legacy) {
		dir := c.legacy[controller]
		if seen[dir] {
			continue
		}
		seen[dir] = true
		f, ferr := openFile(filepath.Join(dir, "tasks"), unix.O_WRONLY)
		if err = ferr; err != nil {
			return
		}
		tasks = append(tasks, f)
	}
	return
}

// AttachByWriting is Attach for a kernel, or a filter around Brig, that lets no process be born in a group: cgroup.procs of
// version 2 is among the tasks. Writing to it waits for every other change of a group on the machine.
func (c *Cgroup) AttachByWriting() (into *os.File, tasks []*os.File, err error) {
	into, tasks, err = c.Attach()
	if err != nil || into == nil {
		return nil, tasks, err
	}
	defer into.Close() //nolint:errcheck // O_PATH
	f, err := openFile(filepath.Join(c.unified, "cgroup.procs"), unix.O_WRONLY)
	if err != nil {
		closeAll(tasks)
		return nil, nil, err
	}
	return nil, append(tasks, f), nil
}

func openFile(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("attach to cgroup: open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// Update changes limits of a group in use. Controllers that the group was not made with are refused.
func (c *Cgroup) Update(r *specs.LinuxResources) error {
	var list []setting
	var err error
	r = c.swapToo(r)
	if len(c.legacy) == 0 {
		r = c.completeV2(r)
		list, err = settingsV2(r)
	} else if list, err = settingsV1(r); err == nil {
		list = c.orderMemory(list)
	}
	if err != nil {
		return err
	}
	for _, s := range list {
		if c.dir(s.controller) == "" {
			return &MissingError{Limit: s.limit, Controller: s.controller, Remedy: "the sandbox was made without a limit of this kind; make it anew with one"}
		}
	}
	if err := c.checkUse(r); err != nil {
		return err
	}
	if c.unit != nil {
		if err := c.updateScope(r); err != nil {
			return err
		}
	}
	if err := c.apply(list, false); err != nil || r == nil || len(r.Devices) == 0 || c.unit != nil {
		return err
	}
	return c.updateDevices(r.Devices)
}

// swapToo lifts the limit on swap with that on memory, which it may not be below; runc does so, too.
func (c *Cgroup) swapToo(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil || r.Memory == nil || r.Memory.Limit == nil || *r.Memory.Limit != -1 || r.Memory.Swap != nil && *r.Memory.Swap != 0 {
		return r
	}
	file := "memory.swap.max"
	if len(c.legacy) > 0 {
		file = "memory.memsw.limit_in_bytes"
	}
	if _, err := os.Stat(filepath.Join(c.dir("memory"), file)); err != nil {
		return r // the kernel does not count swap
	}
	lifted, memory := *r, *r.Memory
	memory.Swap = memory.Limit
	lifted.Memory = &memory
	return &lifted
}

// checkUse obeys the spec's memory.checkBeforeUpdate: version 2 would set a limit below what is in use and then kill.
func (c *Cgroup) checkUse(r *specs.LinuxResources) error {
	if r == nil || r.Memory == nil || r.Memory.CheckBeforeUpdate == nil || !*r.Memory.CheckBeforeUpdate || r.Memory.Limit == nil || *r.Memory.Limit <= 0 {
		return nil
	}
	file := "memory.current"
	if len(c.legacy) > 0 {
		file = "memory.usage_in_bytes"
	}
	if use := readNumber(c.dir("memory"), file); use >= uint64(*r.Memory.Limit) {
		return &ValueError{Limit: prefix + "memory.limit", Value: text(*r.Memory.Limit), Why: text(use) + " bytes are in use, so the kernel would end the sandbox"}
	}
	return nil
}

// orderMemory puts the limit of memory and swap together before that of memory when both grow: version 1 never lets the first
// be below the second.
func (c *Cgroup) orderMemory(list []setting) []setting {
	mem := slices.IndexFunc(list, func(s setting) bool { return s.files[0] == "memory.limit_in_bytes" })
	swap := slices.IndexFunc(list, func(s setting) bool { return s.files[0] == "memory.memsw.limit_in_bytes" })
	if mem < 0 || swap < 0 {
		return list
	}
	now := readNumber(c.dir("memory"), "memory.memsw.limit_in_bytes")
	if want := parseNumber(list[mem].value); list[mem].value == "-1" || want > now {
		list[mem], list[swap] = list[swap], list[mem]
	}
	return list
}
