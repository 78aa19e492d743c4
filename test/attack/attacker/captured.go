package main

import (
	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
)

// What only gVisor's two processes have.
var capturedAttacks = []attack{
	{"procfd", func([]string) verdict { return throughProcfs(job.ProcFD) }},
	{"descriptors", func([]string) verdict { return descriptors() }},
}

// throughProcfs goes where the file server's descriptor of a procfs leads, which is mounted in the kernel process's tree, and not in its own.
func throughProcfs(fd int) verdict {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.PROC_SUPER_MAGIC {
		return broken("descriptor %d is no procfs: %v", fd, err)
	}
	var list []verdict
	for _, path := range []string{
		"sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/kernel/sysrq", "sys/vm/drop_caches", "sys/net/ipv4/ip_forward", "sys/fs/suid_dumpable", "sysrq-trigger",
		"../proc/sys/kernel/core_pattern", "../sys/kernel/uevent_helper", "../sys/power/state", "1/mem", "irq/default_smp_affinity",
	} {
		got, err := unix.Openat(fd, path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		list = append(list, judge("open "+path+" for writing", err))
		_ = unix.Close(got)
	}
	// Root may open these, and may not write what matters: another's label, and that the kernel process is the last to go when memory is short.
	for path, text := range map[string]string{"1/oom_score_adj": "-1000", "1/attr/exec": "x"} {
		if got, err := unix.Openat(fd, path, unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
			if _, err = unix.Write(got, []byte(text)); err == nil {
				list = append(list, escaped("wrote %s to %s", text, path))
			}
			_ = unix.Close(got)
		}
	}
	for _, path := range []string{"1/mem", "1/root", "1/cwd", "1/environ", "1/maps", "1/fd/0", "1/fd/3", "1/fd/6", "1/ns/mnt", "kcore", "kallsyms", "keys", "timer_list"} {
		got, err := unix.Openat(fd, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if n, rerr := unix.Pread(got, make([]byte, 16), 0); err == nil && rerr == nil && n == 0 {
			err = unix.ENOENT // it is masked, or says nothing
		}
		list = append(list, judge("open "+path, err))
		_ = unix.Close(got)
	}
	// Its own program is the host's file (CVE-2019-5736). Nobody may write to one that is executed, so it is the rest of it that tells.
	for _, exe := range []string{"self/exe", "1/exe"} {
		list = append(list, judge("change the mode of "+exe, unix.Fchmodat(fd, exe, 0o755, 0)),
			judge("change the owner of "+exe, unix.Fchownat(fd, exe, 0, 0, 0)),
			judge("change the times of "+exe, unix.UtimesNanoAt(fd, exe, []unix.Timespec{{}, {}}, 0)))
	}
	// Up from there is the kernel process's tree, where no place is another than in its own but what has been taken away from that.
	up, err := unix.Openat(fd, "../../../..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		var there, here unix.Stat_t
		if err = unix.Fstat(up, &there); err == nil {
			err = unix.Stat("/", &here)
		}
		if err == nil && (there.Dev != here.Dev || there.Ino != here.Ino) {
			list = append(list, escaped("above the sandbox's root is another: inode %d of %x", there.Ino, there.Dev))
		}
		_ = unix.Close(up)
	}
	return worst(list...)
}

// descriptors looks at those that it was started with: none leads to a file or folder of the host's.
func descriptors() verdict {
	for fd := range 1024 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			continue
		}
		null := st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
		var fs unix.Statfs_t
		procfs := unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC && fd == job.ProcFD
		switch kind := st.Mode & unix.S_IFMT; {
		case kind == unix.S_IFDIR && !procfs, kind == unix.S_IFREG && st.Nlink > 0, kind == unix.S_IFBLK, kind == unix.S_IFCHR && !null:
			return escaped("descriptor %d is inode %d with mode %o", fd, st.Ino, st.Mode)
		}
	}
	return held("there is no folder, no device and no file with a name among them")
}
