// Command absent runs a program on a kernel that seems to lack something: `absent MODE PROGRAM [ARG...]`. A seccomp filter around
// the program, its children and what they execute answers as an older kernel does, so what is tested is the program that
// is shipped, in the parent and in the child that runs a launch program.
//
// Some of what newer kernels have stands in memory that a filter cannot read (the flags of clone3, the type of a file system). For
// that a second process hears each such call and answers it; it ends with the last process under the filter.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "-hear":
		err = hear(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "-part":
		err = part(os.Args[2])
	case len(os.Args) < 3:
		err = errors.New("usage: absent MODE PROGRAM [ARG...]")
	default:
		err = run(os.Args[1], os.Args[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "absent:", err)
		os.Exit(125)
	}
}

// rule is a system call and how it is answered.
type rule struct {
	nr    uint32
	errno unix.Errno
	// With arg, only when the lower half of that argument has, by mask, the value.
	arg         int // 1 to 6; 0 for always
	mask, value uint32
	ask         bool // have the second process decide
}

// modes are what may be absent.
var modes = map[string][]rule{
	"openat2":           gone(unix.SYS_OPENAT2),
	"mount_setattr":     gone(unix.SYS_MOUNT_SETATTR),
	"close_range":       gone(unix.SYS_CLOSE_RANGE),
	"clone3":            gone(unix.SYS_CLONE3),
	"open_tree":         gone(unix.SYS_OPEN_TREE),
	"move_mount":        gone(unix.SYS_MOVE_MOUNT),
	"fsopen":            gone(unix.SYS_FSOPEN, unix.SYS_FSPICK),
	"fsmount":           gone(unix.SYS_FSMOUNT, unix.SYS_FSCONFIG),
	"pidfd_open":        gone(unix.SYS_PIDFD_OPEN),
	"pidfd_send_signal": gone(unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_PIDFD_GETFD),
	"landlock":          gone(unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_LANDLOCK_ADD_RULE, unix.SYS_LANDLOCK_RESTRICT_SELF),
	"memfd":             gone(unix.SYS_MEMFD_CREATE),
	"mempolicy":         gone(unix.SYS_SET_MEMPOLICY),
	"sched_setattr":     gone(unix.SYS_SCHED_SETATTR),
	// Linux before 5.0: no listeners.
	"seccomp_notify": {
		{nr: unix.SYS_SECCOMP, errno: unix.EINVAL, arg: 1, mask: ^uint32(0), value: unix.SECCOMP_GET_NOTIF_SIZES},
		{nr: unix.SYS_SECCOMP, errno: unix.EINVAL, arg: 2, mask: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, value: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER},
	},
	// Linux before 5.4: no waiting by descriptor.
	"waitid_pidfd": {{nr: unix.SYS_WAITID, errno: unix.EINVAL, arg: 1, mask: ^uint32(0), value: unix.P_PIDFD}},
	// Linux before 5.11.
	"close_range_cloexec": {{nr: unix.SYS_CLOSE_RANGE, errno: unix.EINVAL, arg: 3, mask: unix.CLOSE_RANGE_CLOEXEC, value: unix.CLOSE_RANGE_CLOEXEC}},
	// Linux before 5.7, 5.12, without overlayfs, before 5.19.
	"clone3_cgroup": {{nr: unix.SYS_CLONE3, ask: true}},
	"idmap":         {{nr: unix.SYS_MOUNT_SETATTR, ask: true}},
	"overlay":       {{nr: unix.SYS_FSOPEN, ask: true}},
	"landlock_abi1": {{nr: unix.SYS_LANDLOCK_CREATE_RULESET, ask: true}},
}

func gone(calls ...uint32) (list []rule) {
	for _, nr := range calls {
		list = append(list, rule{nr: nr, errno: unix.ENOSYS})
	}
	return list
}

