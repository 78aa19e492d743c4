package seccomp

import "github.com/opencontainers/runtime-spec/specs-go"

// WithoutUnixSockets is the profile that lets no Unix socket with a name be made or reached, and everything else through: for a
// program in the host's network where the kernel cannot tell its abstract sockets from the host's. It stands beside other filters.
// Pairs of streams stay, as runtimes make them to wake themselves up: they are connected for good (unix_stream_connect of
// net/unix/af_unix.c answers EISCONN or EINVAL), and one of datagrams could still send to any name. io_uring makes and
// connects sockets out of a filter's sight (IORING_OP_SOCKET).
func WithoutUnixSockets(native ...specs.Arch) *specs.LinuxSeccomp {
	machine := Native()
	if len(native) > 0 {
		machine = native[0]
	}
	const afUnix, stream, sequenced, typeMask = 1, 1, 5, 0xf // SOCK_TYPE_MASK of linux/net.h
	p := &profile{arch: findArch(machine)}
	p.refuse(eafnosupport, []specs.LinuxSeccompArg{is(0, afUnix)}, "socket")
	for kind := uint64(0); kind <= typeMask; kind++ {
		if kind != p.socketType(stream) && kind != sequenced {
			p.refuse(eafnosupport, []specs.LinuxSeccompArg{is(0, afUnix), masked(1, typeMask, kind)}, "socketpair")
		}
	}
	p.refuse(uint(enosysOf(p.arch)), nil, "io_uring_setup", "io_uring_enter", "io_uring_register")
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: append([]specs.Arch{machine}, subArchitectures(machine)...), Syscalls: p.rules,
	}
}
