package netdev

import (
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

// namespace gives a new network namespace in which commands were run, and that goes with its file.
func namespace(t *testing.T, lines ...string) *os.File {
	t.Helper()
	type result struct {
		ns  *os.File
		err error
		out []byte
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		r := result{err: unix.Unshare(unix.CLONE_NEWNET)}
		for _, line := range lines {
			if r.err == nil {
				f := strings.Fields(line)
				r.out, r.err = exec.Command(f[0], f[1:]...).CombinedOutput() //nolint:gosec // the test's own
			}
		}
		if r.err == nil {
			r.ns, r.err = os.Open("/proc/thread-self/ns/net")
		}
		done <- r
	}()
	r := <-done
	if r.err != nil {
		t.Fatalf("%v: %s", r.err, r.out)
	}
	t.Cleanup(func() { _ = r.ns.Close() })
	return r.ns
}

// TestTake reads a device as an engine has made it, and takes it: the kernel has no address and no route then.
func TestTake(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root, testenv.Program("ip"))
	ns := namespace(t, "ip link add eth0 type veth peer name other", "ip addr add 10.9.0.2/24 dev eth0", "ip addr add fd09::2/64 dev eth0 nodad",
		"ip link set other up", "ip link set eth0 mtu 1400 up", "ip route add default via 10.9.0.1", "ip -6 route add default via fd09::1",
		"ip route add 10.8.0.0/16 via 10.9.0.9")
	device := func() *Link {
		list, err := Links(ns)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(list, func(l Link) bool { return l.Name == "eth0" })
		if i < 0 {
			t.Fatalf("no eth0 in %+v", list)
		}
		return &list[i]
	}
	l := device()
	if !l.Up || !l.Ethernet || l.Loopback || l.MTU != 1400 || len(l.Hardware) != 6 {
		t.Errorf("%+v", l)
	}
	var addresses, routes []string
	for _, a := range l.Addresses {
		addresses = append(addresses, a.String())
	}
	for _, r := range l.Routes {
		to := r.Destination.String()
		if r.Gateway != (netip.Addr{}) {
			to += " via " + r.Gateway.String()
		}
		routes = append(routes, to)
	}
	slices.Sort(routes)
	if want := []string{"10.9.0.2/24", "fd09::2/64"}; !reflect.DeepEqual(addresses, want) {
		t.Errorf("addresses %q, want %q", addresses, want)
	}
	if want := []string{"0.0.0.0/0 via 10.9.0.1", "10.8.0.0/16 via 10.9.0.9", "10.9.0.0/24", "::/0 via fd09::1", "fd09::/64"}; !reflect.DeepEqual(routes, want) {
		t.Errorf("routes %q, want %q", routes, want)
	}
	socket, err := Take(ns, l)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close() //nolint:errcheck // nothing is written
	if l := device(); len(l.Addresses) > 0 || slices.ContainsFunc(l.Routes, func(r Route) bool { return r.Destination.Addr().Is4() }) {
		t.Errorf("taken, and the kernel still has %+v", l)
	}
}

// TestTables finds the firewall's tables of a namespace.
func TestTables(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root, testenv.Program("iptables-nft"))
	for _, c := range []struct {
		lines []string
		want  []string
	}{
		{nil, nil},
		{[]string{"iptables-nft -A OUTPUT -d 10.0.0.1 -j DROP", "iptables-nft -t nat -A OUTPUT -d 10.0.0.1 -j ACCEPT"}, []string{"filter", "nat"}},
	} {
		got, err := Tables(namespace(t, c.lines...))
		slices.Sort(got)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: tables %q, %v; want %q", c.lines, got, err, c.want)
		}
	}
}
