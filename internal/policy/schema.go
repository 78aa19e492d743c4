package policy

import (
	"encoding/json"

	"github.com/invopop/jsonschema"
)

// Schema is the JSON schema of a policy file, indented.
func Schema() ([]byte, error) {
	r := jsonschema.Reflector{Anonymous: true, DoNotReference: true}
	s := r.Reflect(&Policy{})
	s.ID = "https://brig.invalid/policy-v1.json"
	s.Title = "Brig policy"
	return json.MarshalIndent(s, "", "  ")
}
