package sandbox

import (
	"time"

	"brig/internal/idmap"
	"brig/internal/plan"
)

// Status is where a sandbox is in its life.
type Status string

// The statuses of a sandbox. Paused is not among those that are stored: it is read from the cgroup.
const (
	Running Status = "running"
	Paused  Status = "paused"
	Stopped Status = "stopped"
	// Ready is one that waits for its program, on a warm kernel.
	Ready Status = "ready"
)

// Cause is why a sandbox ended. Exit codes collide (a program may well exit with 124), so it is told beside them.
type Cause string

// The causes of an end.
const (
	Exited      Cause = "exit"         // the program ended by itself
	Signaled    Cause = "signal"       // a signal from outside or from itself
	OOM         Cause = "oom"          // out of the memory it was allowed
	Seccomp     Cause = "seccomp"      // a system call that the filter kills for
	TimedOut    Cause = "timeout"      // --timeout
	OutputLimit Cause = "output-limit" // --output-limit
	Processes   Cause = "pids-limit"   // gVisor's kernel got no thread of those allowed
	KernelEnd   Cause = "kernel"       // gVisor's kernel ended by itself, by a defect of its own
	Lost        Cause = "lost"         // its monitor was killed
	Saved       Cause = "checkpoint"   // brig checkpoint, which took its state
)

// Result is how a sandbox, or a process executed in one, ended.
type Result struct {
	ExitCode int    `json:"exitCode"`         // docker's: 128+n for signal n, 124 for the timeout
	Signal   int    `json:"signal,omitempty"` // the signal that ended it
	Cause    Cause  `json:"cause"`
	Message  string `json:"message,omitempty"` // one sentence when there is more to say than the code
	// Trace are the lines that gVisor's kernel said at an end of its own, for a report of that.
	Trace string `json:"trace,omitempty"`
}

// State is what is known of a sandbox; it is state.json in its folder. What the kernel can tell is asked from the kernel
// and not stored.
type State struct {
	Version   int               `json:"version"`
	ID        string            `json:"id"`
	Name      string            `json:"name,omitempty"`
	Status    Status            `json:"status"`
	Command   []string          `json:"command"`
	Labels    map[string]string `json:"labels,omitempty"`
	Created   time.Time         `json:"created"`
	Started   time.Time         `json:"started,omitzero"`
	Finished  time.Time         `json:"finished,omitzero"`
	PID       int               `json:"pid,omitempty"`       // of the first process, on the host
	StartTime uint64            `json:"startTime,omitempty"` // of that process, in clock ticks since boot: tells a reused pid
	Monitor   int               `json:"monitor"`             // the process that supervises
	Detached  bool              `json:"detached"`
	Terminal  bool              `json:"terminal,omitempty"`
	Remove    bool              `json:"remove,omitempty"` // --rm
	Isolation string            `json:"isolation"`
	Preset    string            `json:"preset,omitempty"`
	Image     *Image            `json:"image,omitempty"` // nil where the root is none
	IDs       *idmap.Range      `json:"ids,omitempty"`
	// Categories is a range of host ids that is taken and not used: SELinux's categories of a sandbox without ids of its own.
	Categories *idmap.Range      `json:"categories,omitempty"`
	Cgroups    map[string]string `json:"cgroups,omitempty"`
	StopAfter  time.Duration     `json:"stopTimeout,omitempty"`
	// StopSignal is what Stop sends first; 0 for SIGTERM.
	StopSignal int                 `json:"stopSignal,omitempty"`
	Landlock   Landlock            `json:"landlock"`
	Missing    []plan.MissingLayer `json:"missing,omitempty"`
	Result     *Result             `json:"result,omitempty"`
	// Warm: its kernel was started before it had a program. Domain is the trust domain whose programs it may have until then.
	Warm   bool   `json:"warm,omitempty"`
	Domain string `json:"domain,omitempty"`
}

// Image is the container image that a sandbox has as its root.
type Image struct {
	Ref    string `json:"ref"`    // as it was asked for
	Digest string `json:"digest"` // of its manifest
}

// Landlock is what was reached of that layer. The kernel has no place to read it back from, so the launch program proves
// it before the start.
type Landlock struct {
	ABI    int  `json:"abi"`
	Proved bool `json:"proved"`
	// NoUnixSockets: a filter refuses Unix sockets in place of the scope that this ABI has not, in the host's network.
	NoUnixSockets bool `json:"noUnixSockets,omitempty"`
}

// stateVersion changes when an older brig could misread a state file.
const stateVersion = 1
