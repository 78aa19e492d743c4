package host

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"brig/internal/idmap"
)

// Features of the kernel that Brig uses. The order is that of the doctor's list.
var (
	Openat2        = &Feature{Name: "openat2", Since: "5.6", probe: probeOpenat2}
	Clone3         = &Feature{Name: "clone3", Since: "5.3", probe: probeClone3}
	CloneInto      = &Feature{Name: "clone into cgroup", Since: "5.7", probe: probeCloneInto}
	PIDFD          = &Feature{Name: "pidfd", Since: "5.3", probe: probePIDFD}
	CloseRange     = &Feature{Name: "close_range", Since: "5.9", probe: probeCloseRange}
	MountAPI       = &Feature{Name: "mount API", Since: "5.2", probe: probeMountAPI}
	MountSetattr   = &Feature{Name: "mount_setattr", Since: "5.12", probe: probeMountSetattr}
	Overlay        = &Feature{Name: "overlay", Since: "3.18", probe: func() Finding { return probeFS("overlay") }}
	EROFS          = &Feature{Name: "erofs", Since: "5.4", probe: func() Finding { return probeFS("erofs") }}
	EROFSFile      = &Feature{Name: "erofs from a file", Since: "6.12", probe: probeEROFSFile}
	UserNamespaces = &Feature{Name: "user namespaces", Since: "3.8", probe: probeUserNamespaces}
	TimeNamespaces = &Feature{Name: "time namespaces", Since: "5.6", probe: probeTimeNamespaces}
	SeccompNotify  = &Feature{Name: "seccomp notify", Since: "5.0", probe: probeSeccompNotify}
	BPFLSM         = &Feature{Name: "BPF LSM", Since: "5.7", probe: probeBPFLSM}
	KVM            = &Feature{Name: "kvm", probe: probeKVM}
	IDHelpers      = &Feature{Name: "newuidmap, newgidmap", probe: probeIDHelpers}
)

// Features lists them all.
func Features() []*Feature {
	return []*Feature{
		Openat2, Clone3, CloneInto, PIDFD, CloseRange, MountAPI, MountSetattr, Overlay, EROFS, EROFSFile,
		UserNamespaces, TimeNamespaces, SeccompNotify, BPFLSM, KVM, IDHelpers,
	}
}

func probeOpenat2() Finding {
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err == nil {
		unix.Close(fd)
	}
	return syscallFinding(err)
}

// probeClone3 passes a struct of size 0, which clone3 refuses with EINVAL before it reads it.
func probeClone3() Finding {
	_, _, errno := unix.Syscall(unix.SYS_CLONE3, 0, 0, 0)
	return syscallFinding(errno, unix.EINVAL)
}

// probeCloneInto has to go by the version: the only sure question is to make a process.
func probeCloneInto() Finding {
	v, err := Kernel()
	switch {
	case err != nil:
		return unknown("%v", err)
	case !v.AtLeast(5, 7):
		return no("kernel %s is older than 5.7", v)
	}
	t, err := Cgroups()
	switch {
	case err != nil:
		return unknown("%v", err)
	case t.Unified == "":
		return no("cgroup version 2 is not mounted")
	}
	return yes("into %s", t.Unified)
}

func probePIDFD() Finding {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		unix.Close(fd)
	}
	return syscallFinding(err)
}

// probeCloseRange closes a range in which no file descriptor can be.
func probeCloseRange() Finding {
	return syscallFinding(unix.CloseRange(1<<32-1, 1<<32-1, 0))
}

func probeMountAPI() Finding {
	fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err == nil {
		unix.Close(fd)
	}
	return syscallFinding(err, unix.EPERM) // only privilege is missing, which the sandbox has
}

// probeMountSetattr passes a flag that does not exist.
func probeMountSetattr() Finding {
	err := unix.MountSetattr(-1, "", 1<<30, &unix.MountAttr{})
	return syscallFinding(err, unix.EINVAL)
}

// probeFS asks for a file-system type. As root the question itself loads the module; otherwise /proc/filesystems
// knows only what is loaded.
func probeFS(fstype string) Finding {
	text, err := os.ReadFile("/proc/filesystems")
	if err == nil && slices.Contains(strings.Fields(string(text)), fstype) {
		return yes("")
	}
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	switch {
	case err == nil:
		unix.Close(fd)
		return yes("")
	case errors.Is(err, unix.ENODEV):
		return no("the kernel has neither the file system %s nor a module for it", fstype)
	}
	return unknown("not loaded, and only root may ask for the module")
}

