package plan

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// schedulerPolicies are the policies of sched(7). SCHED_ISO is a number that no kernel has ever had code for: it refuses it.
var schedulerPolicies = []struct {
	policy specs.LinuxSchedulerPolicy
	number uint32
}{
	{specs.SchedOther, 0}, {specs.SchedFIFO, 1}, {specs.SchedRR, 2}, {specs.SchedBatch, 3}, {specs.SchedISO, 4}, {specs.SchedIdle, 5}, {specs.SchedDeadline, 6},
}

// schedulerFlags are sched_setattr(2)'s. The utilization clamps come with two values that a spec has no field for: the flag
// alone would clamp to zero.
var schedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: unix.SCHED_FLAG_RESET_ON_FORK, specs.SchedFlagReclaim: unix.SCHED_FLAG_RECLAIM, specs.SchedFlagDLOverrun: unix.SCHED_FLAG_DL_OVERRUN,
	specs.SchedFlagKeepPolicy: unix.SCHED_FLAG_KEEP_POLICY, specs.SchedFlagKeepParams: unix.SCHED_FLAG_KEEP_PARAMS,
}

// scheduler sets the scheduling policy while the capabilities for it are there. The checks, and their words, are runc's.
func (b *builder) scheduler(pr *specs.Process) error {
	s := pr.Scheduler
	if s == nil {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return &UnsupportedError{"process.scheduler", fmt.Sprintf(format, args...)}
	}
	switch {
	case s.Policy == "":
		return refuse("scheduler policy is required")
	case s.Nice < -20 || s.Nice > 19:
		return refuse("invalid scheduler.nice: %d", s.Nice)
	case s.Priority != 0 && s.Policy != specs.SchedFIFO && s.Policy != specs.SchedRR:
		return refuse("scheduler.priority can only be specified for SchedFIFO or SchedRR policy")
	case s.Priority < 0:
		return refuse("invalid scheduler.priority: %d", s.Priority)
	case s.Policy != specs.SchedDeadline && s.Runtime|s.Deadline|s.Period != 0:
		return refuse("scheduler runtime/deadline/period can only be specified for SchedDeadline policy")
	}
	if err := deadline(s); err != nil {
		return err
	}
	attr := launch.SchedAttr{Nice: s.Nice, Priority: uint32(s.Priority), Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period} //nolint:gosec // checked above
	i := slices.IndexFunc(schedulerPolicies, func(p struct {
		policy specs.LinuxSchedulerPolicy
		number uint32
	}) bool {
		return p.policy == s.Policy
	})
	if i < 0 {
		return refuse("invalid scheduler policy: %s", s.Policy)
	}
	attr.Policy = schedulerPolicies[i].number
	for _, f := range s.Flags {
		bit, ok := schedulerFlags[f]
		if !ok {
			return refuse("invalid scheduler flag: %s", f)
		}
		attr.Flags |= bit
	}
	why := fmt.Sprintf("run under the scheduling policy %s", s.Policy)
	if r := b.linux.Resources; s.Policy == specs.SchedDeadline && r != nil && r.CPU != nil && r.CPU.Cpus != "" {
		// The kernel wants a task with a deadline on every CPU (sched_setattr(2), EPERM). The rest is runc's words.
		why += ": process scheduler can't be used together with AllowedCPUs"
	}
	b.p.Step(launch.Limits, why)
	b.p.SchedSetattr(attr, string(s.Policy))
	return nil
}

// Bounds of the kernel's for the times of a deadline (__checkparam_dl in kernel/sched/deadline.c): its clock counts units of 1024
// nanoseconds, and the highest bit is a sign.
const (
	leastRuntime = 1 << 10
	mostRuntime  = 1<<63 - 1
)

// deadline checks what SCHED_DEADLINE needs, of which the kernel says EINVAL only. The words are crun's.
func deadline(s *specs.Scheduler) error {
	if s.Policy != specs.SchedDeadline {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return &UnsupportedError{"process.scheduler", "sched_setattr: `SCHED_DEADLINE` " + fmt.Sprintf(format, args...)}
	}
	switch {
	case s.Runtime == 0:
		return refuse("requires `runtime`, and sched_setattr: `SCHED_DEADLINE` runtime must be greater than 0")
	case s.Deadline == 0:
		return refuse("requires `deadline`")
	case s.Runtime < leastRuntime || s.Runtime > mostRuntime:
		return refuse("runtime %d must be between %d and %d nanoseconds", s.Runtime, leastRuntime, uint64(mostRuntime))
	case s.Runtime > s.Deadline:
		return refuse("runtime %d must be <= deadline %d", s.Runtime, s.Deadline)
	case s.Period != 0 && s.Deadline > s.Period:
		return refuse("deadline %d must be <= period %d", s.Deadline, s.Period)
	}
	return nil
}

// ioClasses are the classes of ioprio_set(2).
var ioClasses = map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}

// ioPriority is set for the process group, which the new session has made the sandbox's own.
func (b *builder) ioPriority(pr *specs.Process) error {
	io := pr.IOPriority
	if io == nil {
		return nil
	}
	class, ok := ioClasses[io.Class]
	if !ok {
		return &UnsupportedError{"process.ioPriority", fmt.Sprintf("invalid ioPriority.Class: %s", io.Class)}
	}
	if io.Priority < 0 || io.Priority > 7 {
		return &UnsupportedError{"process.ioPriority", fmt.Sprintf("invalid ioPriority.Priority: %d", io.Priority)}
	}
	b.p.Step(launch.Limits, fmt.Sprintf("set the I/O priority %s:%d", io.Class, io.Priority))
	b.p.IoprioSet(class, io.Priority, string(io.Class))
	return nil
}

