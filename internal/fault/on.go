//go:build faults

package fault

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
)

var passed atomic.Int64

// Point kills the process when it is the point that BRIG_FAULT asks for: the N-th that is passed, or the one of that
// name. With BRIG_FAULT_LOG the points are written there instead, a line each.
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
	if want := os.Getenv("BRIG_FAULT"); want == name || want == strconv.FormatInt(n, 10) {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