func probeEROFSFile() Finding {
	if f := EROFS.Check(); f.Outcome != Yes {
		return f
	}
	v, err := Kernel()
	if err != nil {
		return unknown("%v", err)
	}
	if !v.AtLeast(6, 12) {
		return no("kernel %s is older than 6.12; a loop device serves instead", v)
	}
	// CONFIG_EROFS_FS_BACKED_BY_FILE can be off, which only a mount tells.
	return yes("")
}

// probeBPFLSM reads the kernel's list of active modules (Documentation/admin-guide/LSM/index.rst). With bpf in it whoever has
// CAP_BPF may attach programs to the kernel's security hooks (Documentation/bpf/prog_lsm.rst).
func probeBPFLSM() Finding {
	text, err := os.ReadFile("/sys/kernel/security/lsm")
	return bpfLSM(string(text), err)
}

func bpfLSM(list string, err error) Finding {
	switch {
	case errors.Is(err, unix.ENOENT):
		return unknown("the list of security modules is not there: mount -t securityfs securityfs /sys/kernel/security")
	case err != nil:
		return unknown("%v", err)
	case slices.Contains(strings.Split(strings.TrimSpace(list), ","), "bpf"):
		return yes("")
	}
	return no("bpf is not among the active security modules (%s): add it to lsm= at boot", strings.TrimSpace(list))
}

// probeUserNamespaces reads the switches that distributions have for it, and then makes one: an LSM may refuse
// without any switch.
func probeUserNamespaces() Finding {
	if n, ok := sysctl("user/max_user_namespaces"); ok && n == "0" {
		return no("/proc/sys/user/max_user_namespaces is 0: set it to 10000, say")
	}
	if os.Geteuid() != 0 {
		if v, ok := sysctl("kernel/unprivileged_userns_clone"); ok && v == "0" {
			return no("unprivileged users may not make them: sysctl kernel.unprivileged_userns_clone=1")
		}
		if v, ok := sysctl("kernel/apparmor_restrict_unprivileged_userns"); ok && v == "1" {
			return no("AppArmor keeps them from unprivileged programs without a profile: install Brig's profile, or sysctl kernel.apparmor_restrict_unprivileged_userns=0")
		}
	}
	m := idmap.OneID(os.Geteuid(), os.Getegid())
	ns, err := idmap.UserNamespace(m.UID, m.GID)
	if err != nil {
		return no("%v", err)
	}
	ns.Close()
	return yes("")
}

func probeTimeNamespaces() Finding {
	if unix.Access("/proc/self/ns/time", unix.F_OK) != nil {
		return no("the kernel is built without CONFIG_TIME_NS")
	}
	return yes("")
}

func probeSeccompNotify() Finding {
	actions, err := SeccompActions()
	if err != nil {
		return unknown("%v", err)
	}
	if !slices.Contains(actions, "user_notif") {
		return no("the kernel's filters have no user_notif action")
	}
	return yes("")
}

// probeKVM asks for the API version, which has been 12 since 2007: a device node alone proves nothing.
func probeKVM() Finding {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENODEV, unix.ENXIO:
		return no("there is no /dev/kvm: the processor or the hypervisor around this machine gives no virtualization")
	case unix.EACCES, unix.EPERM:
		return no("/dev/kvm may not be opened: add the user to the group kvm")
	default:
		return unknown("open /dev/kvm: %v", err)
	}
	defer unix.Close(fd)
	const kvmGetAPIVersion = 0xae00
	version, err := unix.IoctlRetInt(fd, kvmGetAPIVersion)
	if err != nil || version != 12 {
		return no("/dev/kvm does not answer as KVM does: version %d, %v", version, err)
	}
	return yes("")
}

func probeIDHelpers() Finding {
	if err := idmap.Helpers(); err != nil {
		return no("%v", err)
	}
	return yes("")
}

// IDMappedMounts says whether the file system under path can be shown with shifted owners. ns is any user namespace with a map, see
// idmap.UserNamespace. It makes a detached mount, which needs CAP_SYS_ADMIN and disappears with its descriptor.
func IDMappedMounts(path string, ns *os.File) Finding {
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return syscallFinding(err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	if err == unix.EINVAL {
		return no("the file system has no support for idmapped mounts")
	}
	return syscallFinding(err)
}
