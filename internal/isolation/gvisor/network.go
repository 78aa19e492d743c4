package gvisor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"brig/internal/netdev"

	"golang.org/x/sys/unix"
)

// links are what gVisor's network has (boot.CreateLinksAndRoutesArgs).
type links struct {
	LoopbackLinks    []link
	FDBasedLinks     []packetLink  `json:",omitempty"`
	Defaultv4Gateway *defaultRoute `json:",omitempty"`
	Defaultv6Gateway *defaultRoute `json:",omitempty"`
}

type link struct {
	Name      string
	Addresses []address
	Routes    []route
}

// packetLink is one whose frames go through a packet socket (boot.FDBasedLink).
type packetLink struct {
	link
	MTU         int
	LinkAddress net.HardwareAddr
	// RXChecksumOffload: what comes from this machine has none yet, and the others' are the device's to look at.
	RXChecksumOffload                 bool
	NumChannels, ProcessorsPerChannel int
}

type address struct {
	Address   string
	PrefixLen int
}

type route struct {
	Destination network
	Gateway     string `json:",omitempty"`
}

type defaultRoute struct {
	Name  string
	Route route
}

// network is a net.IPNet as JSON has it.
type network struct {
	IP   string
	Mask []byte
}

// loopback is the whole network of a sandbox with none: without it the guest would not even have lo.
var loopback = links{LoopbackLinks: []link{{
	Name:      "lo",
	Addresses: []address{{"127.0.0.1", 8}, {"::1", 128}},
	Routes:    []route{routeOf(netdev.Route{Destination: netip.MustParsePrefix("127.0.0.0/8")}), routeOf(netdev.Route{Destination: netip.MustParsePrefix("::1/128")})},
}}}

func routeOf(r netdev.Route) route {
	to := route{Destination: network{r.Destination.Addr().String(), net.CIDRMask(r.Destination.Bits(), r.Destination.Addr().BitLen())}}
	if r.Gateway.IsValid() {
		to.Gateway = r.Gateway.String()
	}
	return to
}

// connect gives the guest the network devices of its sandbox's namespace, which an engine has made there: gVisor's stack takes their
// addresses and routes over, and their frames by a packet socket. kernel is the kernel process.
func connect(ctx context.Context, dir string, kernel int) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", kernel))
	if err != nil {
		return fmt.Errorf("open the sandbox's network namespace: %w", err)
	}
	defer ns.Close() //nolint:errcheck // read only
	devices, err := netdev.Links(ns)
	if err != nil {
		return err
	}
	// The kernel puts tunnels that are down into each new one (net.core.fb_tunnels_only_for_init_net).
	devices = slices.DeleteFunc(devices, func(l netdev.Link) bool { return l.Loopback || !l.Up })
	if err := checkNetwork(ns, kernel, devices); err != nil {
		return err
	}
	all := loopback
	var sockets []*os.File
	defer func() {
		for _, f := range sockets {
			_ = f.Close()
		}
	}()
	for i := range devices {
		all.add(&devices[i])
	}
	for i := range devices { // after the last that can be refused
		f, err := netdev.Take(ns, &devices[i])
		if err != nil {
			return err
		}
		sockets = append(sockets, f)
	}
	return call(ctx, dir, "Network.CreateLinksAndRoutes", all, sockets, nil)
}

func (all *links) add(d *netdev.Link) {
	l := packetLink{
		link: link{Name: d.Name}, MTU: int(d.MTU), LinkAddress: d.Hardware, RXChecksumOffload: true, NumChannels: 1, ProcessorsPerChannel: 1,
	}
	for _, a := range d.Addresses {
		l.Addresses = append(l.Addresses, address{a.Addr().String(), a.Bits()})
	}
	for _, r := range d.Routes {
		if r.Destination.Bits() > 0 || !r.Gateway.IsValid() {
			l.Routes = append(l.Routes, routeOf(r))
			continue
		}
		gateway := &all.Defaultv4Gateway
		if r.Destination.Addr().Is6() {
			gateway = &all.Defaultv6Gateway
		}
		if *gateway == nil { // the kernel lists the best first
			*gateway = &defaultRoute{d.Name, routeOf(r)}
		}
	}
	all.FDBasedLinks = append(all.FDBasedLinks, l)
}

// checkNetwork refuses a network namespace that the guest's own stack would be no part of.
func checkNetwork(ns *os.File, kernel int, devices []netdev.Link) error {
	if err := checkShared(ns, kernel); err != nil {
		return err
	}
	for _, d := range devices {
		if !d.Ethernet {
			return &UnsupportedError{"network", "the device " + d.Name + " is no Ethernet device, and gVisor's stack can take only such"}
		}
	}
	if len(devices) == 0 {
		return nil
	}
	tables, err := netdev.Tables(ns)
	if err != nil {
		return err
	}
	// What a table "nat" sends elsewhere is a service in the namespace, as Docker's names at 127.0.0.11: the guest does not reach it.
	tables = slices.DeleteFunc(tables, func(name string) bool { return name == "nat" })
	if len(tables) > 0 {
		return &UnsupportedError{"network", "its namespace has firewall rules (table " + tables[0] + "), which the frames of gVisor's stack pass by"}
	}
	return nil
}

// checkShared refuses a network namespace that a process has beside the sandbox's: gVisor's stack is the guest's alone, and its
// addresses would be taken away from whoever has them now.
func checkShared(ns *os.File, kernel int) error {
	own, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()))
	if err != nil {
		return err
	}
	inside, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", kernel))
	if err != nil {
		return err
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	// Without rights over the host's network a thread of this process does not come back from the other one (setns(2)).
	itself := fmt.Sprintf("/proc/%d", os.Getpid())
	for _, p := range processes {
		if p == itself {
			continue
		}
		net, err := os.Readlink(p + "/ns/net")
		if err != nil || net != own {
			continue // it may be gone
		}
		pids, err := os.Readlink(p + "/ns/pid")
		if pid, perr := strconv.Atoi(strings.TrimPrefix(p, "/proc/")); err == nil && perr == nil && pids != inside && unix.Kill(pid, 0) == nil {
			name, _ := os.ReadFile(p + "/comm")
			return &UnsupportedError{"network", fmt.Sprintf("process %d (%s) has the same, and the guest's stack can be shared with nobody on the host", pid, shown(strings.TrimSpace(string(name))))}
		}
	}
	return nil
}
