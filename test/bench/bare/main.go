// Command bare runs a program in the same new namespaces as a sandbox's, and does nothing else: the smallest tool that
// the benchmark can compare Brig with as a whole process. It is called as bare ROOT PROGRAM [ARG...].
package main

import (
	"os"

	"brig/test/bench/fork"
)

func main() {
	if len(os.Args) < 3 {
		println("usage: bare ROOT PROGRAM [ARG...]")
		os.Exit(125)
	}
	if _, err := fork.Run(os.Args[2:], fork.Bare(os.Args[1], fork.Standard())); err != nil {
		println("bare: " + err.Error())
		os.Exit(125)
	}
}
