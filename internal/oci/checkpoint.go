package oci

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"brig/internal/annotation"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// criuOptions are those that both commands have, as runc has them.
type criuOptions struct {
	images, work, cgroups, empty, lsmProfile, lsmMount                       string
	tcp, tcpInFlight, linkRemap, unixSockets, shellJob, fileLocks, autoDedup bool
	lazy                                                                     bool
}

func (o *criuOptions) register(f *flag.FlagSet) {
	f.StringVar(&o.images, "image-path", "checkpoint", "folder of the images")
	f.StringVar(&o.work, "work-path", "", "folder of criu's log and working files; the images' without it")
	f.StringVar(&o.cgroups, "manage-cgroups-mode", "", "soft, full, strict or ignore: what criu does about the container's cgroup")
	f.StringVar(&o.empty, "empty-ns", "", "network: do not save that namespace's devices and rules, and restore an empty one")
	f.BoolVar(&o.tcp, "tcp-established", false, "also with open TCP connections")
	f.BoolVar(&o.tcpInFlight, "tcp-skip-in-flight", false, "pass over TCP connections that are being made")
	f.BoolVar(&o.linkRemap, "link-remap", false, "also with open files that have been removed, by linking them back")
	f.BoolVar(&o.unixSockets, "ext-unix-sk", false, "also with unix sockets that are connected to the outside")
	f.BoolVar(&o.shellJob, "shell-job", false, "also with a terminal of the outside")
	f.BoolVar(&o.fileLocks, "file-locks", false, "also with file locks")
	f.BoolVar(&o.autoDedup, "auto-dedup", false, "drop what a later image has from the earlier ones")
	f.BoolVar(&o.lazy, "lazy-pages", false, "refused")
}

// cgroupModes are those of rpc.proto, criu_cg_mode.
var cgroupModes = map[string]uint64{"": 6, "ignore": 0, "soft": 3, "full": 4, "strict": 5}

// check refuses what is not supported, by name.
func (o *criuOptions) check() error {
	_, known := cgroupModes[o.cgroups]
	switch {
	case o.lazy:
		return errors.New("--lazy-pages is not supported: memory is saved and restored at once")
	case !known:
		return fmt.Errorf("invalid manage-cgroups-mode value %q: there are soft, full, strict and ignore", o.cgroups)
	case o.empty != "" && o.empty != "network":
		return fmt.Errorf("--empty-ns %q: there is network", o.empty)
	}
	return nil
}

// encode begins the options of a request (rpc.proto, criu_opts). The folders stay open in this process, where criu opens them.
func (o *criuOptions) encode(spec *specs.Spec, images, work *os.File, log string) wire {
	var w wire
	w.number(1, uint64(images.Fd()))
	w.number(17, uint64(work.Fd()))
	w.flag(4, o.unixSockets)
	w.flag(5, o.tcp)
	w.flag(7, o.shellJob)
	w.flag(8, o.fileLocks)
	w.number(9, 4) // log all
	w.text(10, log)
	w.flag(16, o.autoDedup)
	w.flag(18, o.linkRemap)
	w.flag(24, true)
	w.number(34, cgroupModes[o.cgroups])
	if o.empty == "network" {
		w.number(38, unix.CLONE_NEWNET)
	}
	w.flag(46, o.tcpInFlight)
	w.flag(50, true) // a terminal of the container's own, whose master nobody in it has
	if _, none := spec.Annotations[criuConfig]; !none {
		w.text(51, "/etc/criu/runc.conf") // as runc has it; criu passes over a file that is not there
	}
	w.text(53, o.lsmProfile)
	w.text(63, o.lsmMount)
	return w
}

// open opens the folders of the images and of the log.
func (o *criuOptions) open(mkdir bool) (images, work *os.File, err error) {
	if o.work == "" {
		o.work = o.images
	}
	for _, dir := range []string{o.images, o.work} {
		if mkdir || dir != o.images {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return nil, nil, fmt.Errorf("make a folder for the checkpoint: %w", err)
			}
		}
	}
	if images, err = os.Open(o.images); err != nil {
		return nil, nil, fmt.Errorf("--image-path: %w", err)
	}
	if work, err = os.Open(o.work); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("--work-path: %w", err), images.Close())
	}
	return images, work, nil
}

// criuConfig is the annotation that gives runc another configuration file for criu, or none. Such a file can have criu run any
// program as root: an annotation is not what decides on one.
const criuConfig = "org.criu.config"

