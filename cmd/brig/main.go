// Command brig runs programs that nobody trusts yet.
//
// Two of the runtime's habits cost a short process more than they give: reading its own CPU limit from cgroup files, and
// looking at it again every second.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"os"

	"brig/internal/cli"
)

func main() { os.Exit(cli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
