package oci

import (
	"testing"

	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestLoopbackIsUp: 127.0.0.1 works in a new network namespace, also in one of a user namespace, as with runc and crun; a namespace
// that is joined stays as its maker has left it.
func TestLoopbackIsUp(t *testing.T) {
	t.Parallel()
	look := func(user bool) *engine {
		e := newEngine(t)
		e.addApplets("ip")
		e.spec.Process.Args = []string{"sh", "-c", "ip addr show lo | grep -o -e '<.*>' -e 'inet 127.0.0.1/8'; true"}
		if user {
			e.inUserNamespace()
		}
		return e
	}
	for _, user := range []bool{false, true} {
		e := look(user)
		e.write()
		e.want(0, "<LOOPBACK,UP,LOWER_UP>\ninet 127.0.0.1/8", "run", "--bundle", e.bundle, "up")
	}
	testenv.Check(t, testenv.Program("unshare"))
	e := look(false)
	for i := range e.spec.Linux.Namespaces {
		if n := &e.spec.Linux.Namespaces[i]; n.Type == specs.NetworkNamespace {
			n.Path = "/proc/self/ns/net"
		}
	}
	e.write()
	e.wrap = []string{"unshare", "-n"}
	joined := "<LOOPBACK>\n"
	if differs(t) {
		joined = "<LOOPBACK,UP,LOWER_UP>\ninet 127.0.0.1/8\n"
	}
	e.want(0, joined, "run", "--bundle", e.bundle, "joined")
}