// maxCPUs is the size of the kernel's CPU masks here, as the C library's cpu_set_t.
const maxCPUs = 1024

// anyCPU takes back what the caller's own affinity is, which the child has inherited: an engine's is no business of the
// container's, and the cpuset of its cgroup says where it may run (runc does the same). A person's stays.
func (b *builder) anyCPU() error {
	if b.facts.Supervised {
		return nil
	}
	b.p.Step(launch.Limits, "run on every CPU of the cgroup, whatever the caller's affinity")
	b.p.SchedSetaffinity(slices.Repeat([]uint64{^uint64(0)}, allCPUs/64), "all")
	return nil
}

// allCPUs is what the kernel's largest configuration has (CONFIG_NR_CPUS with MAXSMP).
const allCPUs = 8192

// execAffinity obeys process.execCPUAffinity, which is about further processes only (runtime-spec config.md): the initial CPUs
// are the parent's while it clones, which the child inherits until it enters its cgroup, and the final ones are set after.
func (b *builder) execAffinity() error {
	pr := b.spec.Process
	if pr == nil || pr.ExecCPUAffinity == nil || *pr.ExecCPUAffinity == (specs.CPUAffinity{}) {
		return b.anyCPU()
	}
	const field = "process.execCPUAffinity"
	initial, err := parseList(field, "CPU", pr.ExecCPUAffinity.Initial, maxCPUs)
	if err != nil {
		return err
	}
	b.plan.InitialCPUs = initial
	final, err := parseList(field, "CPU", pr.ExecCPUAffinity.Final, maxCPUs)
	if err != nil || len(final) == 0 {
		return err
	}
	b.p.Step(launch.Limits, "run on the CPUs "+pr.ExecCPUAffinity.Final)
	b.p.SchedSetaffinity(final, pr.ExecCPUAffinity.Final)
	return nil
}

// parseList reads a list of numbers and ranges below limit ("0-3,7") into a mask of 64-bit words. An empty list is nil.
func parseList(field, what, list string, limit int) ([]uint64, error) {
	if list == "" {
		return nil, nil
	}
	refuse := func(part string) error {
		return &UnsupportedError{field, fmt.Sprintf("invalid %s list %q: %q is no number below %d and no range of such", what, list, part, limit)}
	}
	mask := make([]uint64, limit/64)
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || from > to || to >= uint64(limit) { //nolint:gosec // small and positive
			return nil, refuse(part)
		}
		for n := from; n <= to; n++ {
			mask[n/64] |= 1 << (n % 64)
		}
	}
	return mask, nil
}

// maxNodes is more than CONFIG_NODES_SHIFT allows anywhere (10).
const maxNodes = 1024

// Modes and flags of linux/mempolicy.h.
var (
	memoryModes = map[specs.MemoryPolicyModeType]int{
		specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4, specs.MpolPreferredMany: 5,
		specs.MpolWeightedInterleave: 6,
	}
	memoryFlags = map[specs.MemoryPolicyFlagType]int{specs.MpolFNumaBalancing: 1 << 13, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFStaticNodes: 1 << 15}
)

// memoryPolicy sets the NUMA policy. What of mode, nodes and flags goes together is the kernel's to say.
func (b *builder) memoryPolicy(*specs.Process) error {
	m := b.linux.MemoryPolicy
	if m == nil {
		return nil
	}
	const field = "linux.memoryPolicy"
	mode, ok := memoryModes[m.Mode]
	if !ok {
		return &UnsupportedError{field, fmt.Sprintf("invalid memory policy mode %q", m.Mode)}
	}
	text := string(m.Mode)
	for _, f := range m.Flags {
		bit, ok := memoryFlags[f]
		if !ok {
			return &UnsupportedError{field, fmt.Sprintf("invalid memory policy flag %q", f)}
		}
		mode |= bit
		text += "|" + string(f)
	}
	nodes, err := parseList(field, "memory policy node", m.Nodes, maxNodes)
	if err != nil {
		return err
	}
	if n := count(nodes); n > 0 && (m.Mode == specs.MpolDefault || m.Mode == specs.MpolLocal) {
		return &UnsupportedError{field, fmt.Sprintf("memory policy mode requires 0 nodes but got %d", n)} // runc's words
	}
	b.p.Step(launch.Limits, strings.TrimSpace("take memory by the policy "+text+" "+m.Nodes))
	b.p.SetMempolicy(mode, nodes, text)
	return nil
}

func count(mask []uint64) (n int) {
	for _, word := range mask {
		n += bits.OnesCount64(word)
	}
	return n
}

// MemoryPolicies lists the modes and flags that a plan knows, sorted, for an engine's question after them.
func MemoryPolicies() (modes, flags []string) {
	for m := range memoryModes {
		modes = append(modes, string(m))
	}
	for f := range memoryFlags {
		flags = append(flags, string(f))
	}
	slices.Sort(modes)
	slices.Sort(flags)
	return modes, flags
}
