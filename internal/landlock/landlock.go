// Package landlock turns what a sandbox may reach into a Landlock ruleset, as launch instructions.
//
// Its place on the road: package plan says which mounts are writable and which ports are open, and this package writes
// the instructions that make the ruleset and put the child under it. Rights that the host's ABI does not know are left
// out, and Ruleset.ABI says which ABI was reached: a caller that needs more refuses before anything starts.
//
// What each ABI adds (landlock(7)): 1 file rights; 2 moving files between folders (REFER); 3 truncating; 4 TCP bind
// and connect; 5 ioctl on devices; 6 scopes for abstract sockets and signals; 7 audit, which Brig leaves as it is: no right
// depends on it. Without 2 a file is moved or linked into another folder nowhere (EXDEV), without 5 the devices that a sandbox has outside of
// /dev are as open as they are without Landlock; package plan refuses what an older ABI would leave open otherwise.
package landlock

import (
	"brig/internal/launch"

	"golang.org/x/sys/unix"
)

// File rights, LANDLOCK_ACCESS_FS_* of linux/landlock.h.
const (
	Execute    = 1 << 0
	WriteFile  = 1 << 1
	ReadFile   = 1 << 2
	ReadDir    = 1 << 3
	RemoveDir  = 1 << 4
	RemoveFile = 1 << 5
	MakeChar   = 1 << 6
	MakeDir    = 1 << 7
	MakeReg    = 1 << 8
	MakeSock   = 1 << 9
	MakeFifo   = 1 << 10
	MakeBlock  = 1 << 11
	MakeSym    = 1 << 12
	Refer      = 1 << 13 // ABI 2
	Truncate   = 1 << 14 // ABI 3
	IoctlDev   = 1 << 15 // ABI 5

	// Read is what a read-only place grants.
	Read = Execute | ReadFile | ReadDir
	// Write is what a writable place grants beside it. Device nodes can be made nowhere.
	Write = WriteFile | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeSock | MakeFifo | MakeSym | Refer | Truncate
	// Files are the rights that can be granted on a file that is no directory.
	Files = Execute | WriteFile | ReadFile | Truncate | IoctlDev
)

// Network rights and scopes.
const (
	bindTCP            = 1 << 0 // ABI 4
	connectTCP         = 1 << 1
	scopeAbstract      = 1 << 0 // ABI 6
	scopeSignal        = 1 << 1
	abiNet, abiScope   = 4, 6
	sizeFS, sizeNet    = 8, 16 // of struct landlock_ruleset_attr up to that member
	sizeScope          = 24
	allFS              = 1<<16 - 1
	allFSBefore5       = 1<<15 - 1
	allFSBefore3       = 1<<14 - 1
	allFSBefore2       = 1<<13 - 1
	newest             = 7
	abiRefer, abiTrunc = 2, 3
	abiIoctl           = 5
)

// Path is a place in the file system and the rights beneath it.
type Path struct {
	FD     launch.Reg // an O_PATH descriptor
	Rights uint64
}

// Ports says which TCP ports are open.
type Ports struct {
	Any  bool
	List []uint16
}

// Ruleset is what the sandbox may reach; everything else that Landlock knows is denied.
type Ruleset struct {
	ABI     int // the host's
	Paths   []Path
	Bind    Ports
	Connect Ports
}

// handledFS are the file rights that the ABI knows.
func handledFS(abi int) uint64 {
	switch {
	case abi >= abiIoctl:
		return allFS
	case abi >= abiTrunc:
		return allFSBefore5
	case abi >= abiRefer:
		return allFSBefore3
	}
	return allFSBefore2
}

// Create writes the instructions that make the ruleset with its rules. The register goes to Restrict.
// Preconditions: ABI is at least 1.
func (r *Ruleset) Create(p *launch.Program) launch.Reg {
	fs := handledFS(r.ABI)
	var net, scope uint64
	size := sizeFS
	if r.ABI >= abiNet {
		size = sizeNet
		if !r.Bind.Any {
			net |= bindTCP
		}
		if !r.Connect.Any {
			net |= connectTCP
		}
	}
	if r.ABI >= abiScope {
		size = sizeScope
		scope = scopeAbstract | scopeSignal
	}
	p.Step(launch.Landlock, "make a Landlock ruleset")
	ruleset := p.LandlockCreateRuleset(fs, net, scope, size)
	for _, path := range r.Paths {
		if rights := path.Rights & fs; rights != 0 {
			p.LandlockAddPath(ruleset, path.FD, rights)
		}
	}
	r.ports(p, ruleset, net)
	return ruleset
}

func (r *Ruleset) ports(p *launch.Program, ruleset launch.Reg, net uint64) {
	if net&bindTCP != 0 {
		for _, port := range r.Bind.List {
			p.LandlockAddPort(ruleset, port, bindTCP)
		}
	}
	if net&connectTCP != 0 {
		for _, port := range r.Connect.List {
			p.LandlockAddPort(ruleset, port, connectTCP)
		}
	}
}

// Restrict puts the child under the ruleset, for good, and proves it: making a block device, a right that no place has, must now
// be refused by EACCES. Landlock's is the first word in mknod(2); without it the answer is EPERM for the lack of CAP_MKNOD, or
// success. A whiteout (a character device 0:0) would need no capability, but kernels of 2026, Debian's 6.1 among them, let it
// be made wherever a file may. writable is a directory on a writable file system that is the caller's, or 0 when there is none; the
// probe is then left out.
func Restrict(p *launch.Program, ruleset, writable launch.Reg) {
	p.Step(launch.Landlock, "enter the Landlock ruleset")
	p.LandlockRestrictSelf(ruleset)
	if writable != 0 {
		p.Step(launch.Landlock, "prove that Landlock is in force")
		p.Mknodat(writable, ".landlock-probe", unix.S_IFBLK, 0).Expect(unix.EACCES)
	}
}

// Describe says what an ABI gives, for inspect and doctor.
func Describe(abi int) string {
	switch {
	case abi <= 0:
		return "not available"
	case abi >= newest:
		return "files, TCP, device ioctls, abstract sockets and signals (ABI 7)"
	case abi >= abiScope:
		return "files, TCP, device ioctls, abstract sockets and signals"
	case abi >= abiIoctl:
		return "files, TCP, device ioctls; no scopes (ABI 6 has them)"
	case abi >= abiNet:
		return "files and TCP; no device ioctls, no scopes"
	case abi >= abiTrunc:
		return "files; no TCP, no scopes"
	}
	return "files, but not truncation; no TCP, no scopes"
}
