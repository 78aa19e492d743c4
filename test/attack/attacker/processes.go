package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// processAttacks are made on other processes; most take the victim's pid.
var processAttacks = []attack{
	{"ptrace", onVictim(func(pid int) verdict { return judge("ptrace", seize(pid)) })},
	{"ptrace-child", func([]string) verdict {
		err := raw(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0, 0)
		_ = unix.Kill(os.Getpid(), unix.SIGURG) // Go takes it; the tracer, which is who made the sandbox, is told first
		return judge("ptrace among its own processes", err)
	}},
	{"vm-read", onVictim(func(pid int) verdict {
		b := make([]byte, 8)
		local := []unix.Iovec{{Base: &b[0], Len: 8}}
		_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
		if err == unix.EFAULT { //nolint:errorlint // bare: allowed, but nothing is at that address
			return escaped("process_vm_readv of %d", pid)
		}
		return judge("process_vm_readv", err)
	})},
	{"kcmp", onVictim(func(pid int) verdict { return try("kcmp", unix.SYS_KCMP, uintptr(pid), uintptr(pid), 0, 0, 0) })},
	{"pidfd-open", onVictim(func(pid int) verdict {
		_, err := unix.PidfdOpen(pid, 0)
		return judge("pidfd_open", err)
	})},
	{"pidfd-getfd", onVictim(func(pid int) verdict {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return judge("pidfd_open", err)
		}
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return judge("pidfd_getfd", err)
	})},
	{"signal", onVictim(func(pid int) verdict { return judge("kill", unix.Kill(pid, 0)) })},
	{"priority-of", onVictim(func(pid int) verdict {
		return judge("setpriority of another", unix.Setpriority(unix.PRIO_PROCESS, pid, 5))
	})},
	{"affinity-of", onVictim(func(pid int) verdict {
		var set unix.CPUSet
		set.Set(0)
		return judge("sched_setaffinity of another", unix.SchedSetaffinity(pid, &set))
	})},
	{"rlimit-of", onVictim(func(pid int) verdict {
		var l unix.Rlimit
		return judge("prlimit of another", unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &l))
	})},
	{"see", onVictim(func(pid int) verdict {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
		if err == nil {
			return escaped("/proc/%d is in sight", pid)
		}
		return held("/proc/%d is out of sight", pid)
	})},
	{"pry", func(args []string) verdict {
		pid, err := strconv.Atoi(argument(args, 0, ""))
		if err != nil {
			return broken("%v", err)
		}
		return worst(pry(pid)...)
	}},
	{"watch", watch},
	{"victim", func([]string) verdict {
		// Not an attack: a process to be attacked, until its standard input ends.
		fmt.Println("READY")
		_, _ = os.Stdin.Read(make([]byte, 1))
		return held("the victim is done")
	}},
}

// onVictim takes the victim's pid from the first argument.
func onVictim(f func(pid int) verdict) func([]string) verdict {
	return func(args []string) verdict {
		pid, err := strconv.Atoi(argument(args, 0, ""))
		if err != nil {
			return broken("no victim is named: %v", err)
		}
		return f(pid)
	}
}

func seize(pid int) error {
	err := raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0)
	if err == nil {
		_ = raw(unix.SYS_PTRACE, unix.PTRACE_INTERRUPT, uintptr(pid), 0, 0)
		_, _ = unix.Wait4(pid, nil, unix.WALL, nil)
		_ = unix.PtraceDetach(pid)
	}
	return err
}

