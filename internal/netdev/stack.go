package netdev

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Link is a network device of a namespace that somebody else's network stack is to take over, with all that the kernel's has given it.
type Link struct {
	Name     string
	Index    int32
	Ethernet bool
	Loopback bool
	Up       bool
	MTU      uint32
	Hardware []byte
	// Addresses are those of global scope.
	Addresses []netip.Prefix
	Routes    []Route
}

// Route is a route of the main table.
type Route struct {
	Destination netip.Prefix
	Gateway     netip.Addr // the zero one where the destination is on the link
}

// Links reads the devices of a network namespace.
func Links(ns *os.File) ([]Link, error) {
	c, err := openIn(ns)
	if err != nil {
		return nil, err
	}
	defer c.close()
	list, err := c.devices()
	if err != nil {
		return nil, fmt.Errorf("list the network devices: %w", err)
	}
	if err := c.ownAddresses(list); err != nil {
		return nil, fmt.Errorf("list the addresses of the network devices: %w", err)
	}
	if err := c.routes(list); err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	return list, nil
}

func (c *conn) devices() ([]Link, error) {
	var list []Link
	err := c.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, infoMessage(0, 0, 0), func(m *syscall.NetlinkMessage) error {
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil || len(m.Data) < unix.SizeofIfInfomsg {
			return unix.EBADMSG
		}
		flags := order.Uint32(m.Data[8:])
		l := Link{
			Index: int32(order.Uint32(m.Data[4:])), Ethernet: order.Uint16(m.Data[2:]) == unix.ARPHRD_ETHER, //nolint:gosec // the bits of a signed field
			Up: flags&unix.IFF_UP != 0, Loopback: flags&unix.IFF_LOOPBACK != 0,
		}
		for _, a := range attributes {
			switch {
			case a.Attr.Type == unix.IFLA_IFNAME && len(a.Value) > 0:
				l.Name = string(a.Value[:len(a.Value)-1])
			case a.Attr.Type == unix.IFLA_MTU && len(a.Value) == 4:
				l.MTU = order.Uint32(a.Value)
			case a.Attr.Type == unix.IFLA_ADDRESS:
				l.Hardware = slices.Clone(a.Value)
			}
		}
		list = append(list, l)
		return nil
	})
	return list, err
}

func of(list []Link, index uint32) *Link {
	for i := range list {
		if list[i].Index == int32(index) { //nolint:gosec // the bits of a signed field
			return &list[i]
		}
	}
	return nil
}

func (c *conn) ownAddresses(list []Link) error {
	return c.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg), func(m *syscall.NetlinkMessage) error {
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil || len(m.Data) < unix.SizeofIfAddrmsg {
			return unix.EBADMSG
		}
		l := of(list, order.Uint32(m.Data[4:]))
		if l == nil || m.Data[3] != unix.RT_SCOPE_UNIVERSE {
			return nil
		}
		var own, peer netip.Addr
		for _, a := range attributes {
			switch a.Attr.Type {
			case unix.IFA_LOCAL:
				own, _ = netip.AddrFromSlice(a.Value)
			case unix.IFA_ADDRESS: // the other end's, where there is a local one beside it
				peer, _ = netip.AddrFromSlice(a.Value)
			}
		}
		if !own.IsValid() {
			own = peer
		}
		if own.IsValid() {
			l.Addresses = append(l.Addresses, netip.PrefixFrom(own, int(m.Data[1])))
		}
		return nil
	})
}

