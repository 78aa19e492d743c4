package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"brig/internal/fault"
	"brig/internal/isolation/gvisor"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// savingFile stands in the folder of a sandbox that is being saved, locked by whoever does it. Its content says how far that has
// come: one of the words below, or the folder of a checkpoint that is whole.
const savingFile = "saving"

// How far a checkpoint has come.
const (
	savingLive    = "live\n"    // the guest goes on by itself
	savingPausing = "pausing\n" // it may stand still already
	savingPaused  = "paused\n"  // it stands still until somebody lets it go on
)

// saving is a checkpoint in the making.
type saving struct {
	b     *Sandbox
	spec  *specs.Spec
	file  *os.File
	state string
	stays bool // the sandbox goes on behind it
}

// beginSaving takes the sandbox for a checkpoint, which nobody else makes meanwhile.
func (b *Sandbox) beginSaving(stays bool) (*saving, error) {
	if err := b.sweepCheckpoint(); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(b.dir, ".saving-")
	if err != nil {
		return nil, err
	}
	s := &saving{b: b, file: f, stays: stays}
	free, err := tryLock(f)
	if err == nil && !free {
		err = unix.EAGAIN
	}
	if err == nil {
		err = s.note(savingLive)
	}
	if err == nil {
		err = os.Link(f.Name(), filepath.Join(b.dir, savingFile))
	}
	err = errors.Join(err, os.Remove(f.Name()))
	if errors.Is(err, fs.ErrExist) {
		err = errors.New("another checkpoint of it is being made")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("save sandbox %s: %w", b.ID, err), f.Close())
	}
	return s, nil
}

func (s *saving) note(state string) error {
	s.state = state
	if err := s.file.Truncate(0); err != nil {
		return err
	}
	_, err := s.file.WriteAt([]byte(state), 0)
	return err
}

// pause has the guest stand still, where it is to end behind the checkpoint: what it did after that would be done twice.
func (s *saving) pause() error {
	if s.stays {
		return nil
	}
	if err := s.note(savingPausing); err != nil {
		return err
	}
	if err := gvisor.Pause(s.b.dir); err != nil {
		return err
	}
	fault.Point("guest paused")
	return s.note(savingPaused)
}

// rollBack has the sandbox go on.
func (s *saving) rollBack() error {
	var err error
	if s.state == savingPaused {
		err = s.b.goOn()
	}
	return errors.Join(err, s.b.dropSaving(), s.file.Close())
}

// finish ends the sandbox whose checkpoint is whole, and says so to its supervisor.
func (s *saving) finish(dir string) error {
	if s.stays {
		return errors.Join(s.b.dropSaving(), s.file.Close())
	}
	lock, err := s.b.openLock()
	if err != nil {
		return errors.Join(err, s.rollBack())
	}
	defer lock.Close() //nolint:errcheck // only waited for
	err = s.note(dir)
	fault.Point("checkpoint made")
	if err == nil {
		err = ignoreEnded(s.b.Signal(unix.SIGKILL))
	}
	if err == nil {
		err = waitLock(lock)
	}
	return errors.Join(err, s.file.Close())
}

func (b *Sandbox) dropSaving() error {
	err := os.Remove(filepath.Join(b.dir, savingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the sandbox has ended
	}
	return err
}

// sweepCheckpoint finishes what the maker of a checkpoint left that was killed: a guest that stands still goes on, one whose
// checkpoint is whole ends. Where nobody knows whether it stands still it is ended, too: it would stay so for good.
func (b *Sandbox) sweepCheckpoint() error {
	f, err := os.OpenFile(filepath.Join(b.dir, savingFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at sandbox %s: %w", b.ID, err)
	}
	defer f.Close() //nolint:errcheck // a lock
	if free, err := tryLock(f); err != nil || !free {
		return err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	switch string(text) {
	case savingLive, "":
	case savingPaused:
		return errors.Join(b.goOn(), b.dropSaving())
	default:
		return b.signalSwept(unix.SIGKILL)
	}
	return b.dropSaving()
}

// goOn lets a guest that stands still go on. A kernel that does not say that it does is ended, with its sandbox: every command of Brig's
// asks it, and would wait for it.
func (b *Sandbox) goOn() error {
	if err := gvisor.Unpause(b.dir); err != nil {
		return b.signalSwept(unix.SIGKILL)
	}
	return nil
}

// signalSwept is Signal for a caller that is the sweep itself.
func (b *Sandbox) signalSwept(s unix.Signal) error {
	var st State
	if err := b.read("state.json", &st); err != nil {
		return ignoreEnded(err)
	}
	pidfd, err := b.pidfd(&st)
	if err != nil {
		return nil //nolint:nilerr // it has ended
	}
	defer pidfd.Close()                                                                                     //nolint:errcheck // read only
	if err := unix.PidfdSendSignal(int(pidfd.Fd()), s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) { //nolint:gosec // a file descriptor
		return fmt.Errorf("send signal %d to sandbox %s: %w", s, b.ID, err)
	}
	return nil
}

// savedResult says of a sandbox that was ended behind its checkpoint that it was.
func (v *supervisor) savedResult(status unix.WaitStatus) (Result, bool) {
	if !v.onGVisor() || !status.Signaled() || status.Signal() != unix.SIGKILL {
		return Result{}, false
	}
	text, err := os.ReadFile(filepath.Join(v.dir, savingFile))
	if err != nil || len(text) == 0 || text[0] != '/' {
		return Result{}, false
	}
	return Result{ExitCode: 137, Signal: int(unix.SIGKILL), Cause: Saved, Message: "its state was saved in " + string(text) + ": brig restore goes on from there"}, true
}
