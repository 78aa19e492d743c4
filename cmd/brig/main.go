// Command brig runs programs that nobody trusts yet.
package main

import (
	"os"

	"brig/internal/cli"
)

func main() { os.Exit(cli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
