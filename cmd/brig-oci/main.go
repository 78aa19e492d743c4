// Command brig-oci is the OCI runtime that engines call in place of runc.
package main

import (
	"os"

	"brig/internal/oci"
)

func main() { os.Exit(oci.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