// checkpointable refuses what would be lost or weaker when it comes back.
func checkpointable(spec *specs.Spec, groups map[string]string) error {
	refuse := func(what, why string) error {
		return fmt.Errorf("a checkpoint of a container with %s is not supported: %s", what, why)
	}
	switch {
	case os.Geteuid() != 0:
		return errors.New("checkpointing a container requires root")
	case len(groups) == 0:
		return refuse("no cgroup", "its processes are known by it")
	case groups[""] == "" || len(groups) > 1:
		return refuse("cgroups of version 1 or of systemd", "only plain ones of version 2 have been proved to come back")
	case len(spec.Linux.UIDMappings) > 0:
		return refuse("linux.uidMappings", "criu does not know whose ids they are on another machine")
	case plan.HostMounts(spec):
		return refuse("linux.namespaces without mount", "its mounts are the host's")
	case spec.Linux.Seccomp != nil && spec.Linux.Seccomp.ListenerPath != "":
		return refuse("linux.seccomp.listenerPath", "criu does not give the filter its listener back")
	case spec.Linux.IntelRdt != nil:
		return refuse("linux.intelRdt", "criu does not put the processes back into their class")
	}
	if _, own := plan.Namespace(spec, specs.PIDNamespace); !own {
		return refuse("linux.namespaces without pid", "its process ids would have to be free when it comes back")
	}
	if _, user := plan.Namespace(spec, specs.UserNamespace); user {
		return refuse("a user namespace", "it has not been proved to come back")
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.TimeNamespace} {
		if p, _ := plan.Namespace(spec, kind); p != "" {
			return refuse(fmt.Sprintf("a joined %s namespace (linux.namespaces, %s)", kind, p), "it is not the container's alone")
		}
	}
	if v := spec.Annotations[criuConfig]; v != "" {
		return refuse("annotation "+criuConfig, "criu's configuration is in /etc/criu")
	}
	for _, key := range []string{annotation.Landlock, annotation.Root, annotation.RootIDMap, annotation.RootWritable} {
		if v := spec.Annotations[key]; v != "" && v != "off" && v != "false" {
			return refuse("annotation "+key, "criu does not know of it")
		}
	}
	return nil
}

// externalMounts are the container's bind mounts, by their places: what is mounted there is not saved.
func externalMounts(spec *specs.Spec) map[string]string {
	mounts := map[string]string{}
	for i := range spec.Mounts {
		if m := &spec.Mounts[i]; bindMount(m) {
			mounts[path.Clean(m.Destination)] = m.Source
		}
	}
	return mounts
}

// networkKey is the name of a joined network namespace in the images; runc's, so that its images are as good.
const networkKey = "extRootNetNS"

// descriptors is the file of the images' folder that has what the standard streams were: runc's.
const descriptors = "descriptors.json"

func (a *app) checkpoint(f *flag.FlagSet) func([]string) error {
	var o checkpointing
	o.register(f)
	f.BoolVar(&o.leave, "leave-running", false, "the container goes on")
	f.BoolVar(&o.pre, "pre-dump", false, "save the memory only, and go on: a first part of a later checkpoint")
	f.StringVar(&o.parent, "parent-path", "", "folder of the earlier images, relative to the new ones")
	f.StringVar(&o.server, "page-server", "", "refused")
	f.StringVar(&o.status, "status-fd", "", "refused")
	return func(args []string) error {
		return a.failure("runc checkpoint failed", a.checkpointContainer(args[0], &o))
	}
}

// checkpointing is what checkpoint takes.
type checkpointing struct {
	criuOptions
	leave, pre             bool
	parent, server, status string
}

func (a *app) checkpointContainer(id string, o *checkpointing) error {
	if o.server != "" || o.status != "" {
		return errors.New("--page-server and --status-fd are not supported: the images are files")
	}
	if err := o.check(); err != nil {
		return err
	}
	c, missing := a.open(id)
	if missing == nil && c.onGVisor() { // whether or not criu is here
		return errors.New("a checkpoint of a container with isolation gvisor is not supported: criu saves processes of the host's kernel; `brig checkpoint` is for what `brig run` has started")
	}
	criu, err := a.findCRIU("checkpoint")
	if err != nil {
		return err
	}
	if missing != nil {
		return missing
	}
	lock, err := c.lock(lockTimeout)
	if err != nil {
		return err
	}
	err = a.dump(id, criu, o)
	_ = lock.Close()
	if err != nil || o.leave || o.pre {
		return err
	}
	return a.destroy(id, true, c)
}

