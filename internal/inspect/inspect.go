// Package inspect reads back from the kernel what is in force for a running sandbox, and sets it beside what was asked
// for.
//
// Its place on the road: the arrow back. The spec says what was asked; everything else here comes from /proc, the cgroup
// files and the filter in the kernel. Only Landlock has no place to be read from: there the launch program's own proof,
// made before the start, counts.
package inspect

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brig/internal/annotation"
	"brig/internal/caps"
	"brig/internal/cgroup"
	"brig/internal/mac"
	"brig/internal/plan"
	"brig/internal/sandbox"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Layer is one layer: what was asked for, what the kernel says, and whether that is as strong.
type Layer struct {
	Layer     string `json:"layer"`
	Asked     string `json:"asked"`
	Effective string `json:"effective"`
	OK        bool   `json:"ok"`
}

// Report is what `brig inspect` shows.
type Report struct {
	State  *sandbox.State `json:"state"`
	Layers []Layer        `json:"layers,omitempty"` // of a running sandbox
	// Guest is what gVisor's kernel, which Layers is about then, keeps for the program. It is not read back: the host's kernel cannot tell.
	Guest  []Line         `json:"guest,omitempty"`
	Mounts []Mount        `json:"mounts,omitempty"`
	Limits *cgroup.Limits `json:"limits,omitempty"`
	Calls  *Calls         `json:"syscalls,omitempty"`
	Spec   *specs.Spec    `json:"spec,omitempty"`
}

// Mount is one mount that the sandbox sees.
type Mount struct {
	Target   string `json:"target"`
	Type     string `json:"type"`
	Writable bool   `json:"writable"`
	Options  string `json:"options"`
}

// Options are what costs more than reading files.
type Options struct {
	// Calls reads the filter back from the kernel, which stops the process for an instant (ptrace).
	Calls bool
	// Spec adds the spec.
	Spec bool
}

// Read inspects a sandbox. Of one that does not run there is the state alone.
func Read(b *sandbox.Sandbox, o Options) (*Report, error) {
	state, err := b.State()
	if err != nil {
		return nil, err
	}
	spec, err := b.Spec()
	if err != nil {
		return nil, err
	}
	r := &Report{State: state}
	if o.Spec {
		r.Spec = spec
	}
	if state.Status != sandbox.Running && state.Status != sandbox.Paused {
		return r, nil
	}
	if r.Limits, err = b.Limits(); err != nil && !errors.Is(err, cgroup.ErrNotDelegated) {
		return nil, err
	}
	host, guest := onGVisor(spec)
	r.Guest = guest
	if err := r.read(host, o); err != nil {
		if now, serr := b.State(); serr == nil && now.Status == sandbox.Stopped {
			return &Report{State: now, Spec: r.Spec}, nil // it ended meanwhile
		}
		return nil, fmt.Errorf("read the state of process %d: %w", state.PID, err)
	}
	return r, nil
}

// process is what /proc says of one process.
type process struct {
	dir    string
	status map[string]string
}

func (r *Report) read(spec *specs.Spec, o Options) error {
	p := &process{dir: fmt.Sprintf("/proc/%d", workload(r.State.PID, spec))}
	if err := p.readStatus(); err != nil {
		return err
	}
	asked := map[string]string{}
	for _, l := range Asked(spec) {
		asked[l.Layer] = l.Text
	}
	if o.Calls {
		var err error
		if r.Calls, err = readCalls(p.pid(), spec); err != nil {
			return err
		}
	}
	for _, read := range []func(*process, *specs.Spec) (Layer, error){
		namespaces, ids, capabilities, noNewPrivs, r.seccomp, r.landlock, r.accessControl, r.mounts, masks, r.limits,
	} {
		l, err := read(p, spec)
		if err != nil {
			return err
		}
		if l.Layer == "" {
			continue
		}
		if l.Asked == "" {
			l.Asked = asked[l.Layer]
		}
		r.Layers = append(r.Layers, l)
	}
	return nil
}

