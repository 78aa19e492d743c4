package mac

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"brig/internal/mac/selinux"

	"golang.org/x/sys/unix"
)

// ReadHost looks at the running kernel: a few small files, no daemon is asked.
func ReadHost() Host {
	var h Host
	if text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil {
		h.AppArmor = strings.TrimSpace(string(text)) == "Y"
	}
	h.OwnAttr = h.AppArmor && exists("/proc/self/attr/apparmor/exec")
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/selinux", &st) == nil && uint32(st.Type) == unix.SELINUX_MAGIC { //nolint:gosec,unconvert // 32 bits, and signed on some machines
		h.SELinux = true
		text, err := os.ReadFile("/sys/fs/selinux/enforce")
		h.Enforcing = err == nil && strings.TrimSpace(string(text)) == "1"
		h.Module, err = selinux.Installed()
		h.Module = h.Module && err == nil
	}
	return h
}

// Parser is the program that compiles AppArmor profiles, "" where it is not installed. PATH is not asked.
func Parser() string {
	for _, name := range []string{"/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"} {
		if exists(name) {
			return name
		}
	}
	return ""
}

func exists(path string) bool {
	return unix.Access(path, unix.F_OK) == nil
}

// Current reads back what confines a process. A host without either module gives the zero Confinement and no error.
// The caller must know that pid is still the process it means (by a pidfd), before and after.
func Current(host Host, pid int) (Confinement, error) {
	module, attr := AppArmor, host.appArmorAttr("current")
	switch {
	case host.AppArmor:
	case host.SELinux:
		module, attr = SELinux, "attr/current"
	default:
		return Confinement{}, nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, attr))
	if errors.Is(err, unix.EINVAL) {
		return Confinement{}, nil // the module is built in but does not serve this file
	}
	if err != nil {
		return Confinement{}, fmt.Errorf("read what confines process %d: %w", pid, err)
	}
	return ParseCurrent(module, string(text)), nil
}