// dump saves a container that is locked.
func (a *app) dump(id, criu string, o *checkpointing) error {
	c, err := a.open(id) // it may have changed before the lock was ours
	if err != nil {
		return err
	}
	if s := c.status(); s != running && s != paused {
		return fmt.Errorf("container cannot be checkpointed in %s state", s)
	}
	spec, err := c.spec()
	if err != nil {
		return err
	}
	if err := checkpointable(spec, c.Cgroups); err != nil {
		return err
	}
	// What restore would refuse is refused before the container is gone: a mount whose place is behind a link, say.
	if err := c.checkMounts(spec); err != nil {
		return fmt.Errorf("the checkpoint could not be restored: %w", err)
	}
	images, work, err := o.open(true)
	if err != nil {
		return err
	}
	defer images.Close() //nolint:errcheck // read only
	defer work.Close()   //nolint:errcheck // read only
	call := &criuCall{program: criu, kind: criuDump, workDir: o.work, log: "dump.log"}
	call.options = o.encode(spec, images, work, call.log)
	if o.pre {
		call.kind = criuPreDump
	}
	if err := c.encodeDump(&call.options, spec, o); err != nil {
		return err
	}
	_, err = call.run()
	return err
}

// encodeDump adds what only a dump needs.
func (c *container) encodeDump(w *wire, spec *specs.Spec, o *checkpointing) error {
	w.number(2, uint64(c.PID)) //nolint:gosec // not negative
	w.flag(3, o.leave)
	w.text(13, c.Rootfs)
	w.text(44, c.Cgroups[""])
	if o.parent != "" {
		if filepath.IsAbs(o.parent) {
			return errors.New("--parent-path must be relative to --image-path")
		}
		if _, err := os.Stat(filepath.Join(o.images, o.parent)); err != nil {
			return fmt.Errorf("--parent-path: %w", err)
		}
		w.text(14, o.parent)
		w.flag(15, true)
	}
	if p, _ := plan.Namespace(spec, specs.NetworkNamespace); p != "" {
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", c.PID), &st); err != nil {
			return err
		}
		w.text(37, fmt.Sprintf("net[%d]:%s", st.Ino, networkKey))
	}
	for place := range externalMounts(spec) {
		w.text(37, fmt.Sprintf("mnt[%s]:%s", place, place))
	}
	streams, err := c.outerStreams()
	if err != nil {
		return err
	}
	for _, s := range streams {
		if strings.HasPrefix(s, "file[") {
			w.text(37, s)
		}
	}
	text, err := json.Marshal(streams)
	if err != nil || o.pre {
		return err
	}
	return os.WriteFile(filepath.Join(o.images, descriptors), text, 0o600)
}

// outerStreams names the standard streams of the container's first process as criu does: pipes by their links, and files that
// lie in no mount of the container's as "file[MOUNT:INODE]". Others are what they are inside.
func (c *container) outerStreams() ([]string, error) {
	proc := fmt.Sprintf("/proc/%d", c.PID)
	inside, err := mountIDs(proc + "/mountinfo")
	if err != nil {
		return nil, err
	}
	streams := make([]string, 3)
	for fd := range streams {
		name := fmt.Sprintf("%s/fd/%d", proc, fd)
		link, err := os.Readlink(name)
		if err != nil {
			continue // the program has closed it
		}
		streams[fd] = link
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil || !path.IsAbs(link) {
			continue
		}
		if id := mountOfFD(proc, fd); id > 0 && !slices.Contains(inside, id) {
			streams[fd] = fmt.Sprintf("file[%x:%x]", id, st.Ino)
		}
	}
	return streams, nil
}

// mountIDs reads the first field of each line of a mountinfo (proc_pid_mountinfo(5)).
func mountIDs(name string) ([]int, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var ids []int
	for line := range strings.Lines(string(text)) {
		first, _, _ := strings.Cut(line, " ")
		id, err := strconv.Atoi(first)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// mountOfFD is the mount that a file of a process lies in (proc_pid_fdinfo(5), mnt_id), 0 when it is not known.
func mountOfFD(proc string, fd int) int {
	text, _ := os.ReadFile(fmt.Sprintf("%s/fdinfo/%d", proc, fd))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			id, _ := strconv.Atoi(strings.TrimSpace(value))
			return id
		}
	}
	return 0
}