// workload is the process that counts: below Brig's own init it is the init's child.
func workload(pid int, spec *specs.Spec) int {
	if spec.Annotations[annotation.Init] != "true" {
		return pid
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	var child int
	if err == nil {
		if _, err = fmt.Sscan(string(data), &child); err == nil {
			return child
		}
	}
	return pid
}

func (p *process) pid() (pid int) {
	_, _ = fmt.Sscanf(p.dir, "/proc/%d", &pid)
	return pid
}

func (p *process) readStatus() error {
	data, err := os.ReadFile(p.dir + "/status")
	if err != nil {
		return err
	}
	p.status = map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ":")
		p.status[key] = strings.TrimSpace(value)
	}
	return nil
}

// nsFiles are the names under /proc/PID/ns.
var nsFiles = map[specs.LinuxNamespaceType]string{
	specs.UserNamespace: "user", specs.PIDNamespace: "pid", specs.MountNamespace: "mnt", specs.NetworkNamespace: "net",
	specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts", specs.CgroupNamespace: "cgroup", specs.TimeNamespace: "time",
}

func namespaces(p *process, spec *specs.Spec) (Layer, error) {
	l := Layer{Layer: "namespaces", OK: true}
	var own, shared []string
	for _, n := range spec.Linux.Namespaces {
		file := nsFiles[n.Type]
		inside, err := os.Readlink(p.dir + "/ns/" + file)
		if err != nil {
			return l, err
		}
		outside, err := os.Readlink("/proc/self/ns/" + file)
		if err != nil {
			return l, err
		}
		if n.Path == "" && inside == outside {
			shared, l.OK = append(shared, string(n.Type)), false
		} else {
			own = append(own, string(n.Type))
		}
	}
	l.Effective = strings.Join(own, " ")
	if shared != nil {
		l.Effective += "; shared with the host: " + strings.Join(shared, " ")
	}
	return l, nil
}

func ids(p *process, spec *specs.Spec) (Layer, error) {
	l := Layer{Layer: "ids"}
	data, err := os.ReadFile(p.dir + "/uid_map")
	if err != nil {
		return l, err
	}
	var ranges []string
	for line := range strings.Lines(string(data)) {
		var inside, outside, size uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
			return l, fmt.Errorf("uid_map %q: %w", line, err)
		}
		if inside == 0 && outside == 0 && size == 1<<32-1 {
			_, asked := plan.Namespace(spec, specs.UserNamespace)
			l.Effective, l.OK = "the host's", !asked
			return l, nil
		}
		text := fmt.Sprintf("%d is %d outside", inside, outside)
		if size > 1 {
			text = fmt.Sprintf("%d–%d is %d–%d outside", inside, inside+size-1, outside, outside+size-1)
		}
		ranges = append(ranges, text)
	}
	l.Effective, l.OK = strings.Join(ranges, ", "), true
	return l, nil
}

func capabilities(p *process, spec *specs.Spec) (Layer, error) {
	l := Layer{Layer: "capabilities", OK: true}
	var parts []string
	a := spec.Process.Capabilities
	if a == nil {
		a = &specs.LinuxCapabilities{}
	}
	for _, set := range []struct {
		key, name string
		asked     []string
	}{
		{"CapBnd", "bounding", a.Bounding}, {"CapPrm", "permitted", a.Permitted}, {"CapEff", "effective", a.Effective},
		{"CapInh", "inheritable", a.Inheritable}, {"CapAmb", "ambient", a.Ambient},
	} {
		have, err := caps.ParseMask(p.status[set.key])
		if err != nil {
			return l, err
		}
		asked, err := caps.ParseSet(set.asked)
		if err != nil {
			return l, err
		}
		if have&^asked != 0 {
			l.OK = false
		}
		if have != 0 {
			parts = append(parts, set.name+": "+have.String())
		}
	}
	l.Effective = none(strings.Join(parts, "; "), "none, in all five sets")
	return l, nil
}

