// Package fork starts a process and times it, and knows what a bare process in new namespaces is. The benchmark and its
// bare helper share it, so that both mean the same by these words.
package fork

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Usage is what one process cost, from before its fork to after its exit.
type Usage struct {
	Wall time.Duration
	CPU  time.Duration // user and system time of the process and of the children it waited for (wait4(2), rusage)
}

// StatusError is a process that did not end with status 0.
type StatusError struct {
	Program string
	Status  syscall.WaitStatus
}

func (e *StatusError) Error() string {
	if e.Status.Signaled() {
		return fmt.Sprintf("%s was ended by signal %d", e.Program, e.Status.Signal())
	}
	return fmt.Sprintf("%s ended with status %d", e.Program, e.Status.ExitStatus())
}

// Run starts a program and waits for its end.
func Run(argv []string, attr *syscall.ProcAttr) (Usage, error) {
	begin := time.Now()
	pid, err := syscall.ForkExec(argv[0], argv, attr)
	if err != nil {
		return Usage{}, fmt.Errorf("start %s: %w", argv[0], err)
	}
	var status syscall.WaitStatus
	var r syscall.Rusage
	for {
		_, err = syscall.Wait4(pid, &status, 0, &r)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	u := Usage{Wall: time.Since(begin), CPU: CPU(&r)}
	if err == nil && status != 0 {
		err = &StatusError{argv[0], status}
	}
	return u, err
}

// CPU is the user and system time of a rusage together.
func CPU(r *syscall.Rusage) time.Duration {
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// bareIDs is where the id range of the bare process begins, far from any that is handed out.
const bareIDs = 1 << 20

// Bare is the least that a process in the same namespaces as a sandbox's needs: one clone, the id maps, chroot, execve.
// The standard library does it, so that the measure does not depend on Brig.
func Bare(root string, files []uintptr) *syscall.ProcAttr {
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: bareIDs, Size: 65536}}
	return &syscall.ProcAttr{
		Dir:   "/",
		Files: files,
		Sys: &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET |
				syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWCGROUP,
			UidMappings: maps, GidMappings: maps,
			Chroot:     root,
			Credential: &syscall.Credential{NoSetGroups: true},
		},
	}
}

// Standard are the three standard streams of this process.
func Standard() []uintptr {
	return []uintptr{os.Stdin.Fd(), os.Stdout.Fd(), os.Stderr.Fd()}
}
