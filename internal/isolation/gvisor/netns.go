package gvisor

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// CheckNetwork refuses a network namespace that has more to give than its loopback device, which the guest would not get. ns is its
// file.
func CheckNetwork(ns string) error {
	return inNetwork(ns, func() error {
		list, err := net.Interfaces()
		if err != nil {
			return fmt.Errorf("list the network devices of the sandbox: %w", err)
		}
		for _, i := range list {
			// The kernel puts tunnels that are down into each new one (net.core.fb_tunnels_only_for_init_net).
			if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
				return &UnsupportedError{"network", "the guest cannot have the device " + i.Name + ": give the container no network, or one that has only lo"}
			}
		}
		return nil
	})
}

// inNetwork does something on a thread of that network namespace.
func inNetwork(ns string, do func() error) error {
	f, err := os.Open(ns)
	if err != nil {
		return fmt.Errorf("open the sandbox's network namespace: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		if err != nil {
			err = fmt.Errorf("enter the sandbox's network namespace: %w", err)
		} else {
			err = do()
		}
		done <- err
	}()
	return <-done
}
