package oci

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"brig/internal/launch"
	"brig/internal/mac/selinux"
	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// failure puts runc's words before an error: its suites, and engines that take errors apart, look for them.
func (a *app) failure(verb string, err error) error {
	var step *launch.StepError
	var program *programFailure
	var inside *initError
	var locked *plan.LockedFlagsError
	switch err = a.explained(err); {
	case err == nil:
		return nil
	case errors.As(err, &program):
		a.code = 255 // that of the child, which with runc says so itself
		return program
	case errors.As(err, &step) && step.Layer == launch.Mounts, errors.As(err, &locked):
		return fmt.Errorf("%s: unable to start container process: error during container init: error mounting: %w", verb, err)
	case errors.As(err, &step), errors.As(err, &inside):
		return fmt.Errorf("%s: unable to start container process: error during container init: %w", verb, err)
	}
	return fmt.Errorf("%s: %w", verb, err)
}

// programFailure is what execve said of a program that is there: its interpreter is not, say. It stands alone on standard error,
// without time and level.
type programFailure struct {
	path string
	err  error
}

func (e *programFailure) Error() string { return fmt.Sprintf("exec %s: %v", e.path, e.err) }
func (e *programFailure) Unwrap() error { return e.err }

// initError is what the child met before it became the program.
type initError struct{ error }

// programError says what engines look for when the program cannot be executed.
func programError(rootfs string, pr *specs.Process, err error) error {
	var step *launch.StepError
	var hook *hookError
	if !errors.As(err, &step) || errors.As(err, &hook) {
		return err
	}
	executed := strings.HasPrefix(step.Call, "execve(")
	if !executed && !strings.HasPrefix(step.Call, "faccessat2(") {
		return err
	}
	return failureOf(rootfs, pr, step.Errno, executed)
}

// failureOf says why a program could not be executed, or looked for.
func failureOf(rootfs string, pr *specs.Process, errno unix.Errno, executed bool) error {
	args, err := pr.Args, fmt.Errorf("exec: %q: %w", pr.Args[0], errno)
	if why := selinux.Refusal(pr.SelinuxLabel, pr.NoNewPrivileges, errno); why != "" {
		err = fmt.Errorf("%w: %s", err, why)
	}
	if errors.Is(err, unix.ENOENT) {
		switch found := inPath(rootfs, pr); {
		case executed && found != "":
			return &programFailure{found, errno} // it is there, and what interprets it is not
		case !strings.Contains(args[0], "/"):
			err = fmt.Errorf("exec: %q: executable file not found in $PATH", args[0])
		default:
			err = fmt.Errorf("exec: %q: stat %s: %w", args[0], args[0], errno)
		}
	}
	return &initError{err}
}

// inPath gives the path of a process's program in the root folder, "" where there is none.
func inPath(rootfs string, pr *specs.Process) string {
	if name := pr.Args[0]; strings.Contains(name, "/") {
		if has(rootfs, name) {
			return name
		}
		return ""
	}
	for _, e := range pr.Env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			if name := path.Join(dir, pr.Args[0]); has(rootfs, name) {
				return name
			}
		}
		break
	}
	return ""
}

// has tells whether a file is in the root folder.
func has(rootfs, name string) bool {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return false
	}
	defer root.Close() //nolint:errcheck // read only
	_, err = root.Lstat(strings.TrimLeft(name, "/"))
	return err == nil
}
