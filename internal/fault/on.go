//go:build faults

package fault

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var passed atomic.Int64

// Point kills the process when it is the point that BRIG_FAULT asks for: the N-th that is passed, or the one of that
// name; several, with commas between, kill a process and the one that clears up after it. With BRIG_FAULT_STOP it stops there instead, until somebody sends SIGCONT: a test then does what another process would
// do at that instant. With BRIG_FAULT_LOG the points are written there, a line each.
func Point(name string) {
	n := passed.Add(1)
	if log := os.Getenv("BRIG_FAULT_LOG"); log != "" {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		fmt.Fprintln(f, name)
		_ = f.Close()
	}
	here := func(wanted string) bool {
		for want := range strings.SplitSeq(wanted, ",") {
			if want == name || want == strconv.FormatInt(n, 10) {
				return true
			}
		}
		return false
	}
	if here(os.Getenv("BRIG_FAULT")) {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	if here(os.Getenv("BRIG_FAULT_STOP")) {
		// To this thread, so that it does not go on before another one has taken the signal.
		runtime.LockOSThread()
		_ = syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGSTOP)
		runtime.UnlockOSThread()
	}
}
