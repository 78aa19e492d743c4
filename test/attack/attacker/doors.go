package main

import (
	"encoding/binary"
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// doorAttacks knock at the wide and the old doors of the kernel.
var doorAttacks = []attack{
	{"io-uring", func([]string) verdict {
		return try("io_uring_setup", unix.SYS_IO_URING_SETUP, 8, address(make([]byte, 256)))
	}},
	{"bpf-map", func([]string) verdict {
		a := make([]byte, 128) // BPF_MAP_CREATE of an array of one 4-byte value
		for i, v := range []uint32{2, 4, 4, 1} {
			binary.NativeEndian.PutUint32(a[4*i:], v)
		}
		return try("bpf map", unix.SYS_BPF, 0, address(a), uintptr(len(a)))
	}},
	{"bpf-prog", func([]string) verdict {
		prog := []byte{0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0} // r0 = 0; exit
		a := make([]byte, 128)
		binary.NativeEndian.PutUint32(a, 1) // BPF_PROG_TYPE_SOCKET_FILTER
		binary.NativeEndian.PutUint32(a[4:], 2)
		binary.NativeEndian.PutUint64(a[8:], uint64(address(prog)))
		binary.NativeEndian.PutUint64(a[16:], uint64(cstring("GPL")))
		return try("bpf program", unix.SYS_BPF, 5, address(a), uintptr(len(a)))
	}},
	{"perf", func([]string) verdict {
		_, err := unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}, 0, -1, -1, 0)
		return judge("perf_event_open", err)
	}},
	{"userfaultfd", func([]string) verdict { return try("userfaultfd", unix.SYS_USERFAULTFD, 1) }},
	{"add-key", func([]string) verdict {
		_, err := unix.AddKey("user", "brig-attack", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
		return judge("add_key", err)
	}},
	{"request-key", func([]string) verdict {
		_, err := unix.RequestKey("user", "brig-attack-none", "", 0)
		return reached("request_key", err)
	}},
	{"keyctl", func([]string) verdict {
		_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
		return judge("keyctl", err)
	}},
	{"kexec", func([]string) verdict {
		err := raw(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0xffff)
		return reached("kexec_load", err)
	}},
	{"init-module", func([]string) verdict {
		err := raw(unix.SYS_INIT_MODULE, cstring("x"), 1, cstring(""))
		return reached("init_module", err)
	}},
	{"finit-module", func([]string) verdict { return reached("finit_module", unix.FinitModule(0, "", 0)) }},
	{"delete-module", func([]string) verdict {
		return reached("delete_module", unix.DeleteModule("brig_attack_none", unix.O_NONBLOCK))
	}},
	{"personality", func([]string) verdict { return try("personality ADDR_NO_RANDOMIZE", unix.SYS_PERSONALITY, 0x40000) }},
	{"personality-read-implies-exec", func([]string) verdict { return try("personality READ_IMPLIES_EXEC", unix.SYS_PERSONALITY, 0x400000) }},
	{"syslog", func([]string) verdict {
		n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 4096))
		if err == nil && n == 0 {
			return broken("the kernel's log is empty")
		}
		return judge("syslog READ_ALL", err)
	}},
	{"reboot", func([]string) verdict {
		// A wrong magic number: refused only after the capability was checked (kernel/reboot.c).
		err := raw(unix.SYS_REBOOT, 0xbad, 0xbad, 0, 0)
		return reached("reboot", err)
	}},
	{"swapon", func([]string) verdict {
		err := raw(unix.SYS_SWAPON, cstring("/nonexistent"), 0)
		return reached("swapon", err)
	}},
	{"swapoff", func([]string) verdict {
		err := raw(unix.SYS_SWAPOFF, cstring("/nonexistent"))
		return reached("swapoff", err)
	}},
	{"acct", func([]string) verdict { return reached("acct", unix.Acct("/nonexistent")) }},
	{"quotactl", func([]string) verdict { return try("quotactl Q_SYNC", unix.SYS_QUOTACTL, 0x80000100, 0, 0, 0) }},
	{"vhangup", func([]string) verdict { return try("vhangup", unix.SYS_VHANGUP) }},
	{"clock-settime", func([]string) verdict {
		now := unix.NsecToTimespec(time.Now().UnixNano())
		return try("set the clock", unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, uintptr(unsafe.Pointer(&now)))
	}},
	{"settimeofday", func([]string) verdict {
		now := unix.NsecToTimeval(time.Now().UnixNano())
		return judge("settimeofday", unix.Settimeofday(&now))
	}},
	{"adjtimex", func([]string) verdict {
		_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_SETOFFSET}) // by nothing
		return judge("adjtimex", err)
	}},
	{"sethostname", func([]string) verdict { return judge("sethostname", unix.Sethostname([]byte("attacked"))) }},
	{"setdomainname", func([]string) verdict { return judge("setdomainname", unix.Setdomainname([]byte("attacked"))) }},
	{"fanotify", func([]string) verdict {
		_, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID, unix.O_RDONLY)
		return judge("fanotify_init", err)
	}},
	{"memfd-secret", func([]string) verdict { return try("memfd_secret", unix.SYS_MEMFD_SECRET, 0) }},
	{"migrate-pages", func([]string) verdict {
		err := raw(unix.SYS_MIGRATE_PAGES, 0, 0, 0, 0)
		return reached("migrate_pages", err)
	}},
	{"tiocsti", func([]string) verdict {
		// The terminal may be any of the three streams.
		var list []verdict
		for fd := range 3 {
			c := []byte("x")
			err := raw(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, address(c))
			if errors.Is(err, unix.EIO) { // since Linux 6.2, where dev.tty.legacy_tiocsti is 0
				list = append(list, held("EIO TIOCSTI"))
				continue
			}
			list = append(list, judge("TIOCSTI", err))
			// The command is 32 bits wide for the kernel (CVE-2019-10063).
			if unsafe.Sizeof(uintptr(0)) == 8 {
				wide := uint64(unix.TIOCSTI) | 1<<33
				list = append(list, try("TIOCSTI with a high bit", unix.SYS_IOCTL, uintptr(fd), uintptr(wide), address(c)))
			}
		}
		return worst(list...)
	}},
	{"tioclinux", func(args []string) verdict {
		fd, err := unix.Open(argument(args, 0, "/dev/tty1"), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			return judge("open a console", err)
		}
		return try("TIOCLINUX", unix.SYS_IOCTL, uintptr(fd), 0x541c, address([]byte{6, 0})) // 6: which keys are held
	}},
	{"realtime", func([]string) verdict {
		priority := uint32(1)
		return judge("SCHED_FIFO", inChild(0, unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&priority))))
	}},
	{"nice", func([]string) verdict {
		return judge("nice -20", inChild(0, unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, ^uintptr(19)))
	}},
	{"ioprio", func([]string) verdict {
		return judge("real-time disk priority", inChild(0, unix.SYS_IOPRIO_SET, 1, 0, 1<<13))
	}},
}
