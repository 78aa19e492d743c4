package attack

import "golang.org/x/sys/unix"

// Flags that open one layer.
var (
	noFilter  = []string{"--security-opt", "seccomp=unconfined"}
	hostRoot  = []string{"--security-opt", "seccomp=unconfined", "--security-opt", "landlock=off", "--userns", "host", "--cap-add", "ALL"}
	_         = unix.EPERM
	ownKernel = "the kernel has it not built in"
)

func rows() []row {
	var list []row
	list = append(list, namespaceRows()...)
	list = append(list, mountRows()...)
	list = append(list, doorRows()...)
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
		{name: "umount-mask", attack: []string{"umount", "/proc/sys"}, control: opened(append(hostRoot, "--preset", "default")...)},
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
	return []row{
		{name: "io-uring", attack: []string{"io-uring"}, control: opened(noFilter...)},
		{name: "bpf-map", attack: []string{"bpf-map"}, control: host},
		{name: "bpf-prog", attack: []string{"bpf-prog"}, control: host},
		{name: "perf", attack: []string{"perf"}, control: host},
		{name: "userfaultfd", attack: []string{"userfaultfd"}, control: opened(noFilter...)},
		{name: "add-key", attack: []string{"add-key"}, control: opened(noFilter...)},
		{name: "request-key", attack: []string{"request-key"}, control: opened(noFilter...)},
		{name: "keyctl", attack: []string{"keyctl"}, control: opened(noFilter...)},
		{name: "kexec", attack: []string{"kexec"}, control: impossible(ownKernel + " (CONFIG_KEXEC)")},
		{name: "init-module", attack: []string{"init-module"}, control: impossible(ownKernel + " (CONFIG_MODULES)")},
		{name: "finit-module", attack: []string{"finit-module"}, control: impossible(ownKernel + " (CONFIG_MODULES)")},
		{name: "delete-module", attack: []string{"delete-module"}, control: impossible(ownKernel + " (CONFIG_MODULES)")},
		{name: "personality", attack: []string{"personality"}, control: opened(noFilter...)},
	}
}