func noNewPrivs(p *process, spec *specs.Spec) (Layer, error) {
	on := p.status["NoNewPrivs"] == "1"
	return Layer{Layer: "no new privileges", Effective: fmt.Sprint(on), OK: on || !spec.Process.NoNewPrivileges}, nil
}

func (r *Report) seccomp(p *process, spec *specs.Spec) (Layer, error) {
	l := Layer{Layer: "seccomp", OK: spec.Linux.Seccomp == nil, Effective: "off"}
	if p.status["Seccomp"] == "2" {
		l.OK = true
		l.Effective = "filter mode, filters: " + none(p.status["Seccomp_filters"], "1")
	}
	if r.Calls != nil {
		l.Effective += ", " + r.Calls.String()
		l.OK = l.OK && (r.Calls.Same || r.Calls.Reason != "" || spec.Linux.Seccomp == nil)
	}
	return l, nil
}

func (r *Report) landlock(p *process, spec *specs.Spec) (Layer, error) {
	l := Layer{Layer: "landlock", Effective: "off", OK: landlockMode(spec.Annotations) == ""}
	if abi := r.State.Landlock.ABI; abi > 0 {
		l.Effective, l.OK = fmt.Sprintf("ABI %d", abi), true
		if r.State.Landlock.Proved {
			l.Effective += ", proved by a refused call before the start"
		}
		if r.State.Landlock.NoUnixSockets {
			l.Effective += "; it has no scopes, so a filter refuses Unix sockets in the host's network"
			l.OK = p.status["Seccomp"] == "2"
		}
	}
	return r.accepted(l), nil
}

// accepted notes a layer that the policy allowed to be missing.
func (r *Report) accepted(l Layer) Layer {
	for _, m := range r.State.Missing {
		if m.Layer == l.Layer {
			l.OK, l.Effective = true, "missing, as --allow-missing accepts: "+m.Reason
		}
	}
	return l
}

// accessControl: a profile counts when it is the very one that was asked for, and in force: one in complain mode stops
// nothing.
func (r *Report) accessControl(p *process, spec *specs.Spec) (Layer, error) {
	profile, label := spec.Process.ApparmorProfile, spec.Process.SelinuxLabel
	l := Layer{Layer: "access control", Asked: none(profile+label, "nothing"), Effective: "none"}
	data, err := os.ReadFile(p.dir + "/attr/current")
	have := strings.TrimRight(string(data), "\n\x00")
	if err == nil && have != "" {
		l.Effective = have
	} else if profile+label == "" {
		return Layer{}, nil // the host has none, and none was asked for
	}
	switch {
	case profile+label == "":
		l.OK = true
	case label != "":
		l.OK = have == label
	default:
		c := mac.ParseCurrent(mac.AppArmor, have)
		l.OK = c.Name == profile && (c.Mode == "enforce" || c.Mode == "kill" || profile == mac.Unconfined)
	}
	for _, m := range r.State.Missing {
		auto := spec.Annotations[annotation.AppArmor] == "auto" && label == ""
		own := spec.Annotations[annotation.SELinux] != "" && profile == ""
		if m.Layer == string(mac.AppArmor) && (profile != "" || auto) || m.Layer == string(mac.SELinux) && (label != "" || own) {
			l.OK, l.Effective = true, "missing, as --allow-missing accepts: "+m.Reason
		}
	}
	return l, nil
}

