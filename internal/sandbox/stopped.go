package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"brig/internal/isolation/gvisor"

	"golang.org/x/sys/unix"
)

// A supervisor that is stopped (SIGSTOP) keeps its sandbox from coming to an end: the program can be killed, but nobody records that and
// gives back what the sandbox has.

// StoppedSupervisorError is a sandbox whose program has been killed, and whose supervisor takes no notice.
type StoppedSupervisorError struct {
	ID  string
	PID int
}

func (e *StoppedSupervisorError) Error() string {
	return fmt.Sprintf("the program of sandbox %s is killed, but its supervisor, process %d, is stopped: `kill -CONT %d` lets it clear up, `brig rm -f %s` ends it",
		e.ID, e.PID, e.PID, e.ID)
}

// asked are the processes that are asked for what the sandbox's kernel does, where that is gVisor's.
func (st *State) asked() gvisor.Asked {
	return gvisor.Asked{Kernel: st.PID, Supervisor: st.Monitor}
}

// toContinue says of an error by a process that is stopped what to do about it, and of one by a kernel that is gone what that means.
func (b *Sandbox) toContinue(err error) error {
	if gvisor.Gone(err) {
		return fmt.Errorf("sandbox %s has ended meanwhile: %w", b.ID, err)
	}
	if e := (*gvisor.StoppedError)(nil); errors.As(err, &e) {
		return fmt.Errorf("%w: `kill -CONT %d` lets it go on, `brig rm -f %s` ends the sandbox", err, e.PID, b.ID)
	}
	return err
}

// lookAfter is how often a supervisor is looked at whose sandbox is to end.
const lookAfter = 200 * time.Millisecond

// stoppedSupervisor gives the pidfd of the sandbox's supervisor if that is stopped. It is known by the lock, which it has open: the number
// may be another process's.
func (b *Sandbox) stoppedSupervisor(st *State) (*os.File, error) {
	fd, err := unix.PidfdOpen(st.Monitor, 0)
	if err != nil {
		return nil, err
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	if !stopped(st.Monitor) {
		err = errors.New("it is not stopped")
	}
	if err == nil {
		err = b.hasLockOpen(st.Monitor)
	}
	if err == nil {
		err = unix.PidfdSendSignal(fd, 0, nil, 0) // what was looked at in /proc was that process, for it is there yet
	}
	if err != nil {
		return nil, errors.Join(err, pidfd.Close())
	}
	return pidfd, nil
}

// hasLockOpen refuses a process that does not have the sandbox's lock open.
func (b *Sandbox) hasLockOpen(pid int) error {
	lock, err := os.Stat(filepath.Join(b.dir, lockFile))
	if err != nil {
		return err
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if f, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && os.SameFile(f, lock) {
			return nil
		}
	}
	return fmt.Errorf("process %d is no supervisor of sandbox %s", pid, b.ID)
}

// waitForced waits for the end of a sandbox that is killed to be removed, and kills its supervisor, too, where that is stopped: what it
// leaves is cleared as what any killed supervisor leaves. One that a process keeps from ending is an error.
func (b *Sandbox) waitForced(ctx context.Context, st *State) error {
	over, done := context.WithCancelCause(ctx)
	defer done(nil)
	go func() {
		look := time.NewTicker(lookAfter)
		defer look.Stop()
		for waiting := (waiters{}); ; {
			select {
			case <-over.Done():
				return
			case <-look.C:
				if supervisor, err := b.stoppedSupervisor(st); err == nil {
					_ = unix.PidfdSendSignal(int(supervisor.Fd()), unix.SIGKILL, nil, 0) //nolint:gosec // a file descriptor
					_ = supervisor.Close()
				}
				if err := waiting.look(b, st, stuckAfter); err != nil {
					done(err)
				}
			}
		}
	}()
	if _, err := b.Wait(over); err != nil && !errors.Is(err, ErrNotFound) {
		if stuck := (*StuckError)(nil); errors.As(context.Cause(over), &stuck) {
			return stuck
		}
		return err
	}
	return nil
}
