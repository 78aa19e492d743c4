// Command runsc is gVisor's own, of the release that brig-gvisor is made of: the peer that the benchmark measures Brig beside. Nothing
// of Brig uses it, and its Go module is its own.
package main

import "gvisor.dev/gvisor/runsc/cli/maincli"

func main() { maincli.Main() }
