package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// lane is one thread that processes are started from. A lane may have a mount namespace of its own, which the processes
// it starts are born into: that way the cost of making the namespace is counted for nobody.
type lane struct {
	jobs chan func()
	ns   *os.File // its mount namespace, or nil for this process's
}

// newLane starts a lane. prepare runs on its thread before any job.
func newLane(prepare func() error) (*lane, error) {
	l := &lane{jobs: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := prepare()
		ready <- err
		if err != nil {
			return
		}
		for job := range l.jobs {
			job()
		}
	}()
	return l, <-ready
}

// do runs a job on the lane's thread and waits for its end.
func (l *lane) do(job func()) {
	done := make(chan struct{})
	l.jobs <- func() {
		defer close(done)
		job()
	}
	<-done
}

func (l *lane) close() {
	if l == nil {
		return
	}
	close(l.jobs)
	if l.ns != nil {
		_ = l.ns.Close()
	}
}

func ordinaryLane() (*lane, error) { return newLane(func() error { return nil }) }

// unifiedLane has a plain cgroup version 2 on /sys/fs/cgroup: crun 1.8 starts nothing on a host with version 1 beside
// version 2 unless it finds one of them whole.
func unifiedLane() (*lane, error) {
	var ns *os.File
	l, err := newLane(func() (err error) {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make a mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("keep mounts from the host: %w", err)
		}
		if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount cgroup version 2: %w", err)
		}
		ns, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
	if err != nil {
		return nil, err
	}
	l.ns = ns
	return l, nil
}

// joinLane is a further lane in the mount namespace of another.
func joinLane(of *lane) (*lane, error) {
	if of.ns == nil {
		return ordinaryLane()
	}
	return newLane(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		return unix.Setns(int(of.ns.Fd()), unix.CLONE_NEWNS) //nolint:gosec // a file descriptor
	})
}