// pry tries every way into a process that the same user may have.
func pry(pid int) []verdict {
	var list []verdict
	for _, name := range []string{"exe", "cwd", "root", "fd/0", "fd/1", "fd/3", "ns/mnt"} {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err == nil {
			list = append(list, escaped("/proc/%d/%s leads to %s", pid, name, to))
			continue
		}
		list = append(list, held("%v", err))
	}
	for _, name := range []string{"mem", "environ", "maps", "auxv", "pagemap", "syscall", "stack", "map_files"} {
		path := fmt.Sprintf("/proc/%d/%s", pid, name)
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			list = append(list, held("%v %s", err, path))
			continue
		}
		n, err := unix.Pread(fd, make([]byte, 64), 0)
		_ = unix.Close(fd)
		if name == "mem" || err == nil && n > 0 {
			list = append(list, escaped("opened %s", path))
		}
	}
	if seize(pid) == nil {
		list = append(list, escaped("traced %d", pid))
	}
	var b [8]byte
	local, remote := unix.Iovec{Base: &b[0]}, unix.RemoteIovec{Base: 0x400000, Len: 8}
	local.SetLen(8)
	if err := raw(unix.SYS_PROCESS_VM_READV, uintptr(pid), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0); err == nil || err == unix.EFAULT { //nolint:errorlint // bare
		list = append(list, escaped("read the memory of %d", pid))
	}
	return list
}

// watch looks at every process that appears, as fast as it can, for one that holds the file ("DEVICE:INODE" of the
// host's runtime) as its program or as a descriptor, or that can be opened before it is confined (CVE-2016-9962,
// CVE-2019-5736). It goes on until its standard input ends.
func watch(args []string) verdict {
	want := argument(args, 0, "")
	fmt.Println("READY")
	done := make(chan struct{})
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		close(done)
	}()
	looks, seen := 0, map[int]bool{}
	for {
		select {
		case <-done:
			return held("%d looks at %d processes, %d while they were entering", looks, len(seen), entering)
		default:
		}
		for _, pid := range pids() {
			if pid == os.Getpid() {
				continue
			}
			looks++
			seen[pid] = true
			if v := steal(pid, want); v != "" {
				return escaped("%s", v)
			}
		}
	}
}

func pids() []int {
	fd, err := unix.Open("/proc", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	var list []int
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n <= 0 {
			return list
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if pid, err := strconv.Atoi(name); err == nil {
				list = append(list, pid)
			}
		}
	}
}

// beforeExec tries to get into a process that is on its way into the sandbox: it has the runtime's name until it
// executes its program.
func beforeExec(pid int) string {
	name := func() string {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return strings.TrimSpace(string(text))
	}
	if name() != "brig" {
		return ""
	}
	entering++
	for _, v := range pry(pid) {
		if v.word == "ESCAPED" && name() == "brig" {
			return v.text + " while it was entering"
		}
	}
	return ""
}

// entering counts the looks at processes that were entering.
var entering int

// steal looks for the host's file behind a process's links, and for its memory while it is not yet the program.
func steal(pid int, want string) string {
	base := fmt.Sprintf("/proc/%d/", pid)
	if v := beforeExec(pid); v != "" {
		return v
	}
	is := func(path string) bool {
		var st unix.Stat_t
		return unix.Stat(path, &st) == nil && fmt.Sprintf("%d:%d", st.Dev, st.Ino) == want
	}
	if is(base + "exe") {
		return "the program of process " + strconv.Itoa(pid) + " is the host's"
	}
	for _, name := range []string{"fd", "map_files"} {
		entries, err := os.ReadDir(base + name)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if is(base + name + "/" + e.Name()) {
				return "process " + strconv.Itoa(pid) + " holds the host's program as " + name + "/" + e.Name()
			}
			to, err := os.Readlink(base + name + "/" + e.Name())
			// What Go's own runtime reads (GOMAXPROCS, Go 1.25) is the program's already.
			limit := strings.HasPrefix(filepath.Base(to), "cpu.")
			if err == nil && strings.HasPrefix(to, "/sys/fs/cgroup") && !limit {
				return "process " + strconv.Itoa(pid) + " holds " + to
			}
		}
	}
	maps, err := os.ReadFile(base + "maps")
	if err == nil && want != "" {
		_, inode, _ := strings.Cut(want, ":")
		if bytes.Contains(maps, []byte(" "+inode+" ")) {
			return "process " + strconv.Itoa(pid) + " maps the host's program"
		}
	}
	return ""
}
