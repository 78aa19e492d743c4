package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// conn is an rtnetlink socket. One request is answered before the next is made.
type conn struct {
	fd  int
	seq uint32
}

func open() (*conn, error) {
	c, err := openTo(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open an rtnetlink socket: %w", err)
	}
	return c, nil
}

func openTo(family int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	return &conn{fd: fd}, err
}

func (c *conn) close() { _ = unix.Close(c.fd) }

var order = binary.NativeEndian

// attribute appends a struct rtattr with its value, padded to four bytes.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = order.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value))) //nolint:gosec // a few bytes
	b = order.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// infoMessage is struct ifinfomsg.
func infoMessage(index int32, flags, change uint32) []byte {
	b := make([]byte, 4, 64)                 // family, padding, type
	b = order.AppendUint32(b, uint32(index)) //nolint:gosec // the bits of a signed field
	b = order.AppendUint32(b, flags)
	return order.AppendUint32(b, change)
}

// request sends one message and hands every message of the answer to each, until the kernel says that it is all.
func (c *conn) request(kind uint16, flags int, body []byte, each func(m *syscall.NetlinkMessage) error) error {
	c.seq++
	b := make([]byte, 0, unix.NLMSG_HDRLEN+len(body))
	b = order.AppendUint32(b, uint32(unix.NLMSG_HDRLEN+len(body))) //nolint:gosec // small
	b = order.AppendUint16(b, kind)
	b = order.AppendUint16(b, uint16(flags|unix.NLM_F_REQUEST)) //nolint:gosec // flags
	b = order.AppendUint32(b, c.seq)
	b = append(order.AppendUint32(b, 0), body...) // port 0: the kernel's to give
	if err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 1<<16) // more than the kernel puts into one answer
	for {
		n, from, err := unix.Recvfrom(c.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if k, ok := from.(*unix.SockaddrNetlink); !ok || k.Pid != 0 {
			continue // not the kernel
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
		}
		for i := range messages {
			m := &messages[i]
			if m.Header.Seq != c.seq {
				continue
			}
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				return answer(m.Data)
			}
			if err := each(m); err != nil {
				return err
			}
		}
	}
}

// answer is the errno of a struct nlmsgerr, negative, or nil for an acknowledgement.
func answer(data []byte) error {
	if len(data) < 4 {
		return unix.EBADMSG
	}
	if code := int32(order.Uint32(data)); code != 0 { //nolint:gosec // the bits of a signed field
		return unix.Errno(-code)
	}
	return nil
}

func nothing(*syscall.NetlinkMessage) error { return nil }

// links gives the devices of the namespace with their indices.
func (c *conn) links() (map[string]int32, error) {
	list := map[string]int32{}
	err := c.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, infoMessage(0, 0, 0), func(m *syscall.NetlinkMessage) error {
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil || len(m.Data) < unix.SizeofIfInfomsg {
			return unix.EBADMSG
		}
		for _, a := range attributes {
			if a.Attr.Type == unix.IFLA_IFNAME && len(a.Value) > 0 {
				list[string(a.Value[:len(a.Value)-1])] = int32(order.Uint32(m.Data[4:])) //nolint:gosec // the bits of a signed field
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the network devices: %w", err)
	}
	return list, nil
}

// address is an address of a device: struct ifaddrmsg without its index, and the attributes that make it up.
type address struct {
	family, prefix byte
	attributes     []byte
}

// flagsAsked are the flags of an address that somebody set; the others are its state (linux/if_addr.h).
const flagsAsked = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN

// addresses gives the addresses of a device that a move has to keep: the permanent ones of global scope, which the kernel
// drops when the device leaves its namespace. Link-local ones come anew.
func (c *conn) addresses(index int32) ([]address, error) {
	var list []address
	err := c.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg), func(m *syscall.NetlinkMessage) error {
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil || len(m.Data) < unix.SizeofIfAddrmsg {
			return unix.EBADMSG
		}
		d := m.Data
		flags := uint32(d[2])
		for _, a := range attributes {
			if a.Attr.Type == unix.IFA_FLAGS && len(a.Value) == 4 {
				flags = order.Uint32(a.Value) // all of them; the field above has room for eight
			}
		}
		if order.Uint32(d[4:]) != uint32(index) || d[3] != unix.RT_SCOPE_UNIVERSE || flags&unix.IFA_F_PERMANENT == 0 { //nolint:gosec // bits
			return nil
		}
		keep := address{family: d[0], prefix: d[1]}
		for _, a := range attributes {
			switch a.Attr.Type {
			case unix.IFA_ADDRESS, unix.IFA_LOCAL, unix.IFA_BROADCAST, unix.IFA_RT_PRIORITY:
				keep.attributes = attribute(keep.attributes, a.Attr.Type, a.Value)
			}
		}
		keep.attributes = attribute(keep.attributes, unix.IFA_FLAGS, order.AppendUint32(nil, flags&flagsAsked))
		list = append(list, keep)
		return nil
	})
	return list, err
}

func (c *conn) addAddress(index int32, a address) error {
	b := []byte{a.family, a.prefix, 0, unix.RT_SCOPE_UNIVERSE}
	b = order.AppendUint32(b, uint32(index)) //nolint:gosec // the bits of a signed field
	return c.request(unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(b, a.attributes...), nothing)
}

// moveLink moves and renames in one message. The kernel takes the device down for that.
func (c *conn) moveLink(index int32, name string, ns *os.File) error {
	b := attribute(infoMessage(index, 0, 0), unix.IFLA_IFNAME, append([]byte(name), 0))
	b = attribute(b, unix.IFLA_NET_NS_FD, order.AppendUint32(nil, uint32(ns.Fd()))) //nolint:gosec // a file descriptor
	return c.request(unix.RTM_NEWLINK, unix.NLM_F_ACK, b, nothing)
}

func (c *conn) setUp(index int32) error {
	return c.request(unix.RTM_NEWLINK, unix.NLM_F_ACK, infoMessage(index, unix.IFF_UP, unix.IFF_UP), nothing)
}
