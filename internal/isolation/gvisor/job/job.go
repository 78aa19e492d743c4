// Package job is what Brig and the gVisor kernel process, `brig-gvisor`, have to agree on: they are two programs of two Go
// modules, built from one tree.
//
// Brig starts `brig-gvisor sentry INTERFACE` as the program of a native sandbox, with the files below; the job stands in the first of
// them, so that nothing of it is in argv.
package job

import (
	"encoding/json"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Interface is the number of what this package says and of what the two programs do by it. Brig starts `brig-gvisor` with it as the word
// behind the command, and one that was built with another number does not serve: it would pass over what it does not know of a job, and
// with it over a part of the policy. Raise it with each change of what is said or meant here; a test holds it against what goes over.
const Interface = "1"

// The files that the kernel process gets beside the three standard streams, which are the guest program's.
const (
	// FD is a file with the Job as JSON, or the unix socket of a kernel that is kept warm: see Warm.
	FD = 3 + iota
	// ControlFD is a listening unix socket, where gVisor's control server answers.
	ControlFD
	// StatusFD is a pipe that takes the End when the guest program has ended, in a line of its own. It is the kernel's standard error as
	// well, so that a kernel that cannot go on says there why.
	StatusFD
	// RootFD is the root file system: an EROFS image, or with Job.Gofer the socket of the file server.
	RootFD
	// FirstFD is the first of those that the guest program gets as 3 and up, in their order. After them come the sockets of
	// Job.Mounts.
	FirstFD
)

// Job is one sandbox to be served by a gVisor kernel.
type Job struct {
	ID string `json:"id"`
	// Spec is what the guest sees. Its bind mounts are Mounts, in their order.
	Spec *specs.Spec `json:"spec"`
	// Gofer: the root comes from a file server, not from an image.
	Gofer bool `json:"gofer,omitempty"`
	// Writable lays a place to write over the root, in memory, of at most Size bytes (0 for no limit of its own).
	Writable bool   `json:"writable,omitempty"`
	Size     uint64 `json:"size,omitempty"`
	// PassFDs is how many files the guest program gets after the streams; Closed are those numbers that stay free.
	PassFDs int   `json:"passFDs,omitempty"`
	Closed  []int `json:"closed,omitempty"`
	// Mounts are how many bind mounts there are, each with a socket.
	Mounts int `json:"mounts,omitempty"`
	// Saved: the kernel goes on from a saved state, for which the control server is asked when a Ready has come. Before that it has the
	// filter, and what else is prepared for a guest, in the making.
	Saved bool `json:"saved,omitempty"`
	// Pod: other containers come into this kernel, by gVisor's control server; a Ready comes before the End.
	Pod bool `json:"pod,omitempty"`
	// Exits: the kernel process ends as the guest program did, for a parent that knows of nothing but processes: with its exit code, or
	// with 128+n for signal n.
	Exits bool `json:"exits,omitempty"`
	// HostNetwork: the guest's sockets are the kernel process's.
	HostNetwork bool `json:"hostNetwork,omitempty"`
	// CPUs is how many the guest sees, 0 for those of the machine; Memory is how many bytes it sees, 0 for the machine's.
	CPUs   int    `json:"cpus,omitempty"`
	Memory uint64 `json:"memory,omitempty"`
	// CPUQuota of each CPUPeriod, in microseconds, is what the guest's cgroup files tell of its share; 0 for none.
	CPUQuota  int64 `json:"cpuQuota,omitempty"`
	CPUPeriod int64 `json:"cpuPeriod,omitempty"`
}

// Warm is how a job comes to a kernel that was started before there was one. It has a connected SOCK_SEQPACKET socket as FD, and
// for each of the others /dev/null, which keeps its number. When it has done all that needs no job it sends one byte of its own. Then a
// message of one byte with files (SCM_RIGHTS) brings what other kernels are started with, in this order: the streams, the
// file with the job, and those behind it. They get the numbers that they would have had. A kernel whose socket is closed before that ends,
// with nothing said.
//
// It has one job in its life. What it makes before the job is of its own process, and no guest's: the random numbers, the
// clocks and the memory of a guest are made with the job, so that two kernels have nothing in common that a guest could tell.
const Warm = "w"

// SealedLater is an option of a mount of the guest's spec: it is read-only when all mounts are made. gVisor passes over it.
const SealedLater = "run.brig.ro"

// Ready says that the kernel takes calls.
type Ready struct {
	// Config are the kernel's settings, which gVisor wants to have again with each container that is started in it.
	Config json.RawMessage `json:"config"`
	// Calls are the names of the system calls that the kernel has, for the Refusals of such a container's filter.
	Calls []string `json:"calls"`
}

// End is how the guest program ended, or why it never ran.
type End struct {
	// Status is a wait status as wait(2) has it.
	Status uint32 `json:"status"`
	Error  string `json:"error,omitempty"`
}
