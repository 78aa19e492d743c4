package seccomp

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Names of the built-in profiles.
const (
	Default = "default"
	Strict  = "strict"
	Compat  = "compat"
)

// Values of arguments the profiles look at.
const (
	low32        = 0xffffffff // an int or unsigned int argument: the kernel does not look at the high half
	suidSgid     = 0o6000     // S_ISUID|S_ISGID
	newSpaces    = 0x7e020000 // every CLONE_NEW* that clone(2) takes (CLONE_NEWTIME is clone3's and unshare's)
	oTmpfile     = 0o20000000 // __O_TMPFILE
	eacces       = 13
	eafnosupport = 97
)

// Profile gives a built-in profile for the capabilities a sandbox has ("CAP_SYS_PTRACE" or "SYS_PTRACE") on one
// architecture, this program's own when none is given. What it returns is a plain OCI object.
//
// "default" denies by default with EPERM and answers ENOSYS where that lets programs fall back. "strict" leaves out
// what small programs do without: all sockets but Unix ones, changing ids, System V and POSIX IPC, personality.
// "compat" allows what Docker's profile allows, the 32-bit architectures of the machine among it.
func Profile(name string, caps []string, native ...specs.Arch) (*specs.LinuxSeccomp, error) {
	machine := Native()
	if len(native) > 0 {
		machine = native[0]
	}
	a := findArch(machine)
	if a == nil {
		return nil, fmt.Errorf("seccomp: no profile for architecture %q", machine)
	}
	p := &profile{arch: a, caps: caps}
	switch name {
	case Default:
		p.common()
		p.allow(callsServer...)
		p.personality()
		p.networkSockets()
	case Strict:
		p.common()
		p.socket(1)
	case Compat:
		p.compat()
	default:
		return nil, fmt.Errorf("seccomp: unknown profile %q; known ones are default, strict, compat", name)
	}
	eperm := uint(eperm)
	out := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &eperm, Architectures: []specs.Arch{machine}, Syscalls: p.rules}
	if name == Compat {
		out.Architectures = append(out.Architectures, subArchitectures(machine)...)
	}
	return out, nil
}

// subArchitectures gives the 32-bit architectures a 64-bit kernel also serves, as Docker's archMap.
func subArchitectures(a specs.Arch) []specs.Arch {
	switch a {
	case specs.ArchX86_64:
		return []specs.Arch{specs.ArchX86, specs.ArchX32}
	case specs.ArchAARCH64:
		return []specs.Arch{specs.ArchARM}
	}
	return nil
}

// profile collects rules.
type profile struct {
	arch  *arch
	caps  []string
	rules []specs.LinuxSyscall
}

func (p *profile) has(capability string) bool {
	return slices.ContainsFunc(p.caps, func(c string) bool {
		return strings.EqualFold(c, capability) || strings.EqualFold("CAP_"+c, capability)
	})
}

// allow opens calls whatever their arguments.
func (p *profile) allow(names ...string) {
	p.rules = append(p.rules, specs.LinuxSyscall{Names: names, Action: specs.ActAllow})
}

// allowIf opens a call when all conditions hold.
func (p *profile) allowIf(name string, args ...specs.LinuxSeccompArg) {
	p.rules = append(p.rules, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args})
}

// refuse answers an errno. It must differ from the default's, or the rule would be dropped as saying nothing new.
func (p *profile) refuse(errno uint, args []specs.LinuxSeccompArg, names ...string) {
	p.rules = append(p.rules, specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: &errno, Args: args})
}

// is holds when the int argument is value: the high half of the register is not the kernel's concern, so it must not
// be the filter's, or setting it would change what the filter sees and not what the kernel does.
func is(index uint, value uint64) specs.LinuxSeccompArg {
	return masked(index, low32, value)
}

// without holds when none of the bits are set.
func without(index uint, bits uint64) specs.LinuxSeccompArg { return masked(index, bits, 0) }

func masked(index uint, mask, value uint64) specs.LinuxSeccompArg {
	return specs.LinuxSeccompArg{Index: index, Op: specs.OpMaskedEqual, Value: mask, ValueTwo: value}
}

// common is what default and strict share.
func (p *profile) common() {
	opened := p.capabilities()
	p.allow(callsBasic...)
	p.allow(callsSocket...)
	// Unix pairs only: a pair of another family fails, but its protocol was loaded and had made two sockets by then.
	p.allowIf("socketpair", is(0, 1))
	p.modes()
	p.terminal()
	p.prctl()
	if !p.has("CAP_SYS_ADMIN") {
		p.clone()
	}
	p.refuse(uint(enosysOf(p.arch)), nil, slices.DeleteFunc(slices.Clone(callsAbsent), func(n string) bool { return slices.Contains(opened, n) })...)
}

// prctl allows all but one thing: to change the parent-death signal from SIGKILL. The program at pid 1 would outlive a
// supervisor that was killed.
func (p *profile) prctl() {
	const setPDeathSig, sigKill, einval = 1, 9, 22 // linux/prctl.h
	p.allowIf("prctl", specs.LinuxSeccompArg{Index: 0, Op: specs.OpGreaterEqual, Value: 0})
	p.refuse(einval, []specs.LinuxSeccompArg{is(0, setPDeathSig), {Index: 1, Op: specs.OpNotEqual, Value: sigKill}}, "prctl")
}

// capabilities opens what the sandbox's capabilities need and gives the names.
func (p *profile) capabilities() (opened []string) {
	for _, c := range capCalls {
		if p.has(c.capability) {
			opened = append(opened, c.calls...)
		}
	}
	slices.Sort(opened)
	if opened = slices.Compact(opened); len(opened) > 0 {
		p.allow(opened...)
	}
	return opened
}

