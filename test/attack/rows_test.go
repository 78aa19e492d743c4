package attack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"brig/internal/testenv"

	"golang.org/x/sys/unix"
)

// Flags that open one layer.
var (
	noFilter   = []string{"--security-opt", "seccomp=unconfined"}
	noLandlock = []string{"--security-opt", "landlock=off"}
	// noModule goes with every control: a module may hold what the layer that is shown does.
	noModule = []string{"--security-opt", "apparmor=unconfined", "--security-opt", "label=unconfined"}
	// SYS_RESOURCE is left out: Brig cannot give what it may not have itself.
	hostRoot = []string{
		"--preset", "default", "--security-opt", "seccomp=unconfined", "--security-opt", "landlock=off", "--userns", "host", "--cap-add", "ALL",
		"--cap-drop", "SYS_RESOURCE",
	}
	ownKernel = "the kernel has it not built in"
)

func rows() []row {
	var list []row
	list = append(list, namespaceRows()...)
	list = append(list, mountRows()...)
	list = append(list, doorRows()...)
	list = append(list, clockRows()...)
	list = append(list, oldRows()...)
	list = append(list, processRows()...)
	list = append(list, socketRows()...)
	list = append(list, procRows()...)
	list = append(list, fileRows()...)
	list = append(list, roomRows()...)
	list = append(list, identityRows()...)
	list = append(list, oomScoreRow())
	list = append(list, greedRows()...)
	list = append(list, hostNetworkRows()...)
	return list
}

func namespaceRows() []row {
	var list []row
	for _, kind := range []string{"user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time"} {
		for _, call := range []string{"unshare", "clone", "clone3", "setns"} {
			r := row{name: call + "-" + kind, attack: []string{call, kind}, control: host}
			if call == "setns" && kind == "user" {
				r.control = impossible("a process cannot join the user namespace that it is in")
			}
			list = append(list, r)
		}
	}
	return list
}

func mountRows() []row {
	return []row{
		{name: "mount-tmpfs", attack: []string{"mount", "tmpfs"}, control: apart},
		{name: "mount-proc", attack: []string{"mount", "proc"}, control: apart},
		{name: "mount-sysfs", attack: []string{"mount", "sysfs"}, control: apart},
		{name: "mount-bind", attack: []string{"mount-bind"}, control: apart},
		{name: "remount-writable", attack: []string{"remount"}, control: apart},
		{name: "propagation", attack: []string{"propagation"}, control: apart},
		{name: "umount-proc", attack: []string{"umount", "/proc"}, control: apart},
		{name: "umount-mask", attack: []string{"umount", "/proc/sys"}, control: opened(hostRoot...)},
		{name: "fsopen", attack: []string{"fsopen"}, control: apart},
		{name: "fspick", attack: []string{"fspick"}, control: apart},
		{name: "open-tree", attack: []string{"open-tree"}, control: apart},
		{name: "mount-setattr", attack: []string{"mount-setattr"}, control: apart},
		{name: "move-mount", attack: []string{"move-mount"}, control: apart},
		{name: "pivot-root", attack: []string{"pivot-root"}, control: apart},
		{name: "chroot", attack: []string{"chroot"}, control: host, granted: compat("CAP_SYS_CHROOT is among Docker's; it leads no further out (row breakout)")},
		{name: "breakout", attack: []string{"breakout", "{canary}"}, control: host},
		{name: "CVE-2022-0492-cgroup", attack: []string{"cgroup", "memory"}, control: apart},
		{name: "open-by-handle", attack: []string{"open-by-handle"}, control: host},
	}
}

