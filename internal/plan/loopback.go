package plan

import (
	"encoding/binary"

	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// loopback brings lo up in a new network namespace, where the kernel leaves it down: programs expect 127.0.0.1 to work, and runc
// and crun do the same. A namespace that is joined is as its maker wants it. Whoever may make namespaces and not administer networks
// gets one that is as new: nothing in it reaches anything, and that is all that isolation asks.
func (b *builder) loopback() {
	if path, ok := Namespace(b.spec, specs.NetworkNamespace); !ok || path != "" || b.isExec() {
		return
	}
	b.p.Step(launch.Namespaces, "bring the loopback of the new network namespace up")
	fd := b.p.DatagramSocket("network")
	b.p.IoctlBytes(fd, unix.SIOCSIFFLAGS, interfaceFlags("lo", unix.IFF_UP), "{lo, IFF_UP}").Tolerate(unix.EPERM)
	b.p.Close(fd)
}

// interfaceFlags is a struct ifreq (netdevice(7)) with flags in its union.
func interfaceFlags(name string, flags uint16) []byte {
	request := make([]byte, 40) // on 64-bit machines; 32-bit kernels read 32 of it
	copy(request[:unix.IFNAMSIZ-1], name)
	binary.NativeEndian.PutUint16(request[unix.IFNAMSIZ:], flags)
	return request
}
