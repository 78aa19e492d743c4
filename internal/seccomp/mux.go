package seccomp

import "slices"

// The multiplexers of old 32-bit ABIs: socketcall(2) and ipc(2) carry a dozen calls each behind one number, the call
// in the first argument and, for socketcall, the arguments behind a pointer that a filter cannot follow.
//
// As in libseccomp, a rule for socket or semop also covers the multiplexed form. Unlike libseccomp, which then checks
// conditions against the wrong arguments, a conditional rule that opens is not applied there, and one that closes
// is applied whatever the arguments.

var socketcalls = [...]string{"socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv",
	"sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg"} // linux/net.h, from 1

var ipcCalls = [...]struct {
	name string
	call int
}{ // linux/ipc.h
	{"semop", 1}, {"semget", 2}, {"semctl", 3}, {"semtimedop", 4}, {"msgsnd", 11}, {"msgrcv", 12}, {"msgget", 13}, {"msgctl", 14},
	{"shmat", 21}, {"shmdt", 22}, {"shmget", 23}, {"shmctl", 24},
}

// muxed is the multiplexed form of a call: argument 0 & mask == call.
type muxed struct {
	nr   int32 // of socketcall or ipc; -1: none
	call int
	mask uint64
}

// muxOf gives the multiplexed form of name on a.
func muxOf(a *arch, name string) muxed {
	if callNumbers[a.column][socketcallIndex] >= 0 {
		if i := slices.Index(socketcalls[:], name); i >= 0 {
			return muxed{callNumbers[a.column][socketcallIndex], i + 1, 0xffffffff}
		}
	}
	if callNumbers[a.column][ipcIndex] >= 0 {
		for _, c := range ipcCalls {
			if c.name == name {
				return muxed{callNumbers[a.column][ipcIndex], c.call, 0xffff} // the high half is a version
			}
		}
	}
	return muxed{nr: -1}
}
