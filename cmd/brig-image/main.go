// Command brig-image is `brig image`: it pulls, keeps and shows images. brig executes it; it is a program of its own so that what
// talks to registries and reads strangers' archives is not in the one that starts sandboxes.
package main

import (
	"os"

	"brig/internal/imagecli"
)

func main() { os.Exit(imagecli.Run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
