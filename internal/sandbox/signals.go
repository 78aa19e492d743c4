package sandbox

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that go on to the program. The list is short because each costs a system call at start.
var forwarded = []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}

// receivers are the supervisors of this process that take signals. They stay registered with the runtime once and for
// all: taking six signals and giving them back costs a millisecond of hand-overs between threads, measured.
var receivers struct {
	mu  sync.Mutex
	set map[*supervisor]bool
}

func receive() {
	c := make(chan os.Signal, 8)
	signal.Notify(c, forwarded...)
	for s := range c {
		receivers.mu.Lock()
		for v := range receivers.set {
			v.forward(s.(syscall.Signal)) //nolint:forcetypeassert // Notify sends no other
		}
		receivers.mu.Unlock()
	}
}

// forwardSignals hands signals on to the sandbox, until ignoreSignals. A signal before it ends this process, and the
// child with it; the next command clears up.
func (v *supervisor) forwardSignals() error {
	receivers.mu.Lock()
	defer receivers.mu.Unlock()
	if receivers.set == nil {
		receivers.set = map[*supervisor]bool{}
		go receive() // nobody waits for it
	}
	receivers.set[v] = true
	return nil
}

// ignoreSignals ends it: signals are then lost, so that nobody interrupts the way out.
func (v *supervisor) ignoreSignals() {
	receivers.mu.Lock()
	delete(receivers.set, v)
	receivers.mu.Unlock()
}

// forward sends one signal. The kernel keeps from the first process of a pid namespace every signal that it has no
// handler for; outside of a sandbox such a signal would have ended it, so it does here too.
func (v *supervisor) forward(s syscall.Signal) {
	v.mu.Lock()
	p := v.process
	if p == nil && v.early == 0 && v.onGVisor() { // a second one does not wait
		v.early = s
		v.mu.Unlock()
		return
	}
	deaf := p == nil || p.Deaf(s)
	v.mu.Unlock()
	if deaf || !v.signal(s) {
		v.end(Signaled, 128+int(s), "")
	}
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
