package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
)

// Version says which kernel is installed: a saved state belongs to one build of it.
func Version() (string, error) {
	version, _, err := installed("")
	return version, err
}

// Installed is Version of a kernel that works with this brig.
func Installed() (string, error) {
	version, common, err := installed("")
	if err == nil {
		err = matches(common)
	}
	return version, err
}

// installed gives the two lines that the kernel's program says of itself.
func installed(beside string) (version, common string, err error) {
	f, err := open(beside)
	if err != nil {
		return "", "", err
	}
	defer f.Close() //nolint:errcheck // read only
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	c := exec.CommandContext(ctx, f.Name(), "version")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for who asks
	out, err := c.Output()
	if err != nil {
		return "", "", fmt.Errorf("ask %s for its version: %w", f.Name(), err)
	}
	version, common, _ = strings.Cut(string(bytes.TrimSpace(out)), "\n")
	return version, common, nil
}

// matches refuses a kernel's program that says of itself that it has another interface, or nothing.
func matches(common string) error {
	if common != "interface "+job.Interface {
		return fmt.Errorf("the %s that is installed was built from another tree than this brig; build and install the two together (`make build gvisor`)", programName)
	}
	return nil
}

// blame looks, where a start has failed, whether what is installed as the kernel's program is one that can serve. One that is not ends or is
// not executed at whatever point of the start, and says nothing that Brig would understand.
func (o *Options) blame(err error) error {
	var program *ProgramError
	if errors.As(err, &program) || errors.Is(err, context.Canceled) {
		return err
	}
	_, common, look := installed(o.Beside)
	var ended *exec.ExitError
	switch {
	case look == nil:
		look = matches(common)
	case !errors.As(look, &ended) && !errors.Is(look, unix.ENOENT) && !errors.Is(look, unix.ENOEXEC) && !errors.Is(look, unix.EACCES):
		return err // the look has failed for the same reason, as for want of descriptors
	}
	if look != nil {
		return fmt.Errorf("isolation gvisor: %w (%w)", look, err)
	}
	return err
}
