package policy

import _ "embed"

//go:generate go run ./genschema schema.json

//go:embed schema.json
var schemaText []byte

// Schema is the JSON schema of a policy file.
func Schema() []byte { return schemaText }
