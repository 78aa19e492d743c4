package sandbox

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that go on to the program. The list is short because each costs a system call at start.
var forwarded = []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}

// forwardSignals hands signals on to the sandbox until the function it gives is called.
func (v *supervisor) forwardSignals() (stop func()) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, forwarded...)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-c:
				v.forward(s.(syscall.Signal)) //nolint:forcetypeassert // Notify sends no other
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(c)
		close(done)
	}
}

// forward sends one signal. The kernel keeps from the first process of a pid namespace every signal that it has no
// handler for; outside of a sandbox such a signal would have ended it, so it does here too.
func (v *supervisor) forward(s syscall.Signal) {
	p := v.process
	if p == nil {
		v.end(Signaled, 128+int(s), "")
		return
	}
	if deaf(p.PID, s) {
		v.end(Signaled, 128+int(s), "")
		return
	}
	_ = p.Signal(s)
}

// deaf tells whether a process would not notice the signal: it neither catches, nor blocks, nor ignores it.
func deaf(pid int, s syscall.Signal) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	bit := uint64(1) << (uint(s) - 1) //nolint:gosec // a signal number is 1 to 64
	var seen bool
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "SigBlk", "SigIgn", "SigCgt":
			mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil || mask&bit != 0 {
				return false
			}
			seen = true
		}
	}
	return seen
}
