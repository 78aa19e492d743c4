// Package annotation names what a sandbox needs that has no field in the OCI runtime spec.
//
// The spec is the one intermediate form between every front end and every isolation; what it cannot say travels
// in its annotations under the prefix "run.brig.". Image metadata never sets any of these: only policy does.
package annotation

const (
	// Prefix is what every key of Brig begins with.
	Prefix = "run.brig."

	// Root says what the root file system is made of when it is not a folder: "ram" is an empty tmpfs, in which the
	// spec's mounts (and their mount points) are all there is. Root.Path is then ignored.
	Root = "run.brig.root"

	// RootIDMap set to "true" presents the root folder through an idmapped mount, so that id n on disk is id n inside.
	RootIDMap = "run.brig.root.idmap"

	// RootWritable lays a place to write over the root folder, which itself is not touched: "ram" is a tmpfs, "disk" a file that no
	// name leads to. What is written there ends with the sandbox.
	RootWritable = "run.brig.root.writable"
	// RootWritableSize is the cap on that place, in bytes.
	RootWritableSize = "run.brig.root.writable.size"

	// IDs set to "auto" asks for a range of 65,536 host ids of the sandbox's own; whoever creates the sandbox fills
	// linux.uidMappings and gidMappings from it.
	IDs = "run.brig.ids"

	// Files is a JSON object of paths and contents: small files that are written into a root in RAM before it becomes
	// read-only.
	Files = "run.brig.files"

	// Landlock set to "on" confines the program by a Landlock ruleset derived from the mounts; "strict" also grants no
	// write anywhere. Absent: no ruleset.
	Landlock = "run.brig.landlock"

	// LandlockBind is a comma-separated list of the TCP ports that the program may listen on; "*" for
	// any. Absent: none.
	LandlockBind = "run.brig.landlock.tcp-bind"
	// LandlockConnect is the same for connections.
	LandlockConnect = "run.brig.landlock.tcp-connect"

	// Seccomp names the built-in seccomp profile ("default", "strict", "compat") that linux.seccomp was expanded from;
	// it is shown to people and obeyed by nothing.
	Seccomp = "run.brig.seccomp"

	// SeccompFloor is a filter that holds beside linux.seccomp: the name of a built-in profile, or a profile in JSON. The
	// operator's policy sets it.
	SeccompFloor = "run.brig.seccomp.floor"

	// AppArmor set to "auto" asks for a profile written from the spec, where the host has AppArmor; whoever creates the sandbox
	// loads it and fills process.apparmorProfile.
	AppArmor = "run.brig.apparmor"

	// SELinux set to a domain of Brig's SELinux module (package selinux) asks for a label of it with categories that no other sandbox
	// has, where the host has SELinux; whoever creates the sandbox fills process.selinuxLabel and linux.mountLabel.
	SELinux = "run.brig.selinux"

	// AllowMissing is a comma-separated list of layers that may be absent when the host cannot give them.
	AllowMissing = "run.brig.allow-missing"

	// Init set to "true" puts a small process that reaps orphans and forwards signals at pid 1.
	Init = "run.brig.init"

	// NoNewPrograms set to "true" forbids the program to execute any other.
	NoNewPrograms = "run.brig.no-new-programs"

	// Isolation is "native", "gvisor" or "vm".
	Isolation = "run.brig.isolation"

	// LockCaps set to "true" locks the securebits so that no capability can come back by uid 0 or setuid files.
	LockCaps = "run.brig.lock-caps"

	// KeepGroups is crun's, and Podman sets it for --group-add=keep-groups: the program keeps the supplementary groups of the
	// caller, also those that have no id inside, and process.user.additionalGids is not looked at.
	KeepGroups = "run.oci.keep_original_groups"

	// MountContext is crun's, and Podman sets it: which mount option (mount(8)) linux.mountLabel goes into. "context" when it is
	// not there.
	MountContext = "run.oci.mount_context_type"

	// FailUnknownCalls is crun's: a name in linux.seccomp that is no system call is an error.
	FailUnknownCalls = "run.oci.seccomp_fail_unknown_syscall"

	// MaxUserNamespaces set to "0" forbids user namespaces inside the sandbox by sysctl, beside the seccomp rule.
	MaxUserNamespaces = "run.brig.max-user-namespaces"
)

// Known tells whether a key under Prefix is one of these.
func Known(key string) bool {
	switch key {
	case Root, RootIDMap, RootWritable, RootWritableSize, IDs, Files, Landlock, LandlockBind, LandlockConnect, Seccomp, SeccompFloor, AppArmor, SELinux, AllowMissing, Init, NoNewPrograms, Isolation, LockCaps, MaxUserNamespaces:
		return true
	}
	return false
}
