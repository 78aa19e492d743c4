package launch

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// This file has one method per system call that launch programs use, in groups by subject. Each takes what the system
// call takes; where a path belongs to a directory file descriptor, dir 0 means the working directory.

// How a path inside a root file system is opened (openat2(2)).
const (
	// InRoot treats the directory as the root: no path, symlink or ".." leads out of it.
	InRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	// NoLinks also refuses every symlink on the way.
	NoLinks = InRoot | unix.RESOLVE_NO_SYMLINKS
	// Within stays in the directory's own mount and follows no link: for a private procfs.
	Within = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
)

// Openat2 opens path below dir. O_CLOEXEC is always added. The register is named result.
func (p *Program) Openat2(result string, d Reg, path string, flags, mode, resolve uint64) Reg {
	flags |= unix.O_CLOEXEC
	how := bytesArg(words(flags, mode, resolve)).reads(fmt.Sprintf("{%s%s, %s}",
		openFlags.format(flags), modeText(mode), resolveFlags.format(resolve)))
	return p.callTo(result, "openat2", unix.SYS_OPENAT2, dir(d), str(path), how, num(unix.SizeofOpenHow))
}

func modeText(mode uint64) string {
	if mode == 0 {
		return ""
	}
	return fmt.Sprintf(", %#o", mode)
}

// Mkdirat makes a directory.
func (p *Program) Mkdirat(d Reg, path string, mode uint32) *Instruction {
	return p.call("mkdirat", unix.SYS_MKDIRAT, dir(d), str(path), symbol(uint64(mode), octal))
}

// Symlinkat makes a symlink at path that points to target.
func (p *Program) Symlinkat(target string, d Reg, path string) *Instruction {
	return p.call("symlinkat", unix.SYS_SYMLINKAT, str(target), dir(d), str(path))
}

// Mknodat makes a file, fifo or device node.
func (p *Program) Mknodat(d Reg, path string, mode uint32, dev uint64) *Instruction {
	return p.call("mknodat", unix.SYS_MKNODAT, dir(d), str(path), symbol(uint64(mode), octal), num(dev))
}

// Fchown changes the owner of the file that fd itself is open on.
func (p *Program) Fchown(fd Reg, uid, gid uint32) *Instruction {
	return p.call("fchownat", sysFchownat, dir(fd), str(""), num(uint64(uid)), num(uint64(gid)), symbol(unix.AT_EMPTY_PATH, atFlags))
}

// Fchmod changes the mode of the file that fd is open on (not with O_PATH).
func (p *Program) Fchmod(fd Reg, mode uint32) *Instruction {
	return p.call("fchmod", unix.SYS_FCHMOD, reg(fd), symbol(uint64(mode), octal))
}

// Fsetxattr sets an extended attribute of the file that fd is open on (not with O_PATH).
func (p *Program) Fsetxattr(fd Reg, name, value string) *Instruction {
	return p.call("fsetxattr", unix.SYS_FSETXATTR, reg(fd), str(name), bytesArg([]byte(value)).reads(fmt.Sprintf("%q", value)), num(uint64(len(value))), num(0))
}

// Write writes data to fd in one call.
func (p *Program) Write(fd Reg, data string) *Instruction {
	return p.call("write", unix.SYS_WRITE, reg(fd), bytesArg([]byte(data)).reads(fmt.Sprintf("%q", data)), num(uint64(len(data))))
}

// Fsopen opens a file-system context, Fsconfig… set its options, FsconfigCreate makes the superblock and Fsmount gives
// a detached mount of it with the MOUNT_ATTR_* attrs.
func (p *Program) Fsopen(fstype string) Reg {
	return p.callTo(fstype+" context", "fsopen", unix.SYS_FSOPEN, str(fstype), symbol(unix.FSOPEN_CLOEXEC, fsopenFlags))
}

// FsconfigString sets an option that has a value.
func (p *Program) FsconfigString(fs Reg, key, value string) *Instruction {
	return p.call("fsconfig", unix.SYS_FSCONFIG, reg(fs), symbol(unix.FSCONFIG_SET_STRING, fsconfigCommands), str(key), str(value), num(0))
}

// FsconfigFlag sets an option that has none.
func (p *Program) FsconfigFlag(fs Reg, key string) *Instruction {
	return p.call("fsconfig", unix.SYS_FSCONFIG, reg(fs), symbol(unix.FSCONFIG_SET_FLAG, fsconfigCommands), str(key), none(), num(0))
}

// FsconfigCreate makes the superblock.
func (p *Program) FsconfigCreate(fs Reg) *Instruction {
	return p.call("fsconfig", unix.SYS_FSCONFIG, reg(fs), symbol(unix.FSCONFIG_CMD_CREATE, fsconfigCommands), none(), none(), num(0))
}

