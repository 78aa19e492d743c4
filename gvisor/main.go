// Command brig-gvisor is gVisor's kernel as Brig starts it: the program of a native sandbox, which serves the system calls
// of another one.
//
// It is a Go module of its own, so that what gVisor needs, its size and its start-up stay out of Brig's other programs. The
// namespaces, ids, capabilities, mounts, control groups and limits around it are made by Brig's launch program before it is
// executed: none of runsc's own is used.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"gvisor.dev/gvisor/runsc/version"
)

// commands are what Brig calls this program with. Nothing of it is for people.
var commands = map[string]func() error{
	"gofer":   gofer,
	"sentry":  sentry,
	"version": printVersion,
}

func main() {
	if len(os.Args) == 2 {
		if run, ok := commands[os.Args[1]]; ok {
			if err := run(); err != nil {
				fmt.Fprintln(os.Stderr, "brig-gvisor:", err)
				os.Exit(1)
			}
			return
		}
	}
	fmt.Fprintln(os.Stderr, "brig-gvisor is started by brig: brig run --isolation gvisor")
	os.Exit(2)
}

// printVersion says what a saved state of a kernel depends on: gVisor's release, and the compiler.
func printVersion() error {
	_, err := fmt.Println("gVisor", release(), runtime.Version(), runtime.GOARCH)
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
