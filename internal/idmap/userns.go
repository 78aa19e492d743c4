package idmap

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// NamespaceOf opens the user namespace of a child that the caller has not waited for. Once its maps are written the
// file is what mount_setattr(2) wants for an idmapped mount: id n on disk is then id n inside. This is the cheap
// way, and serves every mount whose map is the sandbox's own. The file is close-on-exec and the caller's.
func NamespaceOf(pid int) (*os.File, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/ns/user"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the user namespace of process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// UserNamespace makes a user namespace with maps of its own, for a mount whose map is not the sandbox's. The file keeps
// it alive; it is close-on-exec and the caller's.
//
// A namespace needs a process to be born in. It is a child that is stopped by ptrace(2) at its execve, before an
// instruction of the program has run, and killed there: about a millisecond, no second Go start, no helper binary.
func UserNamespace(uid, gid []specs.LinuxIDMapping) (*os.File, error) {
	if err := Validate("uid", uid); err != nil {
		return nil, err
	}
	if err := Validate("gid", gid); err != nil {
		return nil, err
	}
	runtime.LockOSThread() // ptrace stops are told to the tracing thread alone
	defer runtime.UnlockOSThread()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"brig"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags:                 unix.CLONE_NEWUSER,
		UidMappings:                sysMappings(uid),
		GidMappings:                sysMappings(gid),
		GidMappingsEnableSetgroups: os.Geteuid() == 0, // others may not, CVE-2014-8989
		Ptrace:                     true,
		Pdeathsig:                  unix.SIGKILL,
	}})
	if err != nil {
		return nil, fmt.Errorf("make a user namespace for an idmapped mount: %w%s", err, userNSHint(err))
	}
	defer reap(pid)
	var status unix.WaitStatus
	for {
		if _, err = unix.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make a user namespace for an idmapped mount: wait for its first process: %w", err)
	}
	if !status.Stopped() {
		return nil, fmt.Errorf("make a user namespace for an idmapped mount: its first process did not stop, status %#x", status)
	}
	return NamespaceOf(pid)
}

func reap(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err == unix.EINTR || err == nil && !status.Exited() && !status.Signaled() {
			continue
		}
		return
	}
}

func userNSHint(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return ": /proc/sys/user/max_user_namespaces is reached"
	case errors.Is(err, unix.EPERM):
		return ": root must write these maps"
	}
	return ""
}

func sysMappings(m []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(m))
	for i, l := range m {
		out[i] = syscall.SysProcIDMap{ContainerID: int(l.ContainerID), HostID: int(l.HostID), Size: int(l.Size)}
	}
	return out
}