// Fsmount gives a detached mount. The register is named result.
func (p *Program) Fsmount(result string, fs Reg, attrs uint64) Reg {
	return p.callTo(result, "fsmount", unix.SYS_FSMOUNT, reg(fs), symbol(unix.FSMOUNT_CLOEXEC, fsmountFlags), symbol(attrs, mountAttrs))
}

// OpenTree gives a detached copy of the mount at path (OPEN_TREE_CLONE). flags adds AT_RECURSIVE, AT_EMPTY_PATH and
// their like.
func (p *Program) OpenTree(result string, d Reg, path string, flags uint64) Reg {
	flags |= unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	return p.callTo(result, "open_tree", unix.SYS_OPEN_TREE, dir(d), str(path), symbol(flags, openTreeFlags))
}

// MoveMount attaches the detached mount from at the file descriptor to: no path is resolved.
func (p *Program) MoveMount(from, to Reg) *Instruction {
	return p.call("move_mount", unix.SYS_MOVE_MOUNT, reg(from), str(""), reg(to), str(""),
		symbol(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, moveMountFlags))
}

// MoveMountTo attaches the detached mount from at a path of the host's.
func (p *Program) MoveMountTo(from Reg, path string) *Instruction {
	return p.call("move_mount", unix.SYS_MOVE_MOUNT, reg(from), str(""), dir(0), str(path), symbol(unix.MOVE_MOUNT_F_EMPTY_PATH, moveMountFlags))
}

// sizeofMountAttr is MOUNT_ATTR_SIZE_VER0 of linux/mount.h.
const sizeofMountAttr = 32

// MountSetattr changes the attributes of the mount that d is open on, or of the one at path.
func (p *Program) MountSetattr(d Reg, path string, flags int, set, unset, propagation uint64) *Instruction {
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var parts []string
	for _, part := range []struct {
		name  string
		value uint64
		set   *symbolSet
	}{{"set", set, mountAttrs}, {"clear", unset, mountAttrs}, {"propagation", propagation, propagations}} {
		if part.value != 0 {
			parts = append(parts, part.name+" "+part.set.format(part.value))
		}
	}
	attr := bytesArg(words(set, unset, propagation, 0)).reads("{" + strings.Join(parts, ", ") + "}")
	return p.call("mount_setattr", unix.SYS_MOUNT_SETATTR, dir(d), str(path), symbol(uint64(flags), atFlags), attr, num(sizeofMountAttr)) //nolint:gosec // flags
}

// Chdir changes to the directory path.
func (p *Program) Chdir(path string) *Instruction {
	return p.call("chdir", unix.SYS_CHDIR, str(path))
}

// Chroot changes the root directory to path.
func (p *Program) Chroot(path string) *Instruction {
	return p.call("chroot", unix.SYS_CHROOT, str(path))
}

// Fchdir changes to the directory fd.
func (p *Program) Fchdir(fd Reg) *Instruction { return p.call("fchdir", unix.SYS_FCHDIR, reg(fd)) }

// PivotRoot makes newRoot the root and puts the old one at putOld.
func (p *Program) PivotRoot(newRoot, putOld string) *Instruction {
	return p.call("pivot_root", unix.SYS_PIVOT_ROOT, str(newRoot), str(putOld))
}

// Umount2 unmounts path.
func (p *Program) Umount2(path string, flags uint64) *Instruction {
	return p.call("umount2", unix.SYS_UMOUNT2, str(path), symbol(flags, umountFlags))
}

// Unshare leaves namespaces for new ones.
func (p *Program) Unshare(flags uint64) *Instruction {
	return p.call("unshare", unix.SYS_UNSHARE, symbol(flags, cloneFlags))
}

// Setns joins the namespace, or with a pidfd the namespaces, that fd is open on.
func (p *Program) Setns(fd Reg, flags uint64) *Instruction {
	return p.call("setns", unix.SYS_SETNS, reg(fd), symbol(flags, cloneFlags))
}

// Prctl is prctl(2) with constants.
func (p *Program) Prctl(option uint64, args ...uint64) *Instruction {
	a := []Arg{symbol(option, prctlOptions), num(0), num(0), num(0), num(0)}
	for i, v := range args {
		a[i+1] = symbol(v, prctlArgument(option, i))
	}
	return p.call("prctl", unix.SYS_PRCTL, a...)
}

// Setsid starts a session without a controlling terminal.
func (p *Program) Setsid() *Instruction { return p.call("setsid", unix.SYS_SETSID) }

// Sethostname and Setdomainname set the two names of the UTS namespace.
func (p *Program) Sethostname(name string) *Instruction {
	return p.call("sethostname", unix.SYS_SETHOSTNAME, str(name), num(uint64(len(name))))
}