// clone allows processes and threads, no new namespaces (CVE-2022-0185, CVE-2024-1086: kernel code that only a user
// namespace makes reachable). clone3 has its flags behind a pointer; C libraries go back to clone on ENOSYS.
func (p *profile) clone() {
	flags := uint(0)
	if p.arch.column == colS390X {
		flags = 1 // CONFIG_CLONE_BACKWARDS2
	}
	p.allowIf("clone", without(flags, newSpaces))
	p.refuse(uint(enosysOf(p.arch)), nil, "clone3")
}

// modes keeps programs from making set-user-ID and set-group-ID files, which on a shared mount would be a way to other
// ids for whoever runs them outside (systemd's RestrictSUIDSGID=). CAP_FSETID lifts it.
func (p *profile) modes() {
	for _, c := range modeCalls {
		switch {
		case p.has("CAP_FSETID"):
			p.allow(c.name)
		default:
			p.allowIf(c.name, without(c.mode, suidSgid))
			if c.flags >= 0 {
				p.allowIf(c.name, without(uint(c.flags), p.oCreat()|oTmpfile))
			}
		}
	}
}

func (p *profile) oCreat() uint64 {
	if p.arch.column == colMIPS || p.arch.column == colMIPS64 {
		return 0x100
	}
	return 0o100
}

// terminal allows ioctl but for what reaches past a terminal: input typed for others, the console's clipboard and
// output, line disciplines (kernel code loaded on demand). CVE-2017-5226, CVE-2023-28100, CVE-2019-10063: the command
// is 32 bits wide for the kernel, so only those are compared.
func (p *profile) terminal() {
	// TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD of asm-generic, MIPS and PowerPC.
	commands := []uint64{0x5412, 0x541c, 0x541d, 0x5423}
	switch p.arch.column {
	case colMIPS, colMIPS64:
		commands = []uint64{0x5472, 0x5483, 0x80047478, 0x7401}
	}
	for _, c := range commands {
		p.refuse(eacces, []specs.LinuxSeccompArg{is(1, c)}, "ioctl")
	}
	// A condition that always holds: an unconditional rule would stand above the refusals.
	p.allowIf("ioctl", specs.LinuxSeccompArg{Index: 1, Op: specs.OpGreaterEqual, Value: 0})
}

// personality allows asking (0xffffffff), PER_LINUX, PER_LINUX32, each also with UNAME26, as Docker does. Others change
// the memory layout to an attacker's liking.
func (p *profile) personality() {
	for _, v := range []uint64{0, 8, 0x20000, 0x20008, low32} {
		p.allowIf("personality", is(0, v))
	}
}

// networkSockets allows Unix sockets, TCP, UDP and ping over IPv4 and IPv6, and the netlink family that lists
// interfaces and routes. Everything else (VSOCK to the hypervisor, ALG, raw and packet sockets, rare protocols
// loaded on demand) is refused; CAP_NET_RAW opens raw and packet sockets.
func (p *profile) networkSockets() {
	const (
		afUnix, afInet, afInet6, afNetlink, afPacket = 1, 2, 10, 16, 17
		stream, dgram                                = 1, 2
		icmp, tcp, udp, icmp6                        = 1, 6, 17, 58
		typeMask                                     = 0xffffffff &^ 0o2004000 // without SOCK_CLOEXEC and SOCK_NONBLOCK
	)
	p.socket(afUnix)
	for _, family := range []uint64{afInet, afInet6} {
		if p.has("CAP_NET_RAW") {
			p.socket(family)
			continue
		}
		ping := uint64(icmp)
		if family == afInet6 {
			ping = icmp6
		}
		for _, kind := range [][2]uint64{{stream, 0}, {stream, tcp}, {dgram, 0}, {dgram, udp}, {dgram, ping}} {
			p.allowIf("socket", is(0, family), masked(1, typeMask, p.socketType(kind[0])), is(2, kind[1]))
		}
	}
	p.allowIf("socket", is(0, afNetlink), is(2, 0)) // NETLINK_ROUTE
	if p.has("CAP_NET_RAW") {
		p.socket(afPacket)
	}
}

// socketType gives SOCK_STREAM (1) and SOCK_DGRAM (2) as the architecture counts them: MIPS has them the other way round.
func (p *profile) socketType(t uint64) uint64 {
	if p.arch.column == colMIPS || p.arch.column == colMIPS64 {
		return 3 - t
	}
	return t
}

// socket allows a whole family.
func (p *profile) socket(family uint64) { p.allowIf("socket", is(0, family)) }

// compat is Docker's profile. Beyond it, AF_ALG is refused like AF_VSOCK, and both by the low half of the argument.
func (p *profile) compat() {
	opened := p.capabilities()
	p.allow(callsBasic...)
	p.allow(callsSocket...)
	p.allow("socketpair", "prctl")
	p.allow(callsServer...)
	p.allow(callsCompat...)
	p.allow("ioctl")
	for _, c := range modeCalls {
		p.allow(c.name)
	}
	p.personality()
	for _, family := range []uint64{38, 40} { // AF_ALG (CVE-2026-31431), AF_VSOCK
		p.refuse(eafnosupport, []specs.LinuxSeccompArg{is(0, family)}, "socket")
	}
	p.allowIf("socket", specs.LinuxSeccompArg{Index: 0, Op: specs.OpGreaterEqual, Value: 0})
	if !slices.Contains(opened, "clone") {
		p.clone()
	}
}
