package testenv

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// What a layer did where it was asked for.
const (
	Enforced = "enforced" // an attack failed with it, and succeeded without it
	Refused  = "refused"  // the kernel has no such thing, and nothing was started
)

// Layer says what a test has proved of a layer on this kernel: a line of the table in docs/layers.md. It is called behind the
// proof, and says nothing for a test that has failed. How is the attack, or the message of the refusal.
func Layer(t testing.TB, layer, outcome, how string) {
	t.Helper()
	if t.Failed() {
		return
	}
	how = strings.ReplaceAll(strings.ReplaceAll(how, "\n", " "), "\t", " ")
	fmt.Fprintf(os.Stdout, "\nLAYER\t%s\t%s\t%s\t%s\n", layer, outcome, t.Name(), how)
}