func doorRows() []row {
	list := []row{
		{name: "io-uring", attack: []string{"io-uring"}, control: opened(noFilter...)},
		{name: "bpf-map", attack: []string{"bpf-map"}, control: host},
		{name: "bpf-prog", attack: []string{"bpf-prog"}, control: host},
		{name: "perf", attack: []string{"perf"}, control: host},
		{name: "userfaultfd", attack: []string{"userfaultfd"}, control: opened(noFilter...)},
		{name: "add-key", attack: []string{"add-key"}, control: opened(noFilter...)},
		{name: "request-key", attack: []string{"request-key"}, control: opened(noFilter...)},
		{name: "keyctl", attack: []string{"keyctl"}, control: opened(noFilter...)},
		{name: "kexec", attack: []string{"kexec"}, control: impossible(ownKernel + " (CONFIG_KEXEC)")},
		{name: "personality", attack: []string{"personality"}, control: opened(noFilter...)},
		{name: "personality-exec", attack: []string{"personality-read-implies-exec"}, control: opened(noFilter...)},
		{name: "syslog", attack: []string{"syslog"}, control: host},
		{name: "reboot", attack: []string{"reboot"}, control: host},
		{name: "swapon", attack: []string{"swapon"}, control: host},
		{name: "swapoff", attack: []string{"swapoff"}, control: host},
		{name: "acct", attack: []string{"acct"}, control: host},
		{name: "quotactl", attack: []string{"quotactl"}, control: host},
		{name: "vhangup", attack: []string{"vhangup"}, control: host},
		{name: "fanotify", attack: []string{"fanotify"}, control: opened(noFilter...)},
		{name: "memfd-secret", attack: []string{"memfd-secret"}, control: opened(noFilter...), granted: compat("Docker allows it; the pages are counted and locked like others")},
		{name: "migrate-pages", attack: []string{"migrate-pages"}, control: opened(noFilter...)},
		{name: "realtime", attack: []string{"realtime"}, control: host},
		{name: "nice", attack: []string{"nice"}, control: host},
		{name: "ioprio", attack: []string{"ioprio"}, control: host},
		{name: "sethostname", attack: []string{"sethostname"}, control: apart},
		{name: "setdomainname", attack: []string{"setdomainname"}, control: apart},
	}
	for _, call := range []string{"init-module", "finit-module", "delete-module"} {
		list = append(list, row{name: call, attack: []string{call}, control: impossible(ownKernel + " (CONFIG_MODULES)")})
	}
	return list
}

func clockRows() []row {
	return []row{
		{name: "clock-settime", attack: []string{"clock-settime"}, control: host},
		{name: "settimeofday", attack: []string{"settimeofday"}, control: host},
		{name: "adjtimex", attack: []string{"adjtimex"}, control: host},
		{name: "terminal-TIOCLINUX", attack: []string{"tioclinux"}, control: host},
		{name: "terminal-TIOCLINUX-given", attack: []string{"tioclinux"}, flags: []string{"--device", "/dev/tty1"},
			control: opened(hostRoot...), granted: nil},
	}
}

// oldRows enter the kernel by its old gates.
func oldRows() []row {
	if bench.old == "" {
		return nil
	}
	thirtyTwo := compat("Docker's profile has the 32-bit architecture")
	list := []row{
		{name: "modify-ldt", attack: []string{"modify-ldt"}, control: opened(noFilter...), granted: compat("Docker allows it")},
		{name: "int80-getpid", attack: []string{"int80-getpid"}, control: opened(noFilter...), granted: thirtyTwo},
		{name: "int80-keyctl", attack: []string{"int80-keyctl"}, control: opened(noFilter...)},
		{name: "int80-mount", attack: []string{"int80-mount"}, control: host},
		{name: "CVE-2026-31431-int80-vsock", attack: []string{"int80-socketcall", "40"}, control: host},
		{name: "CVE-2026-31431-int80-alg", attack: []string{"int80-socketcall", "38"}, control: impossible(ownKernel + " (CONFIG_CRYPTO_USER_API)")},
	}
	for _, call := range []string{"getpid", "ptrace", "keyctl"} {
		list = append(list, row{name: "x32-" + call, attack: []string{"x32-" + call}, control: impossible(ownKernel + " (CONFIG_X86_X32_ABI)")})
	}
	return list
}

// processRows attack a process of the host's.
func processRows() []row {
	list := []row{
		{name: "ptrace-child", attack: []string{"ptrace-child"}, control: opened(noFilter...), granted: compat("Docker allows it; a process traces its own kind, in its own pid namespace")},
		{name: "signal-host", attack: []string{"signal", "{victim}"}, control: host},
	}
	for _, name := range []string{"ptrace", "vm-read", "kcmp", "pidfd-open", "pidfd-getfd", "priority-of", "affinity-of", "rlimit-of", "see", "pry"} {
		list = append(list, row{name: name + "-host", attack: []string{name, "{victim}"}, control: host})
	}
	return list
}

