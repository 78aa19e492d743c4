package seccomp

// The built-in profiles are made of these sets. A name that an architecture does not have costs nothing there, so
// the 32-bit and historic forms stand beside the current ones.

// callsBasic is what every program needs: memory, files, processes, signals, time, waiting. None of it reaches past
// what file permissions, namespaces, limits and capabilities allow. Calls that take a mode are in modeCalls.
var callsBasic = []string{
	// Memory.
	"brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "pkey_mprotect", "pkey_alloc", "pkey_free", "madvise", "mincore",
	"msync", "mlock", "mlock2", "munlock", "mlockall", "munlockall", "membarrier", "mseal", "map_shadow_stack", "memfd_create",
	// Files and folders.
	"read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2", "close", "close_range",
	"lseek", "_llseek", "access", "faccessat", "faccessat2", "stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "newfstatat",
	"fstatat64", "statx", "statfs", "statfs64", "fstatfs", "fstatfs64", "oldstat", "oldlstat", "oldfstat", "readlink", "readlinkat",
	"getdents", "getdents64", "readdir", "getcwd", "chdir", "fchdir", "rename", "renameat", "renameat2", "link", "linkat", "symlink",
	"symlinkat", "unlink", "unlinkat", "rmdir", "umask", "truncate", "truncate64", "ftruncate", "ftruncate64", "fallocate", "fadvise64",
	"fadvise64_64", "arm_fadvise64_64", "readahead", "sync", "syncfs", "fsync", "fdatasync", "sync_file_range", "sync_file_range2",
	"arm_sync_file_range", "utime", "utimes", "futimesat", "utimensat", "utimensat_time64", "chown", "chown32", "fchown", "fchown32",
	"lchown", "lchown32", "fchownat", "getxattr", "lgetxattr", "fgetxattr", "getxattrat", "listxattr", "llistxattr", "flistxattr",
	"listxattrat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
	"dup", "dup2", "dup3", "fcntl", "fcntl64", "flock", "pipe", "pipe2", "sendfile", "sendfile64", "copy_file_range", "splice", "tee",
	"cachestat", "file_getattr", "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
	// Waiting.
	"poll", "ppoll", "ppoll_time64", "select", "_newselect", "pselect6", "pselect6_time64", "epoll_create", "epoll_create1", "epoll_ctl",
	"epoll_ctl_old", "epoll_wait", "epoll_wait_old", "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "signalfd", "signalfd4",
	"futex", "futex_time64", "futex_waitv", "futex_wake", "futex_wait", "futex_requeue", "set_robust_list", "get_robust_list", "rseq",
	"rseq_slice_yield", "restart_syscall",
	// Processes and threads; clone, clone3 and prctl are treated apart.
	"fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "waitpid", "getpid", "getppid", "gettid", "getpgid",
	"getpgrp", "setpgid", "getsid", "setsid", "set_tid_address", "kill", "tkill", "tgkill", "pidfd_open", "pidfd_send_signal",
	"arch_prctl", "set_thread_area", "get_thread_area", "set_tls", "get_tls", "breakpoint", "cacheflush", "swapcontext",
	"riscv_flush_icache", "riscv_hwprobe", "uretprobe", "uprobe",
	// Signals.
	"rt_sigaction", "rt_sigprocmask", "rt_sigpending", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_sigqueueinfo",
	"rt_tgsigqueueinfo", "rt_sigreturn", "sigaltstack", "sigaction", "sigprocmask", "sigpending", "sigsuspend", "sigreturn", "signal",
	"sgetmask", "ssetmask", "pause", "alarm",
	// Clocks, to read and to wait by.
	"time", "gettimeofday", "clock_gettime", "clock_gettime64", "clock_getres", "clock_getres_time64", "clock_nanosleep",
	"clock_nanosleep_time64", "nanosleep", "getitimer", "setitimer", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
	"timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
	"timerfd_settime64", "times",
	// Who and what one is.
	"getuid", "getuid32", "geteuid", "geteuid32", "getgid", "getgid32", "getegid", "getegid32", "getresuid", "getresuid32", "getresgid",
	"getresgid32", "getgroups", "getgroups32", "capget", "capset", "uname", "olduname", "oldolduname", "sysinfo", "getcpu", "getrandom",
	"getrlimit", "ugetrlimit", "setrlimit", "prlimit64", "getrusage", "getpriority", "setpriority", "sched_yield", "sched_getaffinity",
	"sched_setaffinity", "sched_getparam", "sched_getscheduler", "sched_getattr", "sched_get_priority_max", "sched_get_priority_min",
	"sched_rr_get_interval", "sched_rr_get_interval_time64", "ioprio_get", "lsm_get_self_attr", "lsm_list_modules",
	// A process may confine itself further.
	"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
}

// callsSocket work on sockets that exist; making one is treated apart.
var callsSocket = []string{
	"bind", "connect", "listen", "accept", "accept4", "getsockname", "getpeername", "getsockopt", "setsockopt", "shutdown",
	"send", "sendto", "sendmsg", "sendmmsg", "recv", "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64",
}

