package main

import (
	"encoding/binary"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

var socketAttacks = []attack{
	{"socket", func(args []string) verdict {
		var n [3]int
		for i := range n {
			v, err := strconv.ParseInt(argument(args, i, "0"), 0, 32)
			if err != nil {
				return broken("%v", err)
			}
			n[i] = int(v)
		}
		fd, err := unix.Socket(n[0], n[1], n[2])
		if err == nil {
			_ = unix.Close(fd)
		}
		if err == unix.EINVAL { //nolint:errorlint // bare: there is no such protocol
			err = unix.EPROTONOSUPPORT
		}
		return judge("socket "+argument(args, 3, argument(args, 0, "")), err)
	}},
	{"socketpair", func(args []string) verdict {
		family, err := strconv.Atoi(argument(args, 0, ""))
		if err != nil {
			return broken("%v", err)
		}
		// "Not supported" comes from sockets that were made (net/socket.c, __sys_socketpair).
		_, err = unix.Socketpair(family, unix.SOCK_STREAM, 0)
		return reached("a pair of family "+args[0], err)
	}},
	{"link-down", linkDown},
	{"abstract", func(args []string) verdict {
		conn, err := net.DialTimeout("unix", "@"+argument(args, 0, ""), 5*time.Second)
		if err != nil {
			return held("%v", err)
		}
		_ = conn.Close()
		return escaped("connected to an abstract socket of the host")
	}},
	{"abstract-datagram", func(args []string) verdict {
		// A socket of a pair that was never made by socket(2): unlike one of a stream it still sends to any name.
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return judge("pair of datagram sockets", err)
		}
		return judge("datagram to an abstract socket of the host", unix.Sendto(pair[0], []byte("in"), unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: "@" + argument(args, 0, "")}))
	}},
	{"tcp", func(args []string) verdict {
		conn, err := net.DialTimeout("tcp", argument(args, 0, ""), 5*time.Second)
		if err != nil {
			return held("%v", err)
		}
		_ = conn.Close()
		return escaped("connected to %s of the host", argument(args, 0, ""))
	}},
	{"listen", func(args []string) verdict {
		l, err := net.Listen("tcp", argument(args, 0, ""))
		if err != nil {
			return held("%v", err)
		}
		_ = l.Close()
		return escaped("listening at %s of the host", argument(args, 0, ""))
	}},
}

// linkDown takes the loopback down by netlink, which only an administrator of the network may.
func linkDown([]string) verdict {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return judge("netlink", err)
	}
	m := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(m, uint32(len(m))) //nolint:gosec // 32 bytes
	binary.NativeEndian.PutUint16(m[4:], unix.RTM_NEWLINK)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	info := m[unix.SizeofNlMsghdr:]
	binary.NativeEndian.PutUint32(info[4:], 1) // lo
	binary.NativeEndian.PutUint32(info[12:], unix.IFF_UP)
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return judge("netlink request", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || n < unix.SizeofNlMsghdr+4 {
		return broken("netlink answered %d bytes, %v", n, err)
	}
	code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])) //nolint:gosec // an errno
	if code == 0 {
		return escaped("took the loopback down")
	}
	return judge("take the loopback down", unix.Errno(-code)) //nolint:gosec // an errno
}
