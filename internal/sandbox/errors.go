package sandbox

import (
	"errors"
	"fmt"
	"strings"

	"brig/internal/launch"
	"brig/internal/mac/selinux"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ErrNotFound says that no sandbox has the id or name.
var ErrNotFound = errors.New("no such sandbox; `brig ps -a` lists them")

// NameInUseError is a name that another sandbox has.
type NameInUseError struct{ Name, ID string }

func (e *NameInUseError) Error() string {
	return fmt.Sprintf("the name %q is in use by sandbox %s; choose another, or remove that one with `brig rm %s`", e.Name, e.ID, e.Name)
}

// AmbiguousError is the beginning of more than one id.
type AmbiguousError struct {
	Prefix string
	IDs    []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q is the beginning of %d sandbox ids (%s); give more of it", e.Prefix, len(e.IDs), strings.Join(e.IDs, ", "))
}

// NotRunningError is a verb that needs a running sandbox.
type NotRunningError struct {
	ID     string
	Status Status
}

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("sandbox %s is %s, not running", e.ID, e.Status)
}

// RunningError is a verb that needs a sandbox that has ended.
type RunningError struct{ ID string }

func (e *RunningError) Error() string {
	return fmt.Sprintf("sandbox %s is running; stop it first, or remove it with --force", e.ID)
}

// CommandError is a program that could not be executed in the sandbox.
type CommandError struct {
	Name string
	Err  error
	// Refusal says that SELinux was the reason, "" for another.
	Refusal string
}

func (e *CommandError) Error() string {
	switch {
	case e.Refusal != "":
		return fmt.Sprintf("%s: may not be executed: %s", e.Name, e.Refusal)
	case errors.Is(e.Err, unix.ENOENT), errors.Is(e.Err, unix.ENOTDIR):
		if strings.Contains(e.Name, "/") {
			return fmt.Sprintf("%s: not found in the sandbox, or its interpreter is not; its root file system and mounts are all it sees", e.Name)
		}
		return fmt.Sprintf("%s: not found in the sandbox's PATH", e.Name)
	case errors.Is(e.Err, unix.EACCES):
		return fmt.Sprintf("%s: may not be executed (no execute permission, a noexec mount, or a folder on the way is closed)", e.Name)
	case errors.Is(e.Err, unix.ENOEXEC):
		return fmt.Sprintf("%s: is no program for this machine", e.Name)
	case errors.Is(e.Err, unix.E2BIG):
		return fmt.Sprintf("%s: the arguments and the environment are too long for one execve (the kernel allows 128 KiB a string, and a quarter of the stack limit in all)", e.Name)
	}
	return fmt.Sprintf("%s: cannot be executed: %v", e.Name, e.Err)
}

func (e *CommandError) Unwrap() error { return e.Err }

// commandError turns the failure of execve itself into a CommandError.
func commandError(pr *specs.Process, err error) error {
	if errno, ok := programError(err); ok {
		return &CommandError{Name: pr.Args[0], Err: errno}
	}
	var step *launch.StepError
	if errors.As(err, &step) && strings.HasPrefix(step.Call, "execve(") {
		c := &CommandError{pr.Args[0], step.Errno, selinux.Refusal(pr.SelinuxLabel, pr.NoNewPrivileges, step.Errno)}
		if _, own := selinux.FileLabel(pr.SelinuxLabel); own && c.Refusal == "" && step.Errno == unix.EACCES {
			c.Refusal = fmt.Sprintf("no execute permission, a noexec mount, a folder on the way is closed, or a file has an SELinux label that %s may not use: "+
				"a volume gets one by the option z, a root folder by chcon -R %s FOLDER", pr.SelinuxLabel, selinux.Shared)
		}
		return c
	}
	return err
}

// ExitCode is the exit code of an error: 127 when the program is not there, 126 when it cannot be executed, 125 for
// everything that is Brig's own failure. docker run has the same.
func ExitCode(err error) int {
	var c *CommandError
	switch {
	case !errors.As(err, &c), errors.Is(err, unix.E2BIG):
		return 125
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return 127
	}
	return 126
}