// run puts this thread under the filter and executes the program in its place.
func run(mode string, program []string) error {
	rules, ok := modes[mode]
	if !ok {
		return fmt.Errorf("no mode %q", mode)
	}
	path, err := exec.LookPath(program[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	asks := slices.ContainsFunc(rules, func(r rule) bool { return r.ask })
	var ears *os.File
	if asks {
		if ears, err = startHearer(mode); err != nil {
			return err
		}
	}
	listener, err := install(compile(rules), asks)
	if err != nil {
		return err
	}
	if asks {
		if err := give(ears, listener); err != nil {
			return err
		}
	}
	return fmt.Errorf("execute %s: %w", path, unix.Exec(path, program, os.Environ()))
}

// compile gives a filter that compares the number with each rule's in turn. It looks at the machine's own calls only: Brig has
// no others.
func compile(rules []rule) []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		and    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		ifIs   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K
	)
	var f []unix.SockFilter
	for _, r := range rules {
		action := uint32(unix.SECCOMP_RET_ERRNO) | uint32(r.errno)
		if r.ask {
			action = unix.SECCOMP_RET_USER_NOTIF
		}
		f = append(f, unix.SockFilter{Code: load}) // struct seccomp_data begins with the number
		if r.arg == 0 {
			f = append(f, unix.SockFilter{Code: ifIs, K: r.nr, Jf: 1})
		} else {
			f = append(f, unix.SockFilter{Code: ifIs, K: r.nr, Jf: 4},
				unix.SockFilter{Code: load, K: uint32(16 + 8*(r.arg-1))}, //nolint:gosec // 1 to 6; little endian
				unix.SockFilter{Code: and, K: r.mask},
				unix.SockFilter{Code: ifIs, K: r.value, Jf: 1})
		}
		f = append(f, unix.SockFilter{Code: answer, K: action})
	}
	return append(f, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW})
}

func install(filter []unix.SockFilter, listen bool) (listener int, err error) {
	if os.Geteuid() != 0 {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, err
		}
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]} //nolint:gosec // a few
	var flags uintptr
	if listen {
		flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return -1, fmt.Errorf("load the filter: %w", errno)
	}
	return int(fd), nil
}

// startHearer starts the second process, as nobody's child: whoever is under the filter waits for its own children only.
func startHearer(mode string) (ears *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "ears") //nolint:gosec // a file descriptor
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", "-part", mode)
	cmd.Stdin = theirs
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(pair[0]), "mouth"), nil //nolint:gosec // a file descriptor
}

// part starts the second process and leaves it.
func part(mode string) error {
	cmd := exec.Command("/proc/self/exe", "-hear", mode)
	cmd.Stdin, cmd.SysProcAttr = os.Stdin, &unix.SysProcAttr{Setsid: true}
	return cmd.Start()
}

func give(to *os.File, fd int) error {
	if err := unix.Sendmsg(int(to.Fd()), []byte{0}, unix.UnixRights(fd), nil, 0); err != nil { //nolint:gosec // a file descriptor
		return err
	}
	return errors.Join(unix.Close(fd), to.Close())
}

// notification is struct seccomp_notif, response struct seccomp_notif_resp (linux/seccomp.h).
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// hear answers until nobody is under the filter any more.
func hear(mode string) error {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(0, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("no listener: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	for {
		poll := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}} //nolint:gosec // a file descriptor
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if poll[0].Revents&unix.POLLHUP != 0 {
			return nil
		}
		var ask notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&ask))); errno != 0 { //nolint:gosec // a file descriptor
			continue // who asked is gone
		}
		reply := decide(mode, &ask)
		reply.id = ask.id
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&reply))) //nolint:gosec // see above
	}
}

// decide answers as a kernel without the mode's feature.
func decide(mode string, ask *notification) response {
	allow := response{flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	memory := func(address uint64, size int) []byte {
		b := make([]byte, size)
		f, err := os.Open(fmt.Sprintf("/proc/%d/mem", ask.pid))
		if err != nil {
			return b
		}
		defer f.Close()
		_, _ = f.ReadAt(b, int64(address)) //nolint:gosec // an address of user space
		return b
	}
	switch mode {
	case "clone3_cgroup":
		if flags := binary.NativeEndian.Uint64(memory(ask.args[0], 8)); flags&unix.CLONE_INTO_CGROUP != 0 {
			return response{errno: -int32(unix.EINVAL)}
		}
	case "idmap":
		if set := binary.NativeEndian.Uint64(memory(ask.args[3], 8)); set&unix.MOUNT_ATTR_IDMAP != 0 {
			return response{errno: -int32(unix.EINVAL)}
		}
	case "overlay":
		if strings.HasPrefix(string(memory(ask.args[0], 8)), "overlay\x00") {
			return response{errno: -int32(unix.ENODEV)}
		}
	case "landlock_abi1":
		const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
		switch {
		case ask.args[2] == version:
			return response{value: 1}
		case ask.args[1] > 8: // the attributes of the first version have one word
			return response{errno: -int32(unix.E2BIG)}
		}
	}
	return allow
}
