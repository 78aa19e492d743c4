package launch

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// since is the version of Linux that brought a system call which a launch may need and an old kernel lacks; see the HISTORY of
// each in man-pages. All but Landlock's are older than 5.15, which Brig demands; a filter around Brig, such as an old
// container engine's, may hide them still.
var since = map[string]string{
	"fsopen": "5.2", "fsconfig": "5.2", "fsmount": "5.2", "open_tree": "5.2", "move_mount": "5.2",
	"pidfd_send_signal": "5.1", "pidfd_open": "5.3", "clone3": "5.3", "openat2": "5.6", "faccessat2": "5.8",
	"close_range": "5.9", "mount_setattr": "5.12",
	"landlock_create_ruleset": "5.13", "landlock_add_rule": "5.13", "landlock_restrict_self": "5.13",
}

// MissingCallError is a system call that the kernel does not have, or that a filter around Brig hides.
type MissingCallError struct{ Name string }

func (e *MissingCallError) Error() string {
	return fmt.Sprintf("this kernel has no %s(2), which came with Linux %s, or a seccomp filter around Brig hides it; Brig needs Linux 5.15 and all of its system calls",
		e.Name, since[e.Name])
}

// Unwrap is what the kernel says.
func (e *MissingCallError) Unwrap() error { return unix.ENOSYS }

// needed are the system calls for which there is no replacement that is as safe: a path that is resolved in one piece and in a
// root, a mount that is attached to a file descriptor, a process that a number cannot be mistaken for. The arguments make each
// fail before it does or reads anything, with EINVAL or for lack of a right.
var needed = []struct {
	name string
	nr   uintptr
	args [5]uintptr
	flag string // which EINVAL says to be missing, with its version
}{
	{"openat2", unix.SYS_OPENAT2, [5]uintptr{none32, 0, 0, 0}, ""}, // a structure of size 0
	{"open_tree", unix.SYS_OPEN_TREE, [5]uintptr{none32, 0, none32}, ""},
	{"move_mount", unix.SYS_MOVE_MOUNT, [5]uintptr{none32, 0, none32, 0, none32}, ""},
	{"fsopen", unix.SYS_FSOPEN, [5]uintptr{0, none32}, ""},
	{"fsconfig", unix.SYS_FSCONFIG, [5]uintptr{none32, none32}, ""},
	{"fsmount", unix.SYS_FSMOUNT, [5]uintptr{none32, none32}, ""},
	{"mount_setattr", unix.SYS_MOUNT_SETATTR, [5]uintptr{none32, 0, none32}, ""},
	// A range in which no descriptor can be.
	{"close_range", unix.SYS_CLOSE_RANGE, [5]uintptr{none32, none32, unix.CLOSE_RANGE_CLOEXEC}, "CLOSE_RANGE_CLOEXEC of Linux 5.11"},
	{"pidfd_open", unix.SYS_PIDFD_OPEN, [5]uintptr{1, none32}, ""},
	{"pidfd_send_signal", unix.SYS_PIDFD_SEND_SIGNAL, [5]uintptr{none32, 0, 0, none32}, ""},
}

// none32 is no file descriptor, and no flags that are known.
const none32 = uintptr(^uint32(0))

// CheckKernel says which of the system calls that every launch needs is missing, before anything is made that would have to be
// undone. A microsecond, once for a process.
var CheckKernel = sync.OnceValue(func() error {
	for _, c := range needed {
		_, _, errno := unix.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
		if errno == unix.ENOSYS {
			return &MissingCallError{c.name}
		}
		if errno == unix.EINVAL && c.flag != "" {
			return fmt.Errorf("this kernel's %s(2) lacks %s, or a seccomp filter around Brig hides it; Brig needs Linux 5.15", c.name, c.flag)
		}
	}
	return nil
})

// ErrNotBornInCgroup tells that a child could not be born in a cgroup; Clone.Cgroup is to be left out, and the child to
// write itself into cgroup.procs.
var ErrNotBornInCgroup = errors.New("this kernel cannot make a process in a cgroup (CLONE_INTO_CGROUP of clone3(2), Linux 5.7), or a seccomp filter around Brig hides it")
