package sandbox

import (
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Request is a sandbox to be run: the spec and what has no place in it.
type Request struct {
	Spec *specs.Spec `json:"spec"`
	Name string      `json:"name,omitempty"`
	// Labels are the person's own.
	Labels map[string]string `json:"labels,omitempty"`
	Preset string            `json:"preset,omitempty"`
	// Image is what the root is made from, nil for none. ImageLock keeps it from being removed for as long as it is open somewhere; the
	// supervisor has it until the sandbox has ended.
	Image     *Image   `json:"image,omitempty"`
	ImageLock *os.File `json:"-"`
	// ImageFile is its EROFS image, for an isolation that reads it itself; nil for none. It stays the caller's.
	ImageFile *os.File `json:"-"`
	// Checkpoint is what the sandbox goes on from, nil for a start. Its files stay the caller's.
	Checkpoint *Checkpoint `json:"-"`
	// Timeout ends the sandbox after that long; 0 for never.
	Timeout time.Duration `json:"timeout,omitempty"`
	// OutputLimit ends the sandbox when it has written that many bytes to standard output and error; 0 for no limit.
	OutputLimit int64 `json:"outputLimit,omitempty"`
	// StopAfter is how long `stop` waits between SIGTERM and SIGKILL.
	StopAfter time.Duration `json:"stopTimeout,omitempty"`
	// StopSignal is what `stop` sends; 0 for SIGTERM.
	StopSignal int `json:"stopSignal,omitempty"`
	// Remove deletes a detached sandbox when it has ended.
	Remove bool `json:"remove,omitempty"`
	// PassFDs become file descriptors 3 and up. Only for sandboxes that are not detached.
	PassFDs []*os.File `json:"-"`
	// Started is called just before the program of a sandbox in the foreground is executed. It must not keep the state.
	Started func(*State) `json:"-"`
}

// Streams are the caller's ends of a sandbox's standard streams.
type Streams struct {
	In       *os.File // nil for /dev/null
	Out, Err *os.File
}
