package oci

import (
	"fmt"
	"os"
	"strconv"

	"brig/internal/plan"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// passedFiles are the caller's file descriptors from 3 on, nil where it has none: crun passes over those, and whoever runs a
// container need not know which are open.
//
// Whatever else the caller has left open is closed: the container's process is a child of this one and waits for its start, maybe
// for ever, with all that is open here, a lock of the caller's, or the end of a pipe that somebody reads to its end.
func passedFiles(n int) ([]*os.File, error) {
	files := make([]*os.File, max(n, 0))
	for i := range files {
		if fd := 3 + i; inherited(fd) {
			files[i] = os.NewFile(uintptr(fd), fmt.Sprintf("file descriptor %d", fd)) //nolint:gosec // small
		}
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("look for open files: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= 3+len(files) && inherited(fd) {
			_ = unix.Close(fd)
		}
	}
	return files, nil
}

// inherited tells whether a file descriptor came by execve: those of this program and its language's runtime are
// close-on-exec.
func inherited(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0) //nolint:gosec // small
	return err == nil && flags&unix.FD_CLOEXEC == 0
}

// listenFDs gives how many sockets a service manager has passed, and tells the program (sd_listen_fds(3)).
func listenFDs(spec *specs.Spec) int {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n <= 0 {
		return 0
	}
	if pid := os.Getenv("LISTEN_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0 // another process's
	}
	env := append(spec.Process.Env, "LISTEN_FDS="+strconv.Itoa(n))
	if _, own := plan.Namespace(spec, specs.PIDNamespace); own {
		env = append(env, "LISTEN_PID=1")
	}
	if names := os.Getenv("LISTEN_FDNAMES"); names != "" {
		env = append(env, "LISTEN_FDNAMES="+names)
	}
	spec.Process.Env = env
	return n
}