// routes reads those of the main table, which is the one that engines and their plugins write to.
func (c *conn) routes(list []Link) error {
	return c.request(unix.RTM_GETROUTE, unix.NLM_F_DUMP, make([]byte, unix.SizeofRtMsg), func(m *syscall.NetlinkMessage) error {
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil || len(m.Data) < unix.SizeofRtMsg {
			return unix.EBADMSG
		}
		d := m.Data
		if d[4] != unix.RT_TABLE_MAIN || d[7] != unix.RTN_UNICAST || order.Uint32(d[8:])&unix.RTM_F_CLONED != 0 {
			return nil
		}
		to := netip.IPv4Unspecified()
		if d[0] == unix.AF_INET6 {
			to = netip.IPv6Unspecified()
		}
		var l *Link
		r := Route{}
		for _, a := range attributes {
			switch a.Attr.Type {
			case unix.RTA_DST:
				to, _ = netip.AddrFromSlice(a.Value)
			case unix.RTA_GATEWAY:
				r.Gateway, _ = netip.AddrFromSlice(a.Value)
			case unix.RTA_OIF:
				l = of(list, order.Uint32(a.Value))
			case unix.RTA_MULTIPATH, unix.RTA_VIA:
				return errors.New("one goes several ways, or by an address of another family")
			}
		}
		if l != nil && !to.IsLinkLocalUnicast() {
			r.Destination = netip.PrefixFrom(to, int(d[1]))
			l.Routes = append(l.Routes, r)
		}
		return nil
	})
}

// Take gives a packet socket of a device, and takes the device's addresses away from the kernel's stack, which would answer beside the
// one that has the socket.
func Take(ns *os.File, l *Link) (*os.File, error) {
	var socket *os.File
	err := within(ns, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a packet socket: %w", err)
		}
		socket = os.NewFile(uintptr(fd), l.Name)
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in the network's order (packet(7))
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(l.Index)})
	})
	if err == nil {
		err = release(ns, l)
	}
	if err != nil {
		if socket != nil {
			_ = socket.Close()
		}
		return nil, fmt.Errorf("take the network device %s: %w", l.Name, err)
	}
	return socket, nil
}

// release removes the addresses of a device, and with them its routes.
func release(ns *os.File, l *Link) error {
	c, err := openIn(ns)
	if err != nil {
		return err
	}
	defer c.close()
	for _, a := range l.Addresses {
		family := byte(unix.AF_INET)
		if a.Addr().Is6() {
			family = unix.AF_INET6
		}
		b := []byte{family, byte(a.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
		b = order.AppendUint32(b, uint32(l.Index)) //nolint:gosec // the bits of a signed field
		b = attribute(b, unix.IFA_LOCAL, a.Addr().AsSlice())
		err := c.request(unix.RTM_DELADDR, unix.NLM_F_ACK, b, nothing)
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) { // it went with another one of its net
			return fmt.Errorf("remove the address %s: %w", a, err)
		}
	}
	return nil
}

// Tables gives the names of the tables of nftables and iptables that a network namespace has.
func Tables(ns *os.File) (names []string, err error) {
	err = within(ns, func() error {
		for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + name)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			names = append(names, strings.Fields(string(text))...)
		}
		c, err := openTo(unix.NETLINK_NETFILTER)
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil
		}
		if err != nil {
			return err
		}
		defer c.close()
		const get = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE
		err = c.request(get, unix.NLM_F_DUMP, make([]byte, 4), func(m *syscall.NetlinkMessage) error { // struct nfgenmsg: of every family
			name, err := tableName(m.Data)
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
			return err
		})
		if errors.Is(err, unix.EINVAL) {
			return nil // nothing of nftables is loaded
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the firewall's tables of the network namespace: %w", err)
	}
	return names, nil
}

// tableName is the attribute NFTA_TABLE_NAME behind a struct nfgenmsg.
func tableName(b []byte) (string, error) {
	const head = 4
	for b = b[min(head, len(b)):]; len(b) >= unix.SizeofRtAttr; {
		n := int(order.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			break
		}
		if order.Uint16(b[2:]) == unix.NFTA_TABLE_NAME {
			return strings.TrimRight(string(b[unix.SizeofRtAttr:n]), "\x00"), nil
		}
		b = b[min((n+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
	return "", unix.EBADMSG
}