func socketRows() []row {
	socket := func(name string, family, kind, protocol int) row {
		return row{name: "socket-" + name, attack: []string{"socket", strconv.Itoa(family), strconv.Itoa(kind), strconv.Itoa(protocol), name}, control: host}
	}
	own := compat("CAP_NET_RAW is among Docker's; the network is the sandbox's own")
	netlink := compat("Docker allows every family but VSOCK; what changes a network needs CAP_NET_ADMIN in it")
	with := func(r row, granted map[string]string) row { r.granted = granted; return r }
	absent := func(r row) row { r.control = impossible(ownKernel); return r }
	list := []row{
		with(socket("raw", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), own),
		with(socket("raw-ip", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW), own),
		with(socket("raw6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6), own),
		with(socket("packet", unix.AF_PACKET, unix.SOCK_RAW, 0x300), own),
		{name: "socketpair-vsock", attack: []string{"socketpair", "40"}, control: host, granted: compat("a pair is never handed out; Docker allows the call")},
		{name: "socketpair-packet", attack: []string{"socketpair", "17"}, control: host, granted: compat("a pair is never handed out; Docker allows the call")},
		socket("vsock", unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		absent(socket("CVE-2026-31431-alg", unix.AF_ALG, unix.SOCK_SEQPACKET, 0)),
		with(socket("netlink-audit", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT), netlink),
		with(socket("netlink-netfilter", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER), netlink),
		with(socket("netlink-generic", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC), netlink),
		with(socket("netlink-uevent", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT), netlink),
		with(socket("netlink-diag", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG), netlink),
		with(socket("netlink-xfrm", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_XFRM), netlink),
		with(socket("xdp", unix.AF_XDP, unix.SOCK_RAW, 0), own),
		{name: "netlink-link-down", attack: []string{"link-down"}, control: apart},
	}
	for name, family := range map[string]int{
		"bluetooth": unix.AF_BLUETOOTH, "can": unix.AF_CAN, "rds": unix.AF_RDS, "tipc": unix.AF_TIPC, "key": unix.AF_KEY, "ax25": unix.AF_AX25,
		"kcm": unix.AF_KCM, "qipcrtr": unix.AF_QIPCRTR, "smc": unix.AF_SMC, "nfc": unix.AF_NFC, "phonet": unix.AF_PHONET,
	} {
		list = append(list, absent(socket(name, family, unix.SOCK_DGRAM, 0)))
	}
	return list
}

// procRows read and write what the kernel shows as files.
func procRows() []row {
	var list []row
	for _, path := range []string{
		"/proc/kallsyms", "/proc/kmsg", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/interrupts", "/proc/vmallocinfo",
		"/proc/schedstat", "/proc/kpagecount", "/proc/kpageflags", "/sys/kernel/notes",
	} {
		if _, err := os.Stat(path); err == nil && path != "/sys/kernel/notes" {
			list = append(list, row{name: "read-" + strings.TrimPrefix(path, "/proc/"), attack: []string{"read", path}, control: host})
		}
	}
	for _, path := range []string{"/proc/kcore", "/dev/mem", "/dev/port"} {
		list = append(list, row{name: "read-" + path[1:], attack: []string{"read", path}, control: impossible(ownKernel)})
	}
	for _, path := range []string{
		"kernel/core_pattern", "kernel/modprobe", "kernel/hotplug", "kernel/panic_on_oops", "kernel/randomize_va_space", "kernel/ns_last_pid",
		"vm/overcommit_memory", "fs/protected_symlinks", "user/max_user_namespaces", "net/ipv4/ip_forward", "kernel/hostname", "kernel/shmmax",
	} {
		if _, err := os.Stat("/proc/sys/" + path); err == nil {
			r := row{name: "sysctl-" + path, attack: []string{"rewrite", "/proc/sys/" + path}, control: host}
			if strings.HasPrefix(path, "user/") {
				r.control = raiseLimits() // these are limits of their own (user_namespaces(7))
			}
			list = append(list, r)
		}
	}
	for _, path := range []string{"/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/power/state", "/sys/block/vda/queue/nr_requests"} {
		if _, err := os.Stat(path); err == nil {
			list = append(list, row{name: "write-" + path[1:], attack: []string{"open-write", path}, control: host})
		}
	}
	list = append(list,
		row{name: "sysrq", attack: []string{"open-write", "/proc/sysrq-trigger"}, control: impossible(ownKernel + " (CONFIG_MAGIC_SYSRQ)")},
		row{name: "binfmt-misc", attack: []string{"mount", "binfmt_misc"}, control: apart},
	)
	for _, path := range []string{"/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing", "/sys/firmware", "/sys/module"} {
		if entries, err := os.ReadDir(path); err == nil && len(entries) > 0 {
			list = append(list, row{name: "list-" + path[1:], attack: []string{"list", path}, control: host})
		}
	}
	return list
}

func fileRows() []row {
	writable := []string{"/", "/tmp", "/run", "/root", "/dev/shm", "/dev/mqueue", "/dev/pts"}
	list := []row{
		{name: "write-anywhere", attack: append([]string{"walk"}, writable...), control: hostArgs("walk", "{rootfs}")},
		// Landlock alone stands between the program and a root that can be written.
		{name: "landlock-strict-root", attack: []string{"create", "/var/lib/attack"}, flags: []string{"--read-only=false", "--security-opt", "landlock=strict", "--allow-missing=landlock-truncate", "--tmpfs", "/var/lib"},
			control: opened(noLandlock...), only: "rootfs"},
		{name: "mknod-char", attack: []string{"mknod", "/tmp", "c"}, control: hostArgs("mknod", ".", "c")},
		{name: "mknod-block", attack: []string{"mknod", "/tmp", "b"}, control: hostArgs("mknod", ".", "b")},
		{name: "mknod-char-in-volume", attack: []string{"mknod", "/data", "c"}, flags: []string{"-v", "{dir}:/data", "--allow-missing=landlock-truncate"}, only: "rootfs", control: hostArgs("mknod", ".", "c")},
		{name: "mknod-block-in-volume", attack: []string{"mknod", "/data", "b"}, flags: []string{"-v", "{dir}:/data", "--allow-missing=landlock-truncate"}, only: "rootfs", control: hostArgs("mknod", ".", "b")},
		{name: "device-kmsg", attack: []string{"device", "/dev/kmsg"}, control: host},
		{name: "device-disk", attack: []string{"device", disk()}, control: host},
		{name: "device-kvm", attack: []string{"device", "/dev/kvm"}, control: host},
		{name: "device-fuse", attack: []string{"device", "/dev/fuse"}, control: host},
		{name: "device-loop", attack: []string{"device", "/dev/loop-control"}, control: host},
		{name: "devices", attack: append([]string{"devices"}, ordinaryDevices...), control: hostArgs(append([]string{"devices"}, ordinaryDevices...)...)},
		{name: "plant-setuid", attack: []string{"plant", "/tmp"}, control: hostArgs("plant", "."), granted: compat("CAP_FSETID and CAP_SETFCAP are among Docker's")},
		{name: "plant-setuid-in-volume", attack: []string{"plant", "/data"}, flags: []string{"-v", "{dir}:/data", "--allow-missing=landlock-truncate"}, only: "rootfs", control: opened("--cap-add", "FSETID"),
			granted: compat("CAP_FSETID and CAP_SETFCAP are among Docker's; as with Docker, a volume of root's then holds root's file")},
	}
	return list
}

// disk is a block device that root can open here.
func disk() string {
	for _, pattern := range []string{"/dev/vd?", "/dev/sd?", "/dev/nvme?n?", "/dev/zram?", "/dev/loop?"} {
		found, _ := filepath.Glob(pattern)
		for _, name := range found {
			if f, err := os.Open(name); err == nil {
				_ = f.Close()
				return name
			}
		}
	}
	return "/dev/vda"
}

// ordinaryDevices are those that every sandbox has.
var ordinaryDevices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts/ptmx"}

// roomRows fill what is in RAM. The control is the same place with more room.
func roomRows() []row {
	var list []row
	for _, place := range []struct {
		dir   string
		mib   int
		files int
	}{{"/tmp", 256, 65536}, {"/run", 16, 4096}, {"/dev/shm", 64, 4096}, {"/dev", 1, 512}} {
		mib, files := strconv.Itoa(place.mib), strconv.Itoa(place.files)
		room := opened("--tmpfs", "/tmp:size=512m,nr_inodes=200000")
		bytes, inodes := room, room
		bytes.args, inodes.args = []string{"fill", "/tmp", mib}, []string{"inodes", "/tmp", files}
		list = append(list,
			row{name: "fill" + place.dir, attack: []string{"fill", place.dir, mib}, control: bytes},
			row{name: "inodes" + place.dir, attack: []string{"inodes", place.dir, files}, control: inodes},
		)
	}
	return list
}

// identityRows ask what a program is and holds.
func identityRows() []row {
	ambient := control{prepare: func(c *exec.Cmd) { c.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_RAW} }}
	docker := compat("Docker's capabilities, in a user namespace of its own")
	return []row{
		{name: "caps", attack: []string{"caps"}, control: host, granted: docker},
		{name: "CVE-2022-29162-inheritable", attack: []string{"caps", "CapInh", "CapAmb"}, control: ambient},
		{name: "CVE-2022-29162-as-user", attack: []string{"caps", "CapInh", "CapAmb"}, flags: []string{"-u", "1000"}, control: ambient},
		{name: "regain", attack: []string{"regain"}, control: host},
		{name: "setuid-root", attack: []string{"setuid", "/attack-setuid"}, flags: []string{"-u", "1000"}, only: "rootfs",
			control: control{user: 1000, args: []string{"setuid", "{rootfs}/attack-setuid"}}},
		{name: "file-capability", attack: []string{"setuid", "/attack-capable"}, flags: []string{"-u", "1000"}, only: "rootfs",
			control: control{user: 1000, args: []string{"setuid", "{rootfs}/attack-capable"}}},
		{name: "no-new-privs", attack: []string{"keep-privileges"}, control: host},
		{name: "memfd-sheds-layers", attack: []string{"memfd"}, control: host},
		{name: "raise-rlimits", attack: []string{"rlimits"}, control: raiseLimits()},
		{name: "environment", attack: []string{"environ", "BRIG_TEST_SECRET"}, control: host},
		{name: "environment-init", attack: []string{"environ", "BRIG_TEST_SECRET"}, flags: []string{"--init"}, control: host},
		// The control looks for itself: whether Brig runs somewhere at that moment is another test's matter.
		{name: "own-exe", attack: []string{"own-exe", "{brig}"}, control: hostArgs("own-exe", "{attacker}")},
		{name: "own-exe-init", attack: []string{"own-exe", "{brig}"}, flags: []string{"--init"}, control: hostArgs("own-exe", "{attacker}")},
		{name: "pry-init", attack: []string{"pry", "1"}, flags: []string{"--init"}, control: hostArgs("pry", "{victim}")},
		{name: "CVE-2024-21626-cwd", attack: []string{"cwd", "{canary}"}, control: control{
			args: []string{"cwd", "{canary}"},
			// chroot(2) alone leaves the working directory outside.
			prepare: func(c *exec.Cmd) { c.SysProcAttr.Chroot, c.Path, c.Dir = bench.rootfs, "/attack", "" },
		}},
	}
}

// oomScoreRow makes itself the last to be killed when memory runs out. The kernel keeps a floor under the score only for
// one who had CAP_SYS_RESOURCE when it was set (proc_pid_oom_score_adj(5)).
func oomScoreRow() row {
	r := row{name: "oom-score", attack: []string{"oom-score"}, control: raiseLimits()}
	if r.control.impossible != "" && testenv.Isolation() == "native" {
		why := "Brig has no CAP_SYS_RESOURCE here, so the program may go back to the caller's score"
		r.granted = map[string]string{"default": why, "compat": why} // strict's Landlock closes the file
	}
	return r
}

// raiseLimits can be shown only where root may raise limits.
func raiseLimits() control {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		var caps uint64
		if n, _ := fmt.Sscanf(line, "CapEff: %x", &caps); n == 1 && caps&(1<<unix.CAP_SYS_RESOURCE) == 0 {
			return impossible("root has no CAP_SYS_RESOURCE here")
		}
	}
	return host
}

// greedRows take more than the limits give. The control has a higher limit.
func greedRows() []row {
	list := []row{
		{name: "fork-bomb", attack: []string{"fork-bomb", "200"}, flags: []string{"--pids-limit", "64"}, control: opened("--pids-limit", "1024")},
		{name: "fork-bomb-default-limit", attack: []string{"fork-bomb", "600"}, control: opened("--pids-limit", "1024")},
	}
	for kind, mib := range map[string]int{"anonymous": 128, "memfd": 128, "shm": 128, "files": 128, "sockets": 48, "pipes": 48} {
		list = append(list, row{name: "memory-" + kind, attack: []string{"hog", kind, strconv.Itoa(mib)}, flags: []string{"-m", "32m"}, control: opened("-m", "1g")})
	}
	return list
}

// hostNetworkRows reach for the host's sockets.
func hostNetworkRows() []row {
	shared := []string{"--network", "host"}
	return []row{
		{name: "tcp-host", attack: []string{"tcp", "{tcp}"}, control: opened(shared...)},
		{name: "abstract-host", attack: []string{"abstract", "{abstract}"}, control: opened(append(noLandlock, shared...)...)},
		{name: "abstract-datagram-host", attack: []string{"abstract-datagram", "{abstract}"}, flags: shared, control: opened(noLandlock...)},
		{name: "CVE-2020-15257-abstract", attack: []string{"abstract", "{abstract}"}, flags: shared, control: opened(noLandlock...)},
		{name: "landlock-tcp-connect", attack: []string{"tcp", "{tcp}"}, flags: append([]string{"--tcp-connect", "1"}, shared...), control: opened("--tcp-connect", "{port}"), abi: 4},
	}
}
