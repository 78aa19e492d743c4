package launch

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// symbolSet turns a constant into the names the manual pages use. Bits that have no name are printed in hex.
type symbolSet struct {
	zero   string // how 0 reads
	base   int    // of numbers without a name: 8, 10 or 16
	values bool   // whole values, not bits
	names  []symbolName
}

type symbolName struct {
	value uint64
	name  string
}

func (s *symbolSet) format(v uint64) string {
	if v == 0 && s.zero != "" {
		return s.zero
	}
	var parts []string
	for _, n := range s.names {
		if s.values && n.value == v {
			return n.name
		}
		if !s.values && n.value != 0 && v&n.value == n.value {
			parts = append(parts, n.name)
			v &^= n.value
		}
	}
	if v != 0 || len(parts) == 0 {
		switch s.base {
		case 8:
			parts = append(parts, fmt.Sprintf("%#o", v))
		case 10:
			parts = append(parts, fmt.Sprint(int64(v))) //nolint:gosec // for reading
		default:
			parts = append(parts, fmt.Sprintf("%#x", v))
		}
	}
	return strings.Join(parts, "|")
}

var (
	octal    = &symbolSet{base: 8}
	pointers = &symbolSet{zero: "NULL"}
	atFD     = &symbolSet{values: true, names: []symbolName{{atFDCWD, "AT_FDCWD"}}}

	openFlags = &symbolSet{zero: "O_RDONLY", names: []symbolName{
		{unix.O_PATH, "O_PATH"}, {unix.O_TMPFILE, "O_TMPFILE"}, {unix.O_DIRECTORY, "O_DIRECTORY"}, {unix.O_WRONLY, "O_WRONLY"}, {unix.O_RDWR, "O_RDWR"},
		{unix.O_CREAT, "O_CREAT"}, {unix.O_EXCL, "O_EXCL"}, {unix.O_NOFOLLOW, "O_NOFOLLOW"}, {unix.O_NOCTTY, "O_NOCTTY"},
		{unix.O_NONBLOCK, "O_NONBLOCK"}, {unix.O_CLOEXEC, "O_CLOEXEC"},
	}}
	resolveFlags = &symbolSet{zero: "0", names: []symbolName{
		{unix.RESOLVE_IN_ROOT, "RESOLVE_IN_ROOT"}, {unix.RESOLVE_BENEATH, "RESOLVE_BENEATH"}, {unix.RESOLVE_NO_XDEV, "RESOLVE_NO_XDEV"},
		{unix.RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"}, {unix.RESOLVE_NO_MAGICLINKS, "RESOLVE_NO_MAGICLINKS"},
	}}
	atFlags = &symbolSet{zero: "0", names: []symbolName{
		{unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"}, {unix.AT_RECURSIVE, "AT_RECURSIVE"}, {unix.AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"},
	}}
	openTreeFlags = &symbolSet{names: []symbolName{
		{unix.OPEN_TREE_CLONE, "OPEN_TREE_CLONE"}, {unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLOEXEC"}, {unix.AT_RECURSIVE, "AT_RECURSIVE"},
		{unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"}, {unix.AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"},
	}}
	moveMountFlags   = &symbolSet{names: []symbolName{{unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"}, {unix.MOVE_MOUNT_T_EMPTY_PATH, "MOVE_MOUNT_T_EMPTY_PATH"}}}
	fsopenFlags      = &symbolSet{names: []symbolName{{unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC"}}}
	fsmountFlags     = &symbolSet{names: []symbolName{{unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"}}}
	fsconfigCommands = &symbolSet{values: true, names: []symbolName{
		{unix.FSCONFIG_SET_FLAG, "FSCONFIG_SET_FLAG"}, {unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING"}, {unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"},
	}}
	mountAttrs = &symbolSet{zero: "0", names: []symbolName{
		{unix.MOUNT_ATTR__ATIME, "_ATIME"}, // before its parts
		{unix.MOUNT_ATTR_RDONLY, "RDONLY"}, {unix.MOUNT_ATTR_NOSUID, "NOSUID"}, {unix.MOUNT_ATTR_NODEV, "NODEV"}, {unix.MOUNT_ATTR_NOEXEC, "NOEXEC"},
		{unix.MOUNT_ATTR_STRICTATIME, "STRICTATIME"}, {unix.MOUNT_ATTR_NOATIME, "NOATIME"}, {unix.MOUNT_ATTR_NODIRATIME, "NODIRATIME"},
		{unix.MOUNT_ATTR_IDMAP, "IDMAP"}, {unix.MOUNT_ATTR_NOSYMFOLLOW, "NOSYMFOLLOW"},
	}}
	propagations = &symbolSet{names: []symbolName{
		{unix.MS_PRIVATE, "MS_PRIVATE"}, {unix.MS_SLAVE, "MS_SLAVE"}, {unix.MS_SHARED, "MS_SHARED"}, {unix.MS_UNBINDABLE, "MS_UNBINDABLE"},
	}}
	umountFlags = &symbolSet{zero: "0", names: []symbolName{{unix.MNT_DETACH, "MNT_DETACH"}}}
	cloneFlags  = &symbolSet{zero: "0", names: []symbolName{
		{unix.CLONE_NEWUSER, "CLONE_NEWUSER"}, {unix.CLONE_NEWPID, "CLONE_NEWPID"}, {unix.CLONE_NEWNS, "CLONE_NEWNS"}, {unix.CLONE_NEWNET, "CLONE_NEWNET"},
		{unix.CLONE_NEWIPC, "CLONE_NEWIPC"}, {unix.CLONE_NEWUTS, "CLONE_NEWUTS"}, {unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"}, {unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
	}}
	prctlOptions = &symbolSet{values: true, base: 10, names: []symbolName{
		{unix.PR_SET_PDEATHSIG, "PR_SET_PDEATHSIG"}, {unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"}, {unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"},
		{unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"}, {unix.PR_SET_SECUREBITS, "PR_SET_SECUREBITS"}, {unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"},
		{unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"}, {unix.PR_SET_CHILD_SUBREAPER, "PR_SET_CHILD_SUBREAPER"},
	}}
	signals        = &symbolSet{values: true, base: 10, names: []symbolName{{uint64(unix.SIGKILL), "SIGKILL"}}}
	decimal        = &symbolSet{base: 10, values: true}
	ambientActions = &symbolSet{values: true, base: 10, names: []symbolName{
		{unix.PR_CAP_AMBIENT_RAISE, "PR_CAP_AMBIENT_RAISE"}, {unix.PR_CAP_AMBIENT_CLEAR_ALL, "PR_CAP_AMBIENT_CLEAR_ALL"},
	}}
	secureBits = &symbolSet{zero: "0", names: []symbolName{
		{1 << 0, "NOROOT"}, {1 << 1, "NOROOT_LOCKED"}, {1 << 2, "NO_SETUID_FIXUP"}, {1 << 3, "NO_SETUID_FIXUP_LOCKED"},
		{1 << 4, "KEEP_CAPS"}, {1 << 5, "KEEP_CAPS_LOCKED"}, {1 << 6, "NO_CAP_AMBIENT_RAISE"}, {1 << 7, "NO_CAP_AMBIENT_RAISE_LOCKED"},
	}}
	keyctlCommands    = &symbolSet{values: true, names: []symbolName{{unix.KEYCTL_JOIN_SESSION_KEYRING, "KEYCTL_JOIN_SESSION_KEYRING"}}}
	seccompOperations = &symbolSet{values: true, names: []symbolName{{unix.SECCOMP_SET_MODE_FILTER, "SECCOMP_SET_MODE_FILTER"}}}
	seccompFlags      = &symbolSet{zero: "0", names: []symbolName{
		{unix.SECCOMP_FILTER_FLAG_TSYNC, "TSYNC"}, {unix.SECCOMP_FILTER_FLAG_LOG, "LOG"}, {unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, "SPEC_ALLOW"},
		{unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, "NEW_LISTENER"}, {unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, "WAIT_KILLABLE_RECV"},
	}}
	closeRangeFlags = &symbolSet{names: []symbolName{{unix.CLOSE_RANGE_CLOEXEC, "CLOSE_RANGE_CLOEXEC"}}}
	ioctls          = &symbolSet{values: true, names: []symbolName{
		{unix.TIOCGPTPEER, "TIOCGPTPEER"}, {unix.TIOCSPTLCK, "TIOCSPTLCK"}, {unix.TIOCSCTTY, "TIOCSCTTY"}, {unix.TIOCSWINSZ, "TIOCSWINSZ"}, {unix.SIOCSIFFLAGS, "SIOCSIFFLAGS"},
	}}
)

func prctlArgument(option uint64, i int) *symbolSet {
	switch {
	case option == unix.PR_SET_PDEATHSIG && i == 0:
		return signals
	case option == unix.PR_SET_SECUREBITS && i == 0:
		return secureBits
	case option == unix.PR_CAP_AMBIENT && i == 0:
		return ambientActions
	}
	return decimal
}

// text is the argument as a person reads it.
func (p *Program) text(a Arg) string {
	switch {
	case a.kind == argReg:
		return "<" + p.Name(Reg(a.value)) + ">" //nolint:gosec // registers are small
	case a.text != "":
		return a.text
	case a.symbols != nil:
		return a.symbols.format(a.value)
	}
	return fmt.Sprint(int64(a.value)) //nolint:gosec // for reading
}

// Text is the instruction as a line: the call with its arguments, the register it fills, what it tolerates.
func (p *Program) Text(in *Instruction) string {
	switch in.op {
	case opAwait:
		return "await the parent at point \"" + in.point.String() + "\""
	case opSendFD:
		return "send " + p.text(in.args[0]) + " to the parent"
	case opFork, opInit, opPart:
		return in.Name
	case opControl:
		return p.text(in.args[0]) + " is the parent from here on"
	}
	texts := make([]string, len(in.args))
	for i, a := range in.args {
		texts[i] = p.text(a)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s(%s)", in.Name, strings.Join(texts, ", "))
	if in.dst != 0 {
		fmt.Fprintf(&b, " = <%s>", p.Name(in.dst))
	}
	if in.expect != 0 {
		fmt.Fprintf(&b, "  must fail with %s", unix.ErrnoName(in.expect))
	}
	var tolerated []string
	for _, e := range in.tolerate {
		if e != 0 {
			tolerated = append(tolerated, unix.ErrnoName(e))
		}
	}
	if tolerated != nil {
		fmt.Fprintf(&b, "  or %s", strings.Join(tolerated, ", "))
	}
	if in.either {
		b.WriteString(", the first that succeeds")
	}
	return b.String()
}

// WriteText prints the program, one line a system call, under a heading for each layer and step.
func (p *Program) WriteText(w io.Writer) error {
	var layer Layer
	var why string
	for i := range p.Instructions {
		in := &p.Instructions[i]
		if in.Layer != layer {
			layer, why = in.Layer, ""
			if _, err := fmt.Fprintf(w, "\n%s\n", layer); err != nil {
				return err
			}
		}
		if in.Why != why {
			why = in.Why
			if _, err := fmt.Fprintf(w, "  # %s\n", why); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "  %3d  %s\n", i, p.Text(in)); err != nil {
			return err
		}
	}
	return nil
}