func (r *Report) mounts(p *process, spec *specs.Spec) (Layer, error) {
	l := Layer{Layer: "root file system"}
	list, err := p.mountinfo()
	if err != nil {
		return l, err
	}
	asked := append(writable(spec), "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/proc", "/dev/console")
	rootReadOnly, rootType, surprises := false, "", []string(nil)
	for _, m := range list {
		ro := readOnly(m)
		r.Mounts = append(r.Mounts, Mount{m.Mountpoint, m.FSType, !ro, m.Options})
		if m.Mountpoint == "/" {
			rootReadOnly, rootType = ro, m.FSType
		} else if !ro && !below(m.Mountpoint, asked) {
			surprises = append(surprises, m.Mountpoint)
		}
	}
	l.Effective = "writable"
	if rootReadOnly {
		l.Effective = "read-only"
	}
	l.OK = rootReadOnly || !spec.Root.Readonly
	if spec.Annotations[annotation.RootWritable] != "" {
		l.Effective += ", " + rootType
		l.OK = l.OK && rootType == "overlay" // otherwise the folder itself is written to
	}
	if surprises != nil && spec.Root.Readonly {
		l.OK = false
		l.Effective += "; writable beyond what was asked: " + strings.Join(surprises, " ")
	}
	l.Effective += fmt.Sprintf(", %d mounts", len(list))
	return l, nil
}

// asTight tells whether every limit in force is at most what was asked for.
func (r *Report) asTight(asked *specs.LinuxResources) bool {
	within := func(in *uint64, limit *int64) bool {
		return limit == nil || *limit <= 0 || in != nil && *in <= uint64(*limit) //nolint:gosec // is positive
	}
	ok := true
	if m := asked.Memory; m != nil {
		ok = within(r.Limits.MemoryBytes, m.Limit)
		if m.Limit != nil && m.Swap != nil && *m.Swap >= *m.Limit && *m.Limit > 0 && r.Limits.SwapCounted {
			swap := *m.Swap - *m.Limit                                                  // the spec's is of both together
			ok = ok && r.Limits.SwapBytes != nil && *r.Limits.SwapBytes <= uint64(swap) //nolint:gosec // is not negative
		}
	}
	if asked.Pids != nil {
		ok = ok && within(r.Limits.Pids, asked.Pids.Limit)
	}
	if c := asked.CPU; c != nil && c.Quota != nil && *c.Quota > 0 && c.Period != nil && *c.Period > 0 {
		ok = ok && r.Limits.CPUs != nil && *r.Limits.CPUs <= float64(*c.Quota)/float64(*c.Period)
	}
	return ok
}

func hasOption(options, word string) bool { return slices.Contains(strings.Split(options, ","), word) }

// below says whether a path is one of the list or inside one.
func below(path string, list []string) bool {
	return slices.ContainsFunc(list, func(root string) bool {
		rel, err := filepath.Rel(root, path)
		return err == nil && filepath.IsLocal(rel)
	})
}

func (r *Report) limits(_ *process, spec *specs.Spec) (Layer, error) {
	l := Layer{Layer: "cgroup", OK: true, Effective: "none"}
	if r.Limits == nil {
		l.OK = describeLimits(spec.Linux.Resources) == "none"
		return r.accepted(l), nil
	}
	var parts []string
	asked := spec.Linux.Resources
	if m := r.Limits.MemoryBytes; m != nil {
		parts = append(parts, "memory "+Bytes(*m))
	}
	if s := r.Limits.SwapBytes; s != nil && *s == 0 {
		parts = append(parts, "no swap")
	} else if s != nil {
		parts = append(parts, "swap "+Bytes(*s))
	} else if !r.Limits.SwapCounted {
		parts = append(parts, "swap not counted by the kernel")
	}
	if n := r.Limits.Pids; n != nil {
		parts = append(parts, fmt.Sprintf("%d processes", *n))
	}
	if c := r.Limits.CPUs; c != nil {
		parts = append(parts, fmt.Sprintf("%.2f cpus", *c))
	}
	if r.Limits.CPUSet != "" {
		parts = append(parts, "on cpus "+r.Limits.CPUSet)
	}
	if asked != nil {
		l.OK = r.asTight(asked)
	}
	l.Effective = none(strings.Join(parts, ", "), "none")
	return r.accepted(l), nil
}
