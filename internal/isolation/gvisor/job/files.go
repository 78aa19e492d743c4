package job

// The files that the file server, `brig-gvisor gofer INTERFACE`, gets beside the standard streams. It has no other way to what it serves
// than its root, which is the tree that Brig's launch program mounted.
const (
	// FilesFD is a file with the Files as JSON.
	FilesFD = 3 + iota
	// ProcFD is the root folder of a procfs of the server's own pid namespace, mounted nowhere: the server opens what it holds
	// again by /proc/self/fd, and a procfs in the tree would be served with it.
	ProcFD
	// FirstServedFD is the socket of the first of Files.Served, the others follow.
	FirstServedFD
)

// Files is what one file server serves.
type Files struct {
	// Served are parts of the server's root, each with a socket: the root first, then the bind mounts in the order of the
	// spec of the sandbox.
	Served []Served `json:"served"`
}

// Served is one part.
type Served struct {
	Path     string `json:"path"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}
