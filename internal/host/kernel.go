package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Version is a kernel's.
type Version struct {
	Major, Minor int
	Release      string // as uname -r has it
}

// Oldest is the oldest kernel Brig supports.
var Oldest = Version{Major: 5, Minor: 15}

// Kernel asks uname(2).
func Kernel() (Version, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Version{}, fmt.Errorf("read the kernel's version: %w", err)
	}
	return parseVersion(unix.ByteSliceToString(u.Release[:]))
}

func parseVersion(release string) (Version, error) {
	v := Version{Release: release}
	major, rest, _ := strings.Cut(release, ".")
	minor := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	var err1, err2 error
	v.Major, err1 = strconv.Atoi(major)
	v.Minor, err2 = strconv.Atoi(minor)
	if err1 != nil || err2 != nil {
		return v, fmt.Errorf("read the kernel's version: %q is not of the form 6.1.0", release)
	}
	return v, nil
}

// AtLeast compares.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// LandlockABI is the newest Landlock interface the kernel has, 0 for none; Detail says why there is none. One system call.
func LandlockABI() (abi int, f Finding) {
	const createRulesetVersion = 1 // LANDLOCK_CREATE_RULESET_VERSION
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, createRulesetVersion)
	switch errno {
	case 0:
		return int(n), yes("ABI %d", n)
	case unix.ENOSYS:
		return 0, no("the kernel is built without Landlock (CONFIG_SECURITY_LANDLOCK, since 5.13)")
	case unix.EOPNOTSUPP:
		return 0, no("Landlock is built in but not started: add landlock to the lsm= boot parameter")
	}
	return 0, unknown("landlock_create_ruleset: %v", errno)
}

// SeccompActions are the actions the kernel's filters know, in the words of /proc/sys/kernel/seccomp/actions_avail.
func SeccompActions() ([]string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil {
		return nil, fmt.Errorf("read the seccomp actions of the kernel: %w", err)
	}
	return strings.Fields(string(text)), nil
}

// sysctl reads /proc/sys/NAME; ok is false when it is not there or not ours to read.
func sysctl(name string) (value string, ok bool) {
	return line("/proc/sys/" + name)
}

func line(path string) (string, bool) {
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err == nil
}
