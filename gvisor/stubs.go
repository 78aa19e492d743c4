package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
)

// watchStubs ends the kernel when a process that systrap has made by now dies. It is the one that the stubs of the guest's processes are
// forked from: without it the guest would go on, and have no memory for another process. gVisor itself notices the death of
// a stub when its guest is to run, and kills that. It says how many it watches; a kernel without the files in /proc (CONFIG_PROC_CHILDREN)
// has none.
func watchStubs(status *os.File, exits bool) (watched int) {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		text, _ := os.ReadFile(list) //nolint:gosec // of this process
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
			if err != nil {
				continue
			}
			watched++
			go func() {
				awaitEnd(os.NewFile(uintptr(fd), "stub "+field))
				tell(status, job.End{Status: uint32(unix.SIGKILL)}) // nothing else ends it
				code := 1
				if exits {
					code = 128 + int(unix.SIGKILL)
				}
				os.Exit(code)
			}()
		}
	}
	return watched
}

// awaitEnd waits until the process of a pidfd has ended, which makes it readable.
func awaitEnd(pidfd *os.File) {
	c, err := pidfd.SyscallConn()
	if err != nil {
		select {} // not a file that can be waited for
	}
	waited := false
	err = c.Read(func(uintptr) bool {
		defer func() { waited = true }()
		return waited
	})
	if err != nil {
		select {}
	}
}
