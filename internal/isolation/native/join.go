package native

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// joinProcess binds what leads into the sandbox of a process.
func (l *launching) joinProcess(pidfd *os.File) error {
	l.bind(l.plan.Process, pidfd)
	if l.plan.Root == 0 {
		return nil
	}
	pid, err := pidOf(pidfd)
	if err != nil {
		return err
	}
	root, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the sandbox's root: %w", err)
	}
	l.own(l.plan.Root, os.NewFile(uintptr(root), "root of the sandbox"))
	// It lives still, so that the number was its own when the root was opened.
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), 0, nil, 0); err != nil {
		return fmt.Errorf("open the sandbox's root: %w", err)
	}
	return nil
}

// pidOf reads the number of the process that a pidfd refers to (pidfd_open(2), "fdinfo").
func pidOf(pidfd *os.File) (int, error) {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(pidfd.Fd())))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil || pid <= 0 {
				return 0, errors.Join(unix.ESRCH, err)
			}
			return pid, nil
		}
	}
	return 0, unix.ESRCH
}
