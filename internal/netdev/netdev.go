// Package netdev moves network devices of the host into a sandbox's network namespace (runtime-spec config-linux.md,
// "Network Devices").
//
// Its place on the road: package plan checks linux.netDevices, package native calls Move when the sandbox's namespaces are
// there and before anything runs in them. Nothing brings a device back: when the namespace goes, the kernel returns
// physical devices to the host and destroys virtual ones (network_namespaces(7)).
//
// It speaks rtnetlink(7) itself, with the few messages that are needed: a library for all of it costs every start of the
// runtime more than this package has lines.
package netdev

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Device is a device of the host.
type Device struct {
	Host string // its name on the host
	Name string // its name in the sandbox; with %d the kernel finds a free number
}

// CheckName refuses what the kernel takes for no device name (dev_valid_name in net/core/dev.c).
func CheckName(name string) error {
	switch {
	case name == "", name == ".", name == "..":
		return fmt.Errorf("invalid network device name %q", name)
	case len(name) >= unix.IFNAMSIZ:
		return fmt.Errorf("invalid network device name %q: longer than %d bytes", name, unix.IFNAMSIZ-1)
	case strings.ContainsAny(name, "/:\x00") || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' }):
		return fmt.Errorf("invalid network device name %q: it has a slash, a colon or a space", name)
	}
	return nil
}

// Move moves the devices from the caller's network namespace into that of process pid, with their permanent global addresses,
// and sets them up.
func Move(pid int, devices []Device) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("open the sandbox's network namespace: %w", err)
	}
	defer ns.Close() //nolint:errcheck // read only
	host, err := open()
	if err != nil {
		return err
	}
	defer host.close()
	inside, err := openIn(ns)
	if err != nil {
		return err
	}
	defer inside.close()
	for _, d := range devices {
		if err := move(host, inside, ns, d); err != nil {
			return fmt.Errorf("move the network device %s into the sandbox: %w", d.Host, err)
		}
	}
	return nil
}

func move(host, inside *conn, ns *os.File, d Device) error {
	outside, err := host.links()
	if err != nil {
		return err
	}
	index, ok := outside[d.Host]
	if !ok {
		return fmt.Errorf("link not found for interface %s on runtime namespace", d.Host) // runc's words
	}
	addresses, err := host.addresses(index)
	if err != nil {
		return fmt.Errorf("read its addresses: %w", err)
	}
	// The kernel moves first and renames then: a name that is taken would leave the device inside under its old one.
	before, err := inside.links()
	if err != nil {
		return err
	}
	if _, taken := before[d.Name]; taken {
		return fmt.Errorf("the name %s is taken there: %w", d.Name, unix.EEXIST)
	}
	if err := host.moveLink(index, d.Name, ns); err != nil {
		return err
	}
	after, err := inside.links()
	if err != nil {
		return err
	}
	index, ok = after[d.Name]
	if !ok {
		index, ok = newcomer(before, after) // the name was a template
	}
	if !ok {
		return errors.New("it is not there after the move")
	}
	for _, a := range addresses {
		if err := inside.addAddress(index, a); err != nil {
			return fmt.Errorf("give it its address back: %w", err)
		}
	}
	if err := inside.setUp(index); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	return nil
}

// newcomer is the index of the one link that was not there before.
func newcomer(before, after map[string]int32) (int32, bool) {
	for name, index := range after {
		if _, ok := before[name]; !ok {
			return index, true
		}
	}
	return 0, false
}

// openIn makes a connection to another network namespace: a socket stays in the one it was made in.
func openIn(ns *os.File) (c *conn, err error) {
	err = within(ns, func() (err error) {
		c, err = open()
		return err
	})
	return c, err
}

// within does something on a thread of another network namespace.
func within(ns *os.File, do func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		own, oerr := os.Open("/proc/thread-self/ns/net")
		if oerr != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("open the runtime's network namespace: %w", oerr)
			return
		}
		defer own.Close() //nolint:errcheck // read only
		if serr := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); serr != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("enter the sandbox's network namespace: %w", serr)
			return
		}
		err = do()
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // else the thread ends with this goroutine
		}
	}()
	<-done
	return err
}
