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
// container need not know which are open. What this process itself has opened is close-on-exec.
func passedFiles(n int) []*os.File {
	files := make([]*os.File, max(n, 0))
	for i := range files {
		fd := 3 + i
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0) //nolint:gosec // small
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			files[i] = os.NewFile(uintptr(fd), fmt.Sprintf("file descriptor %d", fd)) //nolint:gosec // small
		}
	}
	return files
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
