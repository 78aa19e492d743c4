// Command attacker is a hostile program: `attacker NAME [ARG...]` tries one way out of a sandbox, or one way to harm the
// machine from within, and prints one line: "HELD why", "ESCAPED what" or "BROKEN why". Its exit code is 0, 42 or 3.
//
// It is static, and asks the kernel directly where a library would be in the way. It never does more harm than it needs
// to prove a point: every attack must be harmless when it is run without a sandbox, for that is how the tests show that
// it works at all.
//
//go:debug containermaxprocs=0
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// attack is one way out.
type attack struct {
	name string
	try  func(args []string) verdict
}

// verdict is how an attack ended.
type verdict struct {
	word string
	text string
}

func held(format string, args ...any) verdict { return verdict{"HELD", fmt.Sprintf(format, args...)} }
func escaped(format string, args ...any) verdict {
	return verdict{"ESCAPED", fmt.Sprintf(format, args...)}
}
func broken(format string, args ...any) verdict {
	return verdict{"BROKEN", fmt.Sprintf(format, args...)}
}

// refusals are what a layer answers. Any other errno means that the kernel began to work on the request.
var refusals = []unix.Errno{unix.EPERM, unix.EACCES, unix.ENOSYS, unix.EROFS}

// absences mean that the thing is not there to be reached.
var absences = []unix.Errno{
	unix.ENOENT, unix.ENOTDIR, unix.ESRCH, unix.ENODEV, unix.ENXIO, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT,
	unix.ENOSPC, unix.EUSERS, unix.ECONNREFUSED, unix.ENETUNREACH, unix.ENOTTY,
}

// judge reads the error of a call whose success is the escape.
func judge(what string, err error) verdict {
	if err == nil {
		return escaped("%s", what)
	}
	if errno, ok := err.(unix.Errno); ok { //nolint:errorlint // system calls give bare numbers
		if slices.Contains(refusals, errno) || slices.Contains(absences, errno) {
			return held("%s %s", unix.ErrnoName(errno), what)
		}
	}
	return broken("%s: %v", what, err)
}

// reached reads the error of a call that was made with arguments that cannot do harm: only a refusal holds it.
func reached(what string, err error) verdict {
	errno, ok := err.(unix.Errno) //nolint:errorlint // system calls give bare numbers
	if ok && slices.Contains(refusals, errno) {
		return held("%s %s", unix.ErrnoName(errno), what)
	}
	return escaped("%s: the kernel answered %v", what, err)
}

// worst is the verdict that counts of several.
func worst(list ...verdict) verdict {
	for _, word := range []string{"ESCAPED", "BROKEN", "HELD"} {
		for _, v := range list {
			if v.word == word {
				return v
			}
		}
	}
	return broken("nothing was tried")
}

func main() {
	// Many of the calls are about the calling thread.
	runtime.LockOSThread()
	if len(os.Args) < 2 {
		fmt.Println("usage: attacker NAME [ARG...]")
		os.Exit(2)
	}
	if run, ok := compromised[os.Args[1]]; ok && filepath.Base(os.Args[0]) == "brig-gvisor" {
		if err := run(); err != nil {
			fmt.Fprintln(os.Stderr, "attacker:", err)
			os.Exit(1)
		}
		return
	}
	v := perform(os.Args[1:])
	fmt.Println(v.word, v.text)
	os.Exit(codes[v.word])
}

// codes are the exit codes.
var codes = map[string]int{"HELD": 0, "ESCAPED": 42, "BROKEN": 3}

// perform tries one attack.
func perform(args []string) verdict {
	tables := [][]attack{namespaceAttacks, mountAttacks, doorAttacks, processAttacks, socketAttacks, fileAttacks, identityAttacks, greedAttacks, archAttacks, imageAttacks, capturedAttacks}
	for _, a := range slices.Concat(tables...) {
		if a.name == args[0] {
			return a.try(args[1:])
		}
	}
	return broken("there is no attack %q", args[0])
}

// argument gives the value of an argument, or the default.
func argument(args []string, i int, def string) string {
	if i < len(args) {
		return args[i]
	}
	return def
}
