package policy

import "brig/internal/caps"

// Host is what Spec has to know of the machine and the caller. ThisHost reads it; tests give their own.
type Host struct {
	EUID, EGID int
	Cwd        string
	CgroupV2   bool   // version 2 alone
	MemTotal   uint64 // bytes of RAM
	// Lookup is the caller's environment.
	Lookup func(string) (string, bool)
	// Link gives the target of a symlink of the host, Exists tells whether a path is there.
	Link   func(string) (string, bool)
	Exists func(string) bool
	// Read reads a file of the host: a seccomp profile, the root folder's /etc/passwd.
	Read func(string) ([]byte, error)
	// ReadInRoot reads a file inside a root folder without leaving it.
	ReadInRoot func(root, name string) ([]byte, error)
	// Device gives type and number of a device node of the host.
	Device func(string) (kind string, major, minor uint32, err error)
	// LastCap is the kernel's newest capability.
	LastCap caps.Cap
	// OOMScoreAdj is the caller's own: it cannot be lowered.
	OOMScoreAdj int
	// Image is the policy's image, where it has one and the image is at hand.
	Image *ImageFacts
	// NoFile is the caller's hard limit of open files: it cannot be raised without CAP_SYS_RESOURCE.
	NoFile uint64
}

// ImageFacts are what a policy takes from an image: where it is mounted, and those parts of its config that say how its program is
// started. Nothing else of an image's metadata becomes anything: no mount of the host's, no device, no capability, no annotation
// (containerd's CVE-2026-53488 and its like were about such).
type ImageFacts struct {
	// Root is the folder that the image is mounted at.
	Root string
	// Env, Entrypoint, Cmd, WorkingDir, User and Volumes are of the image's config (image-spec config.md).
	Env, Entrypoint, Cmd []string
	WorkingDir, User     string
	Volumes              []string
}
