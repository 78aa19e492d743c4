// Command brig-gvisor is gVisor's kernel as Brig starts it: the program of a native sandbox, which serves the system calls
// of another one.
//
// It is a Go module of its own, so that what gVisor needs, its size and its start-up stay out of Brig's other programs. The
// namespaces, ids, capabilities, mounts, control groups and limits around it are made by Brig's launch program before it is
// executed: none of runsc's own is used.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"brig/internal/isolation/gvisor/job"

	"gvisor.dev/gvisor/runsc/version"
)

// commands are what Brig calls this program with. Nothing of it is for people.
var commands = map[string]func() error{
	"gofer":  gofer,
	"sentry": sentry,
}

func main() {
	err := command(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "brig-gvisor:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	if len(args) == 1 && args[0] == "version" {
		return printVersion()
	}
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("it is started by brig: brig run --isolation gvisor")
	}
	if given := strings.Join(args[1:], " "); given != job.Interface {
		return fmt.Errorf("it was built from another tree than brig, and would not do all that this brig asks for (interface %s, and %q is asked for): "+
			"build and install the two together", job.Interface, given)
	}
	return commands[args[0]]()
}

// printVersion says what a saved state of a kernel depends on, gVisor's release and the compiler, and in a line of its own what it has in
// common with brig.
func printVersion() error {
	_, err := fmt.Printf("gVisor %s %s %s\ninterface %s\n", release(), runtime.Version(), runtime.GOARCH, job.Interface)
	return err
}

// release is the module that this program was built from. gVisor's own word for it is the linker's to set, and the same in all builds for
// which nobody did.
func release() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version.Version()
	}
	for _, m := range info.Deps {
		switch {
		case m.Path != "gvisor.dev/gvisor":
		case m.Replace != nil:
			return m.Version + " => " + m.Replace.Path + " " + m.Replace.Version
		default:
			return m.Version
		}
	}
	return version.Version()
}
