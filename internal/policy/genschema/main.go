// Command genschema writes internal/policy/schema.json from the Go types, so that the shipped binaries carry the text and
// not what reflects it.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"brig/internal/policy"

	"github.com/invopop/jsonschema"
)

func main() {
	text, err := generate()
	if err == nil {
		err = os.WriteFile(os.Args[1], text, 0o644) //nolint:gosec // a source file
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "genschema:", err)
		os.Exit(1)
	}
}

func generate() ([]byte, error) {
	r := jsonschema.Reflector{Anonymous: true, DoNotReference: true}
	s := r.Reflect(&policy.Policy{})
	s.ID = "https://brig.invalid/policy-v1.json"
	s.Title = "Brig policy"
	text, err := json.MarshalIndent(s, "", "  ")
	return append(text, '\n'), err
}