// callsServer is what larger programs (databases, servers, root-run tools) use and small ones do not.
var callsServer = []string{
	// Changing ids: the kernel asks for capabilities, and Brig gives none unless told.
	"setuid", "setuid32", "setgid", "setgid32", "setreuid", "setreuid32", "setregid", "setregid32", "setresuid", "setresuid32", "setresgid",
	"setresgid32", "setfsuid", "setfsuid32", "setfsgid", "setfsgid32", "setgroups", "setgroups32",
	// System V and POSIX message queues, semaphores and memory, private to the ipc namespace.
	"shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semctl", "semtimedop", "semtimedop_time64", "msgget", "msgsnd", "msgrcv",
	"msgctl", "mq_open", "mq_unlink", "mq_timedsend", "mq_timedsend_time64", "mq_timedreceive", "mq_timedreceive_time64", "mq_notify",
	"mq_getsetattr",
	// Asynchronous I/O of databases; io_uring is refused.
	"io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents", "io_pgetevents_time64",
	"sched_setparam", "sched_setscheduler", "sched_setattr", "ioprio_set",
}

// callsCompat is what Docker's profile allows beyond the sets above (moby, profiles/seccomp). io_uring was taken out of
// it in Docker 25. socketcall is not here, though Docker has it: its arguments are out of a filter's sight, and so it was
// a way to AF_ALG (CVE-2026-31431) and AF_VSOCK, which only an LSM could close. Where socket(2) has a number of its own,
// 32-bit programs make sockets by that.
var callsCompat = []string{
	"adjtimex", "clock_adjtime", "clock_adjtime64", "fanotify_mark", "ipc", "memfd_secret", "modify_ldt", "name_to_handle_at", "openat2",
	"process_mrelease", "process_vm_readv", "process_vm_writev", "ptrace", "remap_file_pages", "statmount", "listmount",
	"vmsplice", "s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr",
}

// callsAbsent answer ENOSYS, as on a kernel that lacks them, because programs that try them first have another way for
// that answer, and take EPERM for final.
var callsAbsent = []string{
	"io_uring_setup", "io_uring_enter", "io_uring_register", // a second, unfiltered way to most calls, and many kernel holes
	"openat2",                // its flags and mode lie behind a pointer, out of a filter's sight
	"userfaultfd",            // holds a kernel copy open at will: a tool of many exploits
	"memfd_secret",           // memory even a supervisor cannot read
	"statmount", "listmount", // programs read /proc/self/mountinfo instead
}

// capCalls are opened by a capability, as in Docker's profile: without the capability the kernel refuses them (or most of
// what they can do) in any case.
var capCalls = []struct {
	capability string
	calls      []string
}{
	{"CAP_DAC_READ_SEARCH", []string{"open_by_handle_at", "name_to_handle_at"}},
	{"CAP_SYS_ADMIN", []string{"bpf", "clone", "clone3", "fanotify_init", "fanotify_mark", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie",
		"mount", "mount_setattr", "move_mount", "open_tree", "open_tree_attr", "perf_event_open", "pivot_root", "quotactl", "quotactl_fd",
		"setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare", "statmount", "listmount", "openat2"}},
	{"CAP_SYS_BOOT", []string{"reboot"}},
	{"CAP_SYS_CHROOT", []string{"chroot"}},
	{"CAP_SYS_MODULE", []string{"delete_module", "init_module", "finit_module"}},
	{"CAP_SYS_PACCT", []string{"acct"}},
	{"CAP_SYS_PTRACE", []string{"kcmp", "pidfd_getfd", "process_madvise", "process_mrelease", "process_vm_readv", "process_vm_writev", "ptrace"}},
	{"CAP_SYS_RAWIO", []string{"iopl", "ioperm"}},
	{"CAP_SYS_TIME", []string{"settimeofday", "stime", "clock_settime", "clock_settime64", "adjtimex", "clock_adjtime", "clock_adjtime64"}},
	{"CAP_SYS_TTY_CONFIG", []string{"vhangup"}},
	{"CAP_SYS_NICE", []string{"get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node", "migrate_pages", "move_pages"}},
	{"CAP_SYSLOG", []string{"syslog"}},
	{"CAP_BPF", []string{"bpf"}},
	{"CAP_PERFMON", []string{"perf_event_open"}},
}

// modeCalls create files or change their mode; the arguments counted from 0. Where flags is set, the mode counts only when
// the flags ask for a new file.
var modeCalls = []struct {
	name  string
	mode  uint
	flags int
}{
	{"chmod", 1, -1}, {"fchmod", 1, -1}, {"fchmodat", 2, -1}, {"fchmodat2", 2, -1}, {"mkdir", 1, -1}, {"mkdirat", 2, -1},
	{"mknod", 1, -1}, {"mknodat", 2, -1}, {"creat", 1, -1}, {"open", 2, 1}, {"openat", 3, 2},
}
