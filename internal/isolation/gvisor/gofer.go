package gvisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"brig/internal/isolation/gvisor/job"
	"brig/internal/isolation/native"

	"golang.org/x/sys/unix"
)

// serve starts the file server in the sandbox of the kernel process. The two have a root in common, of which the kernel process opens
// nothing, and the server holds the few capabilities that the kernel process has not.
func (s *start) serve(program *os.File, kernel *native.Process) (*native.Process, error) {
	text, err := json.Marshal(job.Files{Served: s.served})
	if err != nil {
		return nil, err
	}
	files, err := s.memory("files", text)
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, s.own(files).Close())
	}
	proc, err := procOf(kernel.PID)
	if err != nil {
		return nil, err
	}
	o := native.Options{
		Cgroup: s.options.Cgroup, Maps: s.options.Maps, Supervised: s.options.Supervised, Program: program,
		WithoutProc: true, // the guest has its own, but one with the right to unmount that would be served this one, and the server's memory in it
		Stdio:       [3]*os.File{s.own(null), null, null},
		PassFDs:     slices.Concat([]*os.File{s.own(files), s.own(proc)}, s.sockets),
	}
	p, err := native.Exec(goferSpec(s.spec), kernel.PIDFD(), o)
	if err != nil {
		return nil, fmt.Errorf("start the file server of the sandbox: %w", err)
	}
	return p, nil
}

// procOf opens the procfs of the sandbox, by its first process.
func procOf(pid int) (*os.File, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root/proc", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open the procfs of the sandbox: %w", err)
	}
	return os.NewFile(uintptr(fd), "proc"), nil
}
