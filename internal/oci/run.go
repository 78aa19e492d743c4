package oci

import (
	"errors"
	"flag"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

func (a *app) run(f *flag.FlagSet) func([]string) error {
	var o creation
	o.register(f)
	f.BoolVar(&o.detach, "detach", false, "leave the container running and return")
	f.BoolVar(&o.detach, "d", false, "short for --detach")
	f.BoolVar(&o.keep, "keep", false, "keep the container after it has ended, for state and delete")
	return func(args []string) error { return a.failure("runc run failed", a.runContainer(args[0], &o)) }
}

func (a *app) runContainer(id string, o *creation) error {
	b, err := a.loadBundle(o.bundle, o.config)
	if err != nil {
		return err
	}
	defer func() { o.relay.close() }()
	runtime.LockOSThread() // which Process.Wait wants
	defer runtime.UnlockOSThread()
	c, process, err := a.createContainer(id, b, o)
	if err != nil {
		return err
	}
	defer process.Release() //nolint:errcheck // descriptors only
	if err := a.startContainer(c); err != nil {
		_ = process.Signal(unix.SIGKILL)
		_, _ = process.Wait()
		return errors.Join(err, a.destroy(id, true, c))
	}
	if o.detach {
		return a.tellReady(c, true)
	}
	go func() {
		if err := a.tellReady(c, false); err != nil {
			a.warnf("%v", err)
		}
	}()
	stop := forward(process.Signal)
	defer stop()
	status, err := process.Wait()
	if err != nil {
		return errors.Join(err, a.destroy(id, true, c))
	}
	a.code = exitCode(status)
	o.relay.close()
	o.relay = nil
	if o.keep {
		return nil
	}
	return a.destroy(id, true, c)
}

// exitCode is the shell's: 128+n for signal n.
func exitCode(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// forward hands the caller's signals on until the function it gives is called.
func forward(send func(unix.Signal) error) (stop func()) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	go func() {
		for s := range c {
			if n, ok := s.(unix.Signal); ok {
				_ = send(n)
			}
		}
	}()
	return func() { signal.Stop(c) }
}
