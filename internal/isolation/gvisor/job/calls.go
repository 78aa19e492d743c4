package job

// The system calls that the two programs need of the host's kernel. Brig's filter of each lets these through and no other: from execve on
// what a start takes, and to the end no more than gVisor's own filter over it. TestCalls of the gvisor module holds the second halves
// against gVisor's rules; the first were seen (tracepoint raw_syscalls:sys_enter) in starts cold and warm, with and without folders,
// networks and terminals, in pods and from checkpoints.
var (
	// KernelStart are the calls of the kernel process and its stubs that only a start makes. Go's runtime and gVisor look into /proc
	// and /sys; a stub arms itself with a filter and makes itself a session; a link's packet socket gets its options; the process
	// that stubs are forked from is watched.
	KernelStart = []string{
		"arch_prctl", "execveat", "getdents64", "getpriority", "getppid", "getrlimit", "getsockname", "getuid", "kill", "mseal", "newfstatat", "openat",
		"pidfd_open", "pipe2", "prlimit64", "readlinkat", "sched_getaffinity", "seccomp", "setsid", "setsockopt",
	}
	// KernelRun are those that gVisor's filter of the kernel process lets through.
	KernelRun = []string{
		"accept4", "clock_gettime", "clone", "close", "dup", "dup3", "epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2",
		"exit", "exit_group", "fallocate", "fchmod", "fcntl", "fdatasync", "fstat", "fstatfs", "fsync", "ftruncate", "futex",
		"getcpu", "getpid", "getrandom", "getsockopt", "gettid", "gettimeofday", "io_destroy", "io_getevents", "io_setup",
		"io_submit", "ioctl", "listen", "lseek", "madvise", "membarrier", "memfd_create", "mincore", "mlock", "mmap",
		"mprotect", "munlock", "munmap", "nanosleep", "ppoll", "prctl", "pread64", "preadv", "preadv2", "ptrace", "pwrite64",
		"pwritev", "pwritev2", "read", "recvmmsg", "recvmsg", "restart_syscall", "rt_sigaction", "rt_sigprocmask",
		"rt_sigreturn", "rt_tgsigqueueinfo", "sched_yield", "sendmmsg", "sendmsg", "setitimer", "setpriority", "shutdown",
		"sigaltstack", "statx", "sync_file_range", "tee", "tgkill", "timer_create", "timer_delete", "timer_settime",
		"utimensat", "wait4", "waitid", "write", "writev",
	}
	// GoferStart are the calls of the file server that only a start makes.
	GoferStart = []string{
		"arch_prctl", "chdir", "epoll_create1", "execveat", "fchdir", "fstat", "getegid", "geteuid", "getgid", "getpriority", "getrlimit", "getuid", "pipe2",
		"prlimit64", "seccomp", "umask",
	}
	// GoferRun are those that gVisor's filter of the file server lets through.
	GoferRun = []string{
		"accept", "clock_gettime", "clone", "close", "dup", "epoll_ctl", "epoll_pwait", "eventfd2", "exit", "exit_group",
		"fallocate", "fchmod", "fchmodat", "fchownat", "fcntl", "fgetxattr", "flistxattr", "fremovexattr", "fsetxattr",
		"fstatfs", "fsync", "ftruncate", "futex", "getcpu", "getdents64", "getpid", "getrandom", "gettid", "gettimeofday",
		"lgetxattr", "linkat", "llistxattr", "lremovexattr", "lseek", "lsetxattr", "madvise", "memfd_create", "mkdirat",
		"mknodat", "mmap", "mprotect", "munmap", "nanosleep", "newfstatat", "openat", "openat2", "ppoll", "prctl", "pread64",
		"pwrite64", "read", "readlinkat", "recvmsg", "renameat2", "restart_syscall", "rt_sigaction", "rt_sigprocmask",
		"rt_sigreturn", "sched_getaffinity", "sched_yield", "sendmsg", "shutdown", "sigaltstack", "socketpair", "statx",
		"symlinkat", "tgkill", "unlinkat", "utimensat", "write",
	}
)