// Setdomainname sets the NIS domain name.
func (p *Program) Setdomainname(name string) *Instruction {
	return p.call("setdomainname", unix.SYS_SETDOMAINNAME, str(name), num(uint64(len(name))))
}

// JoinSessionKeyring starts a new session keyring, so that the caller's keys stay out of reach.
func (p *Program) JoinSessionKeyring(name string) *Instruction {
	return p.call("keyctl", unix.SYS_KEYCTL, symbol(unix.KEYCTL_JOIN_SESSION_KEYRING, keyctlCommands), str(name))
}

// Setgroups sets the supplementary groups.
func (p *Program) Setgroups(gids []uint32) *Instruction {
	if len(gids) == 0 {
		return p.call("setgroups", sysSetgroups, num(0), none())
	}
	b := make([]byte, 4*len(gids))
	for i, g := range gids {
		binary.NativeEndian.PutUint32(b[4*i:], g)
	}
	return p.call("setgroups", sysSetgroups, num(uint64(len(gids))), bytesArg(b).reads(fmt.Sprint(gids)))
}

// Setresuid sets the three user ids to uid.
func (p *Program) Setresuid(uid uint32) *Instruction {
	u := num(uint64(uid))
	return p.call("setresuid", sysSetresuid, u, u, u)
}

// Setresgid sets the three group ids to gid.
func (p *Program) Setresgid(gid uint32) *Instruction {
	g := num(uint64(gid))
	return p.call("setresgid", sysSetresgid, g, g, g)
}

// Capset sets the effective, permitted and inheritable sets, each a mask with bit n for capability n.
func (p *Program) Capset(effective, permitted, inheritable uint64) *Instruction {
	const version3 = 0x20080522 // _LINUX_CAPABILITY_VERSION_3
	header := words(version3)   // the second half is pid 0, the caller
	data := make([]byte, 0, 24)
	for shift := 0; shift <= 32; shift += 32 {
		for _, set := range []uint64{effective, permitted, inheritable} {
			data = binary.NativeEndian.AppendUint32(data, uint32(set>>shift)) //nolint:gosec // one half of the mask at a time
		}
	}
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // big endian: the version is the first four bytes
		header = binary.BigEndian.AppendUint64(nil, version3<<32)
	}
	return p.call("capset", unix.SYS_CAPSET, bytesArg(header).reads("self"),
		bytesArg(data).reads(fmt.Sprintf("{effective %#x, permitted %#x, inheritable %#x}", effective, permitted, inheritable)))
}

// Prlimit sets a resource limit of the child's.
func (p *Program) Prlimit(resource int, name string, soft, hard uint64) *Instruction {
	return p.call("prlimit64", unix.SYS_PRLIMIT64, num(0), num(uint64(resource)).reads(name), //nolint:gosec // 0 to 15
		bytesArg(words(soft, hard)).reads(fmt.Sprintf("{%s, %s}", limitText(soft), limitText(hard))), none())
}

