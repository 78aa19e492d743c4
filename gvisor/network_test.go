package main

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/boot"
)

// network is a network namespace with a veth pair: the test's end has 10.9.0.1, and the other no address but a packet socket.
type network struct {
	listener net.Listener
	packets  *os.File
	mac      net.HardwareAddr
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	type result struct {
		n   *network
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the namespace with its files
		n, err := enterNetwork()
		done <- result{n, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.n.listener.Close() })
	return r.n
}

func enterNetwork() (*network, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	for _, line := range []string{
		"link add here type veth peer name there", "addr add 10.9.0.1/24 dev here", "link set here up", "link set there up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return nil, &net.OpError{Op: "ip " + line + ": " + string(out), Err: err}
		}
	}
	there, err := net.InterfaceByName("there")
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: there.Index}); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "10.9.0.1:80")
	if err != nil {
		return nil, err
	}
	return &network{listener: l, packets: os.NewFile(uintptr(fd), "packets"), mac: there.HardwareAddr}, nil
}

// TestNetwork gives a guest a loopback and a link to the world, on gVisor's own network stack.
func TestNetwork(t *testing.T) {
	n := newNetwork(t)
	defer n.packets.Close()
	k := newKernel(t, shell(`
		ip addr
		echo inside | nc -l -p 7 & until nc 127.0.0.1 7 </dev/null 2>/dev/null; do :; done
		nc 10.9.0.1 80 </dev/null`))
	k.root = image(t, guestRoot(t))
	k.boot()
	_, subnet, _ := net.ParseCIDR("10.9.0.0/24")
	args := &boot.CreateLinksAndRoutesArgs{
		LoopbackLinks: []boot.LoopbackLink{boot.DefaultLoopbackLink},
		FDBasedLinks: []boot.FDBasedLink{{
			Name: "eth0", MTU: 1500, Addresses: []boot.IPWithPrefix{{Address: net.ParseIP("10.9.0.2").To4(), PrefixLen: 24}},
			Routes: []boot.Route{{Destination: *subnet}}, LinkAddress: n.mac, NumChannels: 1, ProcessorsPerChannel: 1,
			TXChecksumOffload: false, RXChecksumOffload: true,
		}},
		Defaultv4Gateway: boot.DefaultRoute{
			Name: "eth0", Route: boot.Route{Destination: net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Gateway: net.ParseIP("10.9.0.1").To4()},
		},
	}
	if err := k.call("Network.CreateLinksAndRoutes", args, nil, n.packets); err != nil {
		t.Fatal(err)
	}
	if err := k.call("containerManager.StartRoot", k.job.ID, nil); err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := n.listener.Accept(); err == nil {
			_, _ = c.Write([]byte("from " + c.RemoteAddr().(*net.TCPAddr).IP.String() + "\n"))
			_ = c.Close()
		}
	}()
	end, out := k.end()
	for _, want := range []string{"inside\n", "from 10.9.0.2\n", "eth0"} {
		if !strings.Contains(out, want) {
			t.Errorf("the guest did not say %q, and ended with %+v: %s", want, end, out)
		}
	}
}