func limitText(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

// Dup3 makes fd number to a copy of from, without close-on-exec.
func (p *Program) Dup3(from Reg, to int) *Instruction {
	return p.call("dup3", unix.SYS_DUP3, reg(from), signed(to), num(0))
}

// DupAbove copies fd to a number that is none of those below first, close-on-exec: where numbers of the program's are laid.
func (p *Program) DupAbove(result string, fd Reg, first int) Reg {
	return p.callTo(result, "fcntl", unix.SYS_FCNTL, reg(fd), num(unix.F_DUPFD_CLOEXEC).reads("F_DUPFD_CLOEXEC"), signed(first))
}

// Close closes fd: a file open for writing would keep its mount from becoming read-only.
func (p *Program) Close(fd Reg) *Instruction { return p.call("close", unix.SYS_CLOSE, reg(fd)) }

// CloseOnExecFrom marks every file descriptor from first on close-on-exec.
func (p *Program) CloseOnExecFrom(first int) *Instruction {
	return p.call("close_range", unix.SYS_CLOSE_RANGE, signed(first), num(0xffffffff).reads("~0"), symbol(unix.CLOSE_RANGE_CLOEXEC, closeRangeFlags))
}

// Ioctl is ioctl(2) with a constant argument, the result in a register.
func (p *Program) Ioctl(result string, fd Reg, request, argument uint64) Reg {
	return p.callTo(result, "ioctl", unix.SYS_IOCTL, reg(fd), symbol(request, ioctls), num(argument))
}

// DatagramSocket is an internet socket that nothing is sent by: what ioctl(2) on a network's devices needs (netdevice(7)).
func (p *Program) DatagramSocket(result string) Reg {
	return p.callTo(result, "socket", unix.SYS_SOCKET, num(unix.AF_INET).reads("AF_INET"), num(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC).reads("SOCK_DGRAM|SOCK_CLOEXEC"), num(0))
}

// IoctlBytes is ioctl(2) with the address of data.
func (p *Program) IoctlBytes(fd Reg, request uint64, data []byte, text string) *Instruction {
	return p.call("ioctl", unix.SYS_IOCTL, reg(fd), symbol(request, ioctls), bytesArg(data).reads(text))
}

// LandlockCreateRuleset makes a ruleset that handles the given rights (landlock(7)). A zero scope and net leave the
// attribute as short as the host's ABI has it: size is in bytes.
func (p *Program) LandlockCreateRuleset(fs, net, scope uint64, size int) Reg {
	attr := bytesArg(words(fs, net, scope)[:size]).reads(fmt.Sprintf("{fs %#x, net %#x, scope %#x}", fs, net, scope))
	return p.callTo("ruleset", "landlock_create_ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, attr, signed(size), num(0))
}

// LandlockAddPath grants rights beneath the file that fd is open on.
func (p *Program) LandlockAddPath(ruleset, fd Reg, rights uint64) *Instruction {
	// struct landlock_path_beneath_attr is packed: __u64 allowed_access, __s32 parent_fd. The descriptor is known
	// only in the child, so the child stores it before the call.
	attr := make([]byte, 12)
	binary.NativeEndian.PutUint64(attr, rights)
	return p.call("landlock_add_rule", unix.SYS_LANDLOCK_ADD_RULE, reg(ruleset), num(unix.LANDLOCK_RULE_PATH_BENEATH).reads("PATH_BENEATH"),
		Arg{kind: argMem, mem: attr, fd: fd, fdAt: 8, text: fmt.Sprintf("{rights %#x beneath <%s>}", rights, p.Name(fd))}, num(0))
}

// landlockRuleNetPort is LANDLOCK_RULE_NET_PORT of linux/landlock.h, ABI 4.
const landlockRuleNetPort = 2

// LandlockAddPort grants rights on a TCP port.
func (p *Program) LandlockAddPort(ruleset Reg, port uint16, rights uint64) *Instruction {
	return p.call("landlock_add_rule", unix.SYS_LANDLOCK_ADD_RULE, reg(ruleset), num(landlockRuleNetPort).reads("NET_PORT"),
		bytesArg(words(rights, uint64(port))).reads(fmt.Sprintf("{rights %#x on port %d}", rights, port)), num(0))
}

// LandlockRestrictSelf puts the child under the ruleset.
func (p *Program) LandlockRestrictSelf(ruleset Reg) *Instruction {
	return p.call("landlock_restrict_self", unix.SYS_LANDLOCK_RESTRICT_SELF, reg(ruleset), num(0))
}

// Seccomp loads a filter, an array of struct sock_filter. With SECCOMP_FILTER_FLAG_NEW_LISTENER the register takes the
// listener's file descriptor.
func (p *Program) Seccomp(filter []byte, flags uint64) Reg {
	count := uint64(len(filter) / 8) // sizeof(struct sock_filter)
	return p.callTo("listener", "seccomp", unix.SYS_SECCOMP, symbol(unix.SECCOMP_SET_MODE_FILTER, seccompOperations), symbol(flags, seccompFlags),
		Arg{kind: argFprog, mem: filter, value: count, text: fmt.Sprintf("{%d instructions}", count)})
}

// Faccessat2 asks whether the file may be executed, with the rights that execve would use.
func (p *Program) Faccessat2(path string) *Instruction {
	return p.call("faccessat2", unix.SYS_FACCESSAT2, dir(0), str(path), num(unix.X_OK).reads("X_OK"), num(unix.AT_EACCESS).reads("AT_EACCESS"))
}

// Execve runs the user's program.
func (p *Program) Execve(path string, argv, env []string) *Instruction {
	return p.call("execve", unix.SYS_EXECVE, str(path), vector(argv).reads(fmt.Sprintf("%q", argv)),
		vector(env).reads(fmt.Sprintf("[%d variables]", len(env)))) // values stay out of logs: they may be secrets
}

// ExecFD runs the program that fd is, wherever its file lies.
func (p *Program) ExecFD(fd Reg, argv, env []string) *Instruction {
	return p.call("execveat", unix.SYS_EXECVEAT, dir(fd), str(""), vector(argv).reads(fmt.Sprintf("%q", argv)),
		vector(env).reads(fmt.Sprintf("[%d variables]", len(env))), num(unix.AT_EMPTY_PATH).reads("AT_EMPTY_PATH"))
}

// Umask sets the file mode creation mask.
func (p *Program) Umask(mask uint32) *Instruction {
	return p.call("umask", unix.SYS_UMASK, symbol(uint64(mask), octal))
}

// Personality sets the execution domain.
func (p *Program) Personality(persona uint64) *Instruction {
	return p.call("personality", unix.SYS_PERSONALITY, num(persona))
}
